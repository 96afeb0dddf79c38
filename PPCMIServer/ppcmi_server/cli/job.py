"""``ppcmi-server job``: trainings, under way and past."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy.orm import Session

from ppcmi.cli.console import Console
from ppcmi.cli.parsers import Groups, add_group
from ppcmi_server.cli.options import Command, add_command
from ppcmi_server.database.schema import Job, JobEpoch, Site
from ppcmi_server.models import curve, model_of_job
from ppcmi_server.storage.blobs import open_blobs
from ppcmi_server.training import jobs
from ppcmi_server.training.checkpoints import delete_checkpoints


def add_parsers(groups: Groups, summary: str) -> None:
    """The group's commands."""
    group = add_group(groups, "job", summary)
    add_command(group, "list", _list, "Every training job and how far it is.", "ppcmi-server job list")
    for name, run, words in (
        ("show", _show, "One training: its curve, how each site did, what its report says."),
        ("pause", _pause, "Put a training aside after its present step; 'job resume' goes on with it."),
        ("resume", _resume, "Put a training that was paused back into the queue."),
        ("stop", _stop, "Stop a training for good; no model comes of it."),
    ):
        parser = add_command(group, name, run, words, f"ppcmi-server job {name} 3")
        parser.add_argument("number", type=int, metavar="N", help="the job's number")


def _list(command: Command) -> int:
    with command.database.reading() as session:
        places = jobs.queue_positions(session)
        rows = [
            [
                str(job.id),
                task.name,
                f"{len(curve(session, job.id))}/{job.config['epochs']}",
                _state(command, job, places),
            ]
            for job, task in jobs.list_jobs(session)
        ]
    command.console.table(("Job", "Task", "Epochs", "State"), rows)
    return 0


def _show(command: Command) -> int:
    console, number = command.console, command.options.number
    with command.database.reading() as session:
        job = jobs.find_job(session, number)
        points, names = curve(session, number), site_names(session)
        model = model_of_job(session, number)
        console.result(f"Job {number}: {_state(command, job, jobs.queue_positions(session))}.")
    if job.batch_size is not None:
        console.result(f"Memory has room for {job.batch_size} slices at once.")
    if points:
        console.table(
            ("Epoch", "Loss", "Held-out cases", "Seconds"),
            [[str(p.epoch), f"{p.train_loss:.4f}", _number(p.validation_loss), f"{p.seconds:.1f}"] for p in points],
        )
    show_report(console, job, points, names)
    if model is not None:
        console.result(f"Model {model.number} came of it.")
    return 0


def site_names(session: Session) -> dict[str, str]:
    """Names of sites by id."""
    return {site.id: site.name for site in session.query(Site)}


def show_report(console: Console, job: Job, points: list[JobEpoch], names: Mapping[str, str]) -> None:
    """How each site did in a training, and what the report says of it."""
    if not job.report:
        return
    held_out = (points[-1].by_site or {}) if points else {}
    console.table(
        ("Site", "Slices", "Weight", "Held-out cases", "Fitted without it", "Verdict"),
        [
            [
                names.get(site["site"], site["site"]), str(site["slices"]), f"{site['weight']:g}",
                _number(held_out.get(site["site"])), _number(site["without"]), site["verdict"],
            ]
            for site in job.report["sites"]
        ],
    )  # fmt: skip
    for site in job.report["sites"]:
        if site["reason"]:
            console.result(f"{names.get(site['site'], site['site'])} is suspect: {site['reason']}.")
    for sentence in job.report["text"]:
        console.result(sentence)


def _pause(command: Command) -> int:
    with command.database.writing() as session:
        waits = jobs.request_pause(session, command.options.number)
    command.console.result("It is put aside within a few seconds." if waits else "Paused.")
    return 0


def _resume(command: Command) -> int:
    number = command.options.number
    with command.database.writing() as session:
        jobs.resume(session, number)
    command.console.result(f"Job {number} is in the queue again; a server that runs goes on with it.")
    return 0


def _stop(command: Command) -> int:
    number = command.options.number
    with command.database.writing() as session:
        jobs.request_stop(session, number)
    delete_checkpoints(open_blobs(command.config.storage, command.config.folder), number)
    command.console.result("Stopped.")
    return 0


def _state(command: Command, job: Job, places: Mapping[int, int]) -> str:
    if job.state == "running" and not jobs.is_alive(command.config, job):
        return "interrupted"
    if job.state == "queued":
        return f"queued, number {places[job.id]} in line"
    if job.pause_requested:
        return "running, to be paused"
    return f"{job.state}: {job.message}" if job.message and job.state in ("failed", "paused") else job.state


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"

"""``ppcmi-server train``: start a training, or go on with one that was interrupted, and show how it does.

The training runs in a process of its own; this one only looks on, and may end. Where a server runs, that starts it, and
takes it over if its process dies; else this command does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event
from typing import get_args

from ppcmi.cli.ending import noted_interruption
from ppcmi.cli.parsers import Groups
from ppcmi.device import choose_device
from ppcmi.errors import CancelledError, TrainingError
from ppcmi.scales import PRIVACY_PROFILES, Profile
from ppcmi_server import models
from ppcmi_server.cli.job import show_report, site_names
from ppcmi_server.cli.options import Command, add_command, task_named
from ppcmi_server.database.schema import Job, JobEpoch, Model
from ppcmi_server.intake.cohorts import sites_of_earlier_codec
from ppcmi_server.services import open_services
from ppcmi_server.training import jobs
from ppcmi_server.training.leases import CLAIMABLE
from ppcmi_server.training.supervisor import Supervisor, is_supervised
from ppcmi_server.umn.model import Preset

POLL_S = 0.3


def add_parsers(groups: Groups, summary: str) -> None:
    """The command."""
    parser = add_command(
        groups,
        "train",
        _train,
        summary,
        "ppcmi-server train hippocampus-mr",
    )
    parser.add_argument("task", metavar="TASK", help="the task's name")
    parser.add_argument(
        "--epochs",
        type=int,
        metavar="N",
        help="exactly so many passes over the data (default: as many as the preset says, more where data are few)",
    )
    parser.add_argument("--preset", choices=get_args(Preset), help="which network (default: the task's method's)")
    parser.add_argument(
        "--profile",
        choices=[str(p) for p in PRIVACY_PROFILES],
        help="which scales it maps (default: those that the sites sent)",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="of all that is random (default: 1)")
    parser.add_argument("--detach", action="store_true", help="do not wait for its end; see 'ppcmi-server job list'")


@dataclass(frozen=True)
class _Watched:
    """A job as it was last seen."""

    job: Job
    epochs: list[JobEpoch]
    model: Model | None


def _train(command: Command) -> int:
    options, console = command.options, command.console
    profile = None if options.profile is None else Profile(options.profile)
    request = jobs.TrainingRequest(options.preset, profile, options.epochs, options.seed)
    choose_device(options.device)  # an unknown one is an error now, not in the other process
    with command.database.writing() as session:
        task = task_named(session, options.task)
        job, new = jobs.queue_job(session, task, request)
        earlier = sites_of_earlier_codec(session, task)
        number, epochs = job.id, jobs.config_of(job).epochs
        working = jobs.is_alive(command.config, job)
    console.remark(
        f"Job {number} is under way; this shows how it does."
        if working
        else f"Job {number} {'starts' if new else 'goes on'}."
    )
    if new and earlier:
        console.remark(f"Left out are cohorts of an earlier codec, of {', '.join(earlier)}: to be exported again.")
    look_after = (
        _nothing if is_supervised(command.config) else Supervisor(open_services(command.config), only=number).look
    )
    look_after()
    if options.detach:
        console.result(f"Job {number} runs in the background; 'ppcmi-server job list' shows how far it is.")
        return 0
    already_shown = 0 if working else len(_look(command, number).epochs)  # those before an interruption were shown then
    with noted_interruption() as interrupted:
        model = _watch(command, number, (already_shown, epochs), look_after, interrupted)
    if model is None:
        raise CancelledError(
            f"No longer shown; job {number} goes on. 'ppcmi-server train {options.task}' shows it again, "
            f"'ppcmi-server job stop {number}' ends it."
        )
    _show_report(command, number)
    console.result(f"Model {model.number} is ready: {model.cases} cases, {model.slices} slices, {model.profile}.")
    console.remark(
        f"Next: the sites run 'ppcmi codec refine' and 'ppcmi model validate'; "
        f"then 'ppcmi-server model activate {options.task} {model.number}'."
    )
    return 0


def _watch(
    command: Command, number: int, epochs: tuple[int, int], look_after: Callable[[], None], interrupted: Event
) -> Model | None:
    """Show a job until it ends; its model, or None if nobody wants to see it any longer.

    :param epochs: how many need not be shown, and how many there are.
    :param look_after: called now and then.
    :raises TrainingError: if no model came of it, or it was paused.
    """
    console, started, (shown, total) = command.console, time.monotonic(), epochs
    while not interrupted.is_set():
        look_after()
        seen = _look(command, number)
        for point in seen.epochs[shown:]:
            console.progress(_line(point, total), last=True)
        shown = max(shown, len(seen.epochs))
        if seen.job.state not in CLAIMABLE:
            return _result(seen)
        console.progress(_waiting_for(seen, shown, total, time.monotonic() - started))
        interrupted.wait(POLL_S)
    return None


def _nothing() -> None:
    """A server that runs looks after the job."""


def _waiting_for(seen: _Watched, shown: int, total: int, seconds: float) -> str:
    if seen.job.state == "queued":
        return f"job {seen.job.id} waits for its turn, {seconds:.0f} s"
    return f"epoch {min(shown + 1, total)} of {total} is under way, {seconds:.0f} s"


def _look(command: Command, number: int) -> _Watched:
    with command.database.reading() as session:
        job = jobs.find_job(session, number)
        return _Watched(job, models.curve(session, number), models.model_of_job(session, number))


def _show_report(command: Command, number: int) -> None:
    with command.database.reading() as session:
        job, points, names = jobs.find_job(session, number), models.curve(session, number), site_names(session)
    show_report(command.console, job, points, names)


def _line(point: JobEpoch, epochs: int) -> str:
    held_out = "" if point.validation_loss is None else f", held-out cases {point.validation_loss:.4f}"
    return f"epoch {point.epoch} of {epochs}: loss {point.train_loss:.4f}{held_out}, {point.seconds:.1f} s"


def _result(seen: _Watched) -> Model:
    if seen.job.state == "done" and seen.model is not None:
        return seen.model
    if seen.job.state == "paused":
        why = "The job was paused." if seen.job.message is None else f"The job was paused. {seen.job.message}"
        raise TrainingError(f"{why} 'ppcmi-server job resume {seen.job.id}' goes on with it.")
    raise TrainingError(seen.job.message or f"No model came of it; the job is {seen.job.state}.")

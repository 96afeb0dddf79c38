"""``ppcmi-server train``: start a training, or go on with one that was interrupted, and show how it does.

The training runs in a process of its own; this one only looks on, and may end.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from subprocess import Popen
from threading import Event

from ppcmi.cli.ending import noted_interruption
from ppcmi.cli.parsers import Groups
from ppcmi.device import choose_device
from ppcmi.errors import CancelledError, TrainingError
from ppcmi.scales import Profile
from ppcmi_server import jobs, models
from ppcmi_server.cli.options import Command, add_command, task_named
from ppcmi_server.database.schema import JobEpoch, Model
from ppcmi_server.worker import spawn

POLL_S = 0.3
GONE_S = 5.0
"""How long a worker may take to get hold of its lock."""


def add_parsers(groups: Groups) -> None:
    """The command."""
    parser = add_command(
        groups,
        "train",
        _train,
        "Train a model on all whole cohorts of a task. A training that was interrupted goes on from its checkpoint.",
        "ppcmi-server train hippocampus-mr",
    )
    parser.add_argument("task", metavar="TASK", help="the task's name")
    parser.add_argument(
        "--epochs",
        type=int,
        metavar="N",
        help="exactly so many passes over the data (default: as many as the preset says, more where data are few)",
    )
    parser.add_argument("--preset", choices=("default", "paper"), help="which network (default: default)")
    parser.add_argument(
        "--profile", choices=[str(p) for p in Profile], help="which scales it maps (default: those that the sites sent)"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="of all that is random (default: 1)")
    parser.add_argument("--detach", action="store_true", help="do not wait for its end; see 'ppcmi-server job list'")


@dataclass(frozen=True)
class _Watched:
    """A job as it was last seen."""

    state: str
    message: str | None
    epochs: list[JobEpoch]
    model: Model | None


def _train(command: Command) -> int:
    options, console = command.options, command.console
    profile = None if options.profile is None else Profile(options.profile)
    request = jobs.TrainingRequest(options.preset, profile, options.epochs, options.seed)
    choose_device(options.device)  # an unknown one is an error now, not in the other process
    with command.database.writing() as session:
        job, new = jobs.queue_job(session, task_named(session, options.task), request)
        number, epochs = job.id, jobs.config_of(job).epochs
        working = jobs.is_running(command.config, job)
    console.remark(
        f"Job {number} is under way; this shows how it does."
        if working
        else f"Job {number} {'starts' if new else 'goes on'}."
    )
    worker = None if working else spawn(command.config, number)
    if options.detach:
        console.result(f"Job {number} runs in the background; 'ppcmi-server job list' shows how far it is.")
        return 0
    with noted_interruption() as interrupted:
        model = _watch(command, number, epochs, worker, interrupted)
    if model is None:
        raise CancelledError(
            f"No longer shown; job {number} goes on. 'ppcmi-server train {options.task}' shows it again, "
            f"'ppcmi-server job stop {number}' ends it."
        )
    console.result(f"Model {model.number} is ready: {model.cases} cases, {model.slices} slices, {model.profile}.")
    console.remark(
        f"Next: the sites run 'ppcmi codec refine' and 'ppcmi model validate'; "
        f"then 'ppcmi-server model activate {options.task} {model.number}'."
    )
    return 0


def _watch(command: Command, number: int, epochs: int, worker: Popen[bytes] | None, interrupted: Event) -> Model | None:
    """Show a job until it ends; its model, or None if nobody wants to see it any longer.

    :raises TrainingError: if no model came of it.
    """
    console, shown, started, gone_since = command.console, -1, time.monotonic(), None
    while not interrupted.is_set():
        gone = not _is_alive(command, number, worker)
        seen = _look(command, number)
        if shown < 0:
            shown = len(seen.epochs) if worker is not None else 0  # those before an interruption were shown then
        for point in seen.epochs[shown:]:
            console.progress(_line(point, epochs), last=True)
        shown = len(seen.epochs)
        if seen.state not in jobs.UNFINISHED:
            return _result(seen)
        gone_since = (gone_since or time.monotonic()) if gone else None
        if gone_since is not None and (worker is not None or time.monotonic() - gone_since > GONE_S):
            raise TrainingError(
                f"The process of job {number} has ended before its time; the same command again goes on from its "
                "checkpoint. The job's log is in the server's folder, under jobs."
            )
        console.progress(f"epoch {shown + 1} of {epochs} is under way, {time.monotonic() - started:.0f} s")
        interrupted.wait(POLL_S)
    return None


def _is_alive(command: Command, number: int, worker: Popen[bytes] | None) -> bool:
    if worker is not None:
        return worker.poll() is None
    with command.database.reading() as session:
        return jobs.is_running(command.config, jobs.find_job(session, number))


def _look(command: Command, number: int) -> _Watched:
    with command.database.reading() as session:
        job = jobs.find_job(session, number)
        return _Watched(job.state, job.message, models.curve(session, number), models.model_of_job(session, number))


def _line(point: JobEpoch, epochs: int) -> str:
    held_out = "" if point.validation_loss is None else f", held-out cases {point.validation_loss:.4f}"
    return f"epoch {point.epoch} of {epochs}: loss {point.train_loss:.4f}{held_out}, {point.seconds:.1f} s"


def _result(seen: _Watched) -> Model:
    if seen.model is not None:
        return seen.model
    raise TrainingError(seen.message or f"No model came of it; the job is {seen.state}.")

"""Who works on a training job: leases in the database, so that no job has two workers and a dead one's is taken over.

A job is claimed in one writing transaction, which counts its ``fence`` up. The worker's sign of life is ``heartbeat``,
which it counts up; every transaction of the worker does so first, under the same condition (:func:`hold`): who has lost
the job writes no more. Whoever watches calls a worker dead when the heartbeat stands still for a while by the watcher's
own clock: no two machines' clocks are compared. On its own machine a worker also holds a file lock, which ends with it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from sqlalchemy import CursorResult, update
from sqlalchemy.orm import Session

from ppcmi.locks import is_locked
from ppcmi_server.config import ServerConfig
from ppcmi_server.database.schema import Job
from ppcmi_server.errors import OperatorError

CLAIMABLE = ("queued", "running")
START_SECONDS = 60.0
"""How long a worker may take from the claim to its first sign of life, unless the lease is longer."""


@dataclass(frozen=True)
class Lease:
    """A claim of a job: by whom, and the how many-th it is."""

    job: int
    worker: str
    fence: int


class LeaseLostError(OperatorError):
    """The job is another worker's by now, or has ended."""


def claim(session: Session, job: Job) -> Lease | None:
    """Claim a job that nobody works on, as it was read; None if it changed since: its worker lives, or another has it.

    :param job: as it was when it was found to be free.
    """
    lease = Lease(job.id, secrets.token_hex(8), job.fence + 1)
    unchanged = (Job.id == job.id, Job.fence == job.fence, Job.heartbeat == job.heartbeat, Job.state.in_(CLAIMABLE))
    claimed = _changes_one(
        session, unchanged,
        state="running", worker=lease.worker, fence=lease.fence, heartbeat=0, attempts=Job.attempts + 1,
    )  # fmt: skip
    return lease if claimed else None


def hold(session: Session, lease: Lease) -> Job:
    """Give a sign of life and keep the job until the transaction ends.

    :raises LeaseLostError: if it is not the worker's any longer; nothing may be written then.
    """
    if not _changes_one(session, _held(lease), heartbeat=Job.heartbeat + 1):
        raise LeaseLostError("The job is another worker's by now, or has ended; nothing more is written.")
    return session.get_one(Job, lease.job, populate_existing=True)


def hand_back(session: Session, lease: Lease, trouble: str | None = None) -> str:
    """Give the job up unfinished, to be gone on with; its state: ``paused`` if that is wanted by now, else ``queued``.

    :param trouble: a sentence on what hindered it that is no fault of the job's; kept until the job gets on.
    :raises LeaseLostError: as :func:`hold`.
    """
    job = hold(session, lease)
    return _release(job, "paused" if job.pause_requested else "queued", trouble or job.message)


def put_aside(session: Session, lease: Lease, why: str) -> None:
    """Pause the job, with a sentence that says why.

    :raises LeaseLostError: as :func:`hold`.
    """
    _release(hold(session, lease), "paused", why)


def lock_file(config: ServerConfig, job: int, worker: str) -> Path:
    """What a worker holds while it lives; makes the job's folder."""
    folder = config.job_folder(job)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / f"{worker}.lock"


def died_here(config: ServerConfig, job: Job) -> bool:
    """Whether the job's worker was of this machine and has ended without a word."""
    if job.state != "running" or job.worker is None:
        return False
    lock = config.job_folder(job.id) / f"{job.worker}.lock"
    return lock.exists() and not is_locked(lock)


def lives_here(config: ServerConfig, job: Job) -> bool:
    """Whether the job's worker is a process of this machine."""
    return job.worker is not None and is_locked(config.job_folder(job.id) / f"{job.worker}.lock")


class Watch:
    """Tells living workers from dead ones, by when their heartbeat was last seen to change.

    :param lease_seconds: without a sign of life.
    :param clock: monotonic seconds.
    """

    def __init__(self, lease_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._seen: dict[int, tuple[tuple[int, int], float]] = {}

    def is_dead(self, job: Job) -> bool:
        """Whether a running job's worker gave no sign of life for too long; to be asked now and then."""
        sign, now = (job.fence, job.heartbeat), self._clock()
        last = self._seen.get(job.id)
        if last is None or last[0] != sign:
            self._seen[job.id] = (sign, now)
            return False
        patience = self._lease_seconds if job.heartbeat else max(self._lease_seconds, START_SECONDS)
        return now - last[1] > patience


def _held(lease: Lease) -> tuple[Any, ...]:
    return (Job.id == lease.job, Job.worker == lease.worker, Job.fence == lease.fence, Job.state == "running")


def _release(job: Job, state: str, message: str | None) -> str:
    job.state, job.worker, job.pause_requested, job.message = state, None, False, message
    job.attempts = max(0, job.attempts - 1)  # the claim that ends here is not one whose worker died
    return state


def _changes_one(session: Session, where: tuple[Any, ...], **values: Any) -> bool:
    changed = session.execute(
        update(Job).where(*where).values(**values), execution_options={"synchronize_session": False}
    )
    return cast("CursorResult[Any]", changed).rowcount == 1

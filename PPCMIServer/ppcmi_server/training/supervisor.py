"""Starts workers for jobs that wait, takes over jobs whose worker is dead, gives up those whose workers always die.

``ppcmi-server serve`` has one in a thread, and ``ppcmi-server train`` uses one for its job where no server runs. Any
number of them may watch one database: a claim (:mod:`ppcmi_server.training.leases`) decides who starts a job. Workers
are processes of their own and outlive the supervisor; the next one finds them by their signs of life.
"""

from __future__ import annotations

import logging
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from ppcmi.locks import is_locked
from ppcmi_server.config import ServerConfig
from ppcmi_server.database.schema import Job
from ppcmi_server.operation.logs import log_error
from ppcmi_server.services import Services
from ppcmi_server.training import jobs
from ppcmi_server.training.checkpoints import may_have_checkpoints, sweep_checkpoints
from ppcmi_server.training.leases import (
    Lease,
    LeaseLostError,
    Watch,
    claim,
    died_here,
    hand_back,
    lives_here,
    put_aside,
)
from ppcmi_server.training.worker import TROUBLE_CODE, Spawn, spawn, trouble

LOG = logging.getLogger(__name__)
ROUND_SECONDS = 1.0
SWEEP_SECONDS = 86_400.0
RETRY_BASE_S = 4.0
LONGEST_WAIT = 5
"""Power of the base that is waited between two attempts at most: 17 minutes."""
TROUBLES = 100
"""How often in a row a job may come back for want of database, disk or blob store, before it is paused: about a day."""
SERVE_LOCK = "serve.lock"


@dataclass(frozen=True)
class _Child:
    lease: Lease
    process: subprocess.Popen[bytes]


@dataclass(frozen=True)
class _Troubles:
    """How often in a row a job came back for want of something that is no fault of its own.

    :param fence: number of the claim that was counted last.
    """

    fence: int
    count: int


class Supervisor:
    """See the module.

    :param only: the one job to care for; None for all.
    :param start_worker: starts a worker for a claim.
    :param monotonic: seconds, by which signs of life are missed.
    :param retry_base_s: the nth attempt in a row without getting on waits so many seconds to the power of n - 1, but
        not of more than :data:`LONGEST_WAIT`.
    """

    def __init__(
        self,
        services: Services,
        *,
        only: int | None = None,
        start_worker: Spawn = spawn,
        monotonic: Callable[[], float] = time.monotonic,
        retry_base_s: float = RETRY_BASE_S,
    ) -> None:
        self._services, self._only, self._start_worker = services, only, start_worker
        self._settings = services.config.training
        self._monotonic = monotonic
        self._watch = Watch(self._settings.lease_seconds, monotonic)
        self._children: dict[int, _Child] = {}
        self._not_before: dict[int, float] = {}
        self._troubles: dict[int, _Troubles] = {}
        self._retry_base_s = retry_base_s
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Look after jobs from a thread, unless this machine trains nothing."""
        if self._settings.workers:
            self._thread = threading.Thread(target=self._run, name="ppcmi-supervisor", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the thread; workers go on."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def look(self) -> None:
        """One round over all jobs."""
        with self._services.database.reading() as session:
            unfinished = [job for job in jobs.unfinished_jobs(session) if self._only in (None, job.id)]
        self._reap({job.id: job for job in unfinished})
        for job in unfinished:
            self._note_trouble(job)
        free = [job for job in unfinished if job.state != "paused" and self._is_free(job)]
        room = self._settings.workers - sum(self._works_here(job) for job in unfinished)
        for job in free:
            if job.pause_requested:
                self._set_aside(job)
            elif job.attempts >= self._settings.attempts or self._troubles_of(job) >= TROUBLES:
                self._give_up(job)
            elif room > 0 or self._only is not None:
                room -= self._run_job(job)

    def _run(self) -> None:
        next_sweep = self._monotonic()
        while not self._ended.is_set():
            if self._monotonic() >= next_sweep:
                self._guarded(self._sweep)
                next_sweep = self._monotonic() + SWEEP_SECONDS
            self._guarded(self.look)
            self._ended.wait(ROUND_SECONDS)

    def _guarded(self, step: Callable[[], None]) -> None:
        """A step whose failure is logged and tried again in the next round."""
        try:
            step()
        except Exception as error:  # one job's trouble, or a moment's, must not end the others' trainings
            log_error("supervisor-failed", error)

    def _sweep(self) -> None:
        with self._services.database.reading() as session:
            sweep_checkpoints(session, self._services.blobs)

    def _reap(self, unfinished: dict[int, Job]) -> None:
        """Forget workers that ended, but for those whose jobs have to be taken over."""
        for number, child in list(self._children.items()):
            job, ended = unfinished.get(number), child.process.poll()
            is_its_own = job is not None and job.worker is not None and job.fence == child.lease.fence
            if ended == TROUBLE_CODE and is_its_own:
                self._hand_back(child.lease, trouble())  # the worker could not write it; the next round sees it
            elif ended is not None and not is_its_own:
                del self._children[number]

    def _note_trouble(self, job: Job) -> None:
        """Count each time that a job was handed back with a sentence on what does not work, until it has got on."""
        if job.message is None:
            self._troubles.pop(job.id, None)
        elif job.worker is None and self._troubles.get(job.id, _Troubles(-1, 0)).fence != job.fence:
            self._troubles[job.id] = _Troubles(job.fence, self._troubles_of(job) + 1)
            self._wait(job.id, self._troubles_of(job))

    def _troubles_of(self, job: Job) -> int:
        return self._troubles[job.id].count if job.id in self._troubles else 0

    def _wait(self, job: int, times: int) -> None:
        self._not_before[job] = self._monotonic() + self._retry_base_s ** min(times, LONGEST_WAIT)

    def _is_free(self, job: Job) -> bool:
        """Whether nobody works on the job, as far as can be told, and it is time to try again."""
        if (job.attempts or self._troubles_of(job)) and self._monotonic() < self._not_before.get(job.id, 0.0):
            return False
        child = self._children.get(job.id)
        own = child is not None and child.lease.fence == job.fence
        if job.worker is None or (child is not None and own and child.process.poll() is not None):
            return True
        return self._watch.is_dead(job) or (not own and died_here(self._services.config, job))

    def _works_here(self, job: Job) -> bool:
        child = self._children.get(job.id)
        return (child is not None and child.process.poll() is None) or lives_here(self._services.config, job)

    def _run_job(self, job: Job) -> bool:
        """Claim a job and start its worker; whether this supervisor got it."""
        with self._services.database.writing() as session:
            lease = claim(session, job)
        if lease is None:
            return False
        self._wait(job.id, job.attempts + 1)
        old = self._children.pop(job.id, None)
        if old is not None:
            old.process.kill()  # it has ended, or gave no sign of life for too long
            old.process.wait()
        try:
            self._children[job.id] = _Child(lease, self._start_worker(self._services.config, lease))
        except OSError as error:  # e.g. no room for its log
            self._hand_back(lease, trouble(error))
            log_error("job-not-started", error)
            return False
        LOG.info("job-started", extra={"fields": {"job": job.id, "attempt": job.attempts + 1}})
        return True

    def _give_up(self, job: Job) -> None:
        """Try no more: a job has failed only where it is to blame and nothing is lost; else the operator may go on."""
        kept = may_have_checkpoints(self._services.blobs, job.id)
        with self._services.database.writing() as session:
            lease = claim(session, job)
            if lease is None:
                return
            if job.message is not None:
                put_aside(session, lease, f"{job.message} {_MEND}")
            elif kept:
                put_aside(session, lease, f"{_died(job)} {_GO_ON}")
            else:
                jobs.finish(session, lease, "failed", f"{_died(job)} {_TRAIN_ANEW}")
        LOG.warning("job-given-up", extra={"fields": {"job": job.id}})

    def _set_aside(self, job: Job) -> None:
        """A job that was to be paused when its worker died."""
        with self._services.database.writing() as session:
            lease = claim(session, job)
            if lease is not None:
                hand_back(session, lease)

    def _hand_back(self, lease: Lease, why: str) -> None:
        """What a worker does that can; nothing if the job is another's by now."""
        with suppress(LeaseLostError), self._services.database.writing() as session:
            hand_back(session, lease, why)


_MEND = "It was tried again and again. See the job's log, mend what is broken, then resume it: it goes on as it was."
_GO_ON = "See the job's log, and resume it where there is more memory: it goes on from its checkpoint."
_TRAIN_ANEW = "See the job's log, and train on fewer scales or on a machine with more memory."


def _died(job: Job) -> str:
    return f"Its process died {job.attempts} times without getting on, perhaps for want of memory."


def is_supervised(config: ServerConfig) -> bool:
    """Whether a server runs here that starts trainings."""
    return config.training.workers > 0 and is_locked(config.folder / SERVE_LOCK)

"""One training job in a process of its own: ``python -m ppcmi_server.training.worker FOLDER JOB WORKER FENCE``.

Whoever claimed the job starts it (:mod:`ppcmi_server.training.supervisor`). It ends with the job done or failed, or
hands it back; killed, it leaves checkpoints that the next worker goes on from. Where the database, the disk or the blob
store does not work, it hands the job back too, for another attempt that does not count as one. Once its server's folder
is gone, it ends and writes nothing more. What it prints goes into the job's log.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from ppcmi.errors import CancelledError, PpcmiError, TrainingError, WriteError
from ppcmi.locks import hold_lock
from ppcmi_server import clock
from ppcmi_server.config import ServerConfig, load_config
from ppcmi_server.database.engine import Database
from ppcmi_server.errors import OperatorError, RefusalError
from ppcmi_server.operation.logs import configure_logging, describe
from ppcmi_server.services import Services, open_services
from ppcmi_server.training import jobs, leases
from ppcmi_server.training.checkpoints import Point, delete_checkpoints, nowhere
from ppcmi_server.training.leases import Lease, LeaseLostError
from ppcmi_server.training.train_job import ServerGoneError, TrainingOfJob
from ppcmi_server.umn.training import is_out_of_memory

LOG_NAME = "log"
STOP_POLL_S = 0.5
BEATS_A_LEASE = 5
LOCK_PATIENCE_S = 3.0
TROUBLE = (SQLAlchemyError, OSError, RefusalError, WriteError)
"""What says that the database, the disk or the blob store does not work: no fault of the job's."""
TROUBLE_CODE = 75
"""Exit code of a worker that met it: for now it does not work (EX_TEMPFAIL of BSD's sysexits.h)."""

Spawn = Callable[[ServerConfig, Lease], "subprocess.Popen[bytes]"]
"""Starts a worker for a claim."""


def spawn(config: ServerConfig, lease: Lease) -> subprocess.Popen[bytes]:
    """Start a worker that outlives whoever started it."""
    unbuffered = "-u"  # what a full disk does not take of the log shall not come up again as the process ends
    return spawn_program((sys.executable, unbuffered, "-m", "ppcmi_server.training.worker"), config, lease)


def spawn_program(program: Sequence[str], config: ServerConfig, lease: Lease) -> subprocess.Popen[bytes]:
    """Start ``program`` as the worker of a claim."""
    leases.lock_file(config, lease.job, lease.worker)
    log = os.open(config.job_folder(lease.job) / LOG_NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    job, fence, device = str(lease.job), str(lease.fence), config.training.device
    command = [*program, str(config.folder), job, lease.worker, fence, "--device", device]
    try:
        return subprocess.Popen(  # noqa: S603 - our own interpreter and module
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    finally:
        os.close(log)


def main(arguments: Sequence[str] | None = None, at: Point = nowhere) -> int:
    """Run a job that was claimed; the process's exit code."""
    parser = argparse.ArgumentParser(prog="ppcmi_server.training.worker", description="Runs one training job.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("job", type=int)
    parser.add_argument("worker")
    parser.add_argument("fence", type=int)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    lease = Lease(options.job, options.worker, options.fence)
    try:
        config = load_config(options.folder, os.environ).on_device(options.device)
        configure_logging(config.log, sys.stdout)
        services = open_services(config)
        lock = leases.lock_file(services.config, lease.job, lease.worker)
        with hold_lock(lock, OperatorError("Another process works on this job."), patience_s=LOCK_PATIENCE_S):
            code = work(services, lease, at)
        lock.unlink(missing_ok=True)
    except TROUBLE as error:
        _say(trouble(error))
        return TROUBLE_CODE
    except PpcmiError as error:
        _say(str(error))
        return error.exit_code
    return code


def trouble(error: Exception | None = None) -> str:
    """What a job is said to have met that is handed back."""
    kind = "" if error is None else f" ({type(error).__name__})"
    return f"The database, the disk or the blob store did not work{kind}."


def work(services: Services, lease: Lease, at: Point = nowhere) -> int:
    """Do a job that was claimed to its end, whatever that is; an exit code. To be called in the main thread."""
    signs = Signs(services.database, lease)
    previous = signal.signal(signal.SIGTERM, signs.terminate)
    at("claimed")
    try:
        with Heartbeat(services.database, lease, services.config.training.lease_seconds / BEATS_A_LEASE):
            return _work(services, lease, signs, at)
    finally:
        signal.signal(signal.SIGTERM, previous)


class Signs:
    """What tells a worker to end; called before every batch, it says whether to.

    ``lost``: the job is another's, or was stopped. ``paused``: the operator wants it put aside. ``terminated``: the
    process was told to end.
    """

    def __init__(self, database: Database, lease: Lease) -> None:
        self._database = database
        self._lease = lease
        self._next_look = 0.0
        self.lost = self.paused = self.terminated = False

    def __call__(self) -> bool:
        """Whether to end; looks into the database now and then."""
        if time.monotonic() >= self._next_look:
            self._look()
            self._next_look = time.monotonic() + STOP_POLL_S
        return self.lost or self.paused or self.terminated

    def terminate(self, *_: object) -> None:
        """End after this batch; the job goes back to the queue. A signal handler."""
        self.terminated = True

    def _look(self) -> None:
        try:
            with self._database.reading() as session:
                job = jobs.find_job(session, self._lease.job)
        except SQLAlchemyError:
            return  # whatever is written will tell
        self.lost = (job.worker, job.fence) != (self._lease.worker, self._lease.fence)
        self.paused = job.pause_requested


class Heartbeat:
    """Gives signs of life from a thread while the context lasts; a database that does not answer is asked again."""

    def __init__(self, database: Database, lease: Lease, pause_s: float) -> None:
        self._database, self._lease, self._pause_s = database, lease, pause_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="ppcmi-heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _beat(self) -> None:
        while True:
            try:
                with self._database.writing() as session:
                    leases.hold(session, self._lease)
            except LeaseLostError:
                return
            except SQLAlchemyError as error:
                _say(f"no sign of life could be given ({type(error).__name__})")
            if self._ended.wait(self._pause_s):
                return


def _work(services: Services, lease: Lease, signs: Signs, at: Point) -> int:
    try:
        return _run(services, lease, signs, at)
    except LeaseLostError as error:
        return _lost(services, lease, error)
    except ServerGoneError as error:
        _say(str(error))
        return error.exit_code
    except TROUBLE as error:
        return _leave(services, lease, error)


def _run(services: Services, lease: Lease, signs: Signs, at: Point) -> int:
    try:
        model = TrainingOfJob(services, lease, signs, _say, at).run()
    except CancelledError as error:
        return _hand_back(services, lease, error)
    except (LeaseLostError, ServerGoneError, *TROUBLE):
        raise
    except Exception as error:
        return _fail(services, lease, error)
    _say(f"model {model} is ready")
    return 0


def _hand_back(services: Services, lease: Lease, error: CancelledError) -> int:
    """As the operator wants it by now: what was asked for while the last checkpoint was written counts."""
    with services.database.writing() as session:
        state = leases.hand_back(session, lease)
    _say("paused" if state == "paused" else "the job waits for another worker")
    return error.exit_code


def _leave(services: Services, lease: Lease, error: Exception) -> int:
    """Hand the job back for another attempt; where not even that can be written, the exit code tells."""
    _say(trouble(error))
    try:
        with services.database.writing() as session:
            leases.hand_back(session, lease, trouble(error))
    except LeaseLostError as lost:
        return _lost(services, lease, lost)
    except SQLAlchemyError as unwritten:
        _say(f"nor can that be written ({type(unwritten).__name__})")
    return TROUBLE_CODE


def _lost(services: Services, lease: Lease, error: LeaseLostError) -> int:
    state = None
    with suppress(*TROUBLE):  # a sweep removes what is left
        with services.database.reading() as session:
            state = jobs.find_job(session, lease.job).state
        if state not in jobs.UNFINISHED:
            delete_checkpoints(services.blobs, lease.job)
    _say("stopped" if state == "stopped" else str(error))
    return error.exit_code


def _fail(services: Services, lease: Lease, failure: Exception) -> int:
    """Record a failure, unless it is recorded already, or not this worker's any more."""
    exit_code = failure.exit_code if isinstance(failure, PpcmiError) else TrainingError.exit_code
    sentence = _sentence(failure)
    _say(sentence)
    with services.database.writing() as session:
        jobs.finish(session, lease, "failed", sentence)
    with suppress(*TROUBLE):  # a sweep removes what is left
        delete_checkpoints(services.blobs, lease.job)
    return exit_code


def _sentence(failure: Exception) -> str:
    if isinstance(failure, PpcmiError):
        return str(failure)
    if is_out_of_memory(failure):
        return "Memory is too small for the training's data; lower training.memory_bytes or add memory."
    _say(" ".join(f"{name}={value}" for name, value in describe(failure).items()))
    return f"It failed unexpectedly ({type(failure).__name__}); see the job's log."


def _say(text: str) -> None:
    with suppress(OSError):  # a log that takes nothing, on a full disk, ends no training
        sys.stdout.write(f"{clock.now()} {text}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

"""One training job in a process of its own: ``python -m ppcmi_server.worker FOLDER JOB``.

Ends with the job done, failed or stopped; killed, it leaves a checkpoint that the next worker goes on from. What it
prints goes into the job's log.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch
from sqlalchemy.orm import Session

from ppcmi.device import choose_device
from ppcmi.errors import CancelledError, PpcmiError, TrainingError
from ppcmi.locks import hold_lock
from ppcmi.task import parse_task
from ppcmi_server import __version__, audit, clock, jobs, models
from ppcmi_server.config import ServerConfig, load_config
from ppcmi_server.database.engine import Database
from ppcmi_server.database.schema import Consortium, Job, Model, Task
from ppcmi_server.errors import OperatorError
from ppcmi_server.services import Services, open_services
from ppcmi_server.training_data import load_dataset, stored_cohorts
from ppcmi_server.umn.dataset import LatentDataset
from ppcmi_server.umn.training import EpochReport, UmnConfig, train_umn

LOG_NAME = "log"
STOP_POLL_S = 0.5
LOCK_PATIENCE_S = 3.0
LOAD_ATTEMPTS = 5


def spawn(config: ServerConfig, job: int) -> subprocess.Popen[bytes]:
    """Start a worker that outlives whoever started it."""
    jobs.lock_file(config, job)
    log = os.open(config.job_folder(job) / LOG_NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    device = config.training.device
    command = [sys.executable, "-m", "ppcmi_server.worker", str(config.folder), str(job), "--device", device]
    try:
        return subprocess.Popen(  # noqa: S603 - our own interpreter and module
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    finally:
        os.close(log)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a job; its exit code."""
    parser = argparse.ArgumentParser(prog="ppcmi_server.worker", description="Runs one training job.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("job", type=int)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    try:
        services = open_services(load_config(options.folder, os.environ).on_device(options.device))
        lock = jobs.lock_file(services.config, options.job)
        with hold_lock(lock, OperatorError("Another process works on this job."), patience_s=LOCK_PATIENCE_S):
            return _run_and_record(services, options.job)
    except PpcmiError as error:
        _say(str(error))
        return error.exit_code


def run_job(services: Services, number: int, stop: StopSignal) -> int:
    """Train, go on or finish, then register the model; its number. The caller holds the job's lock.

    :raises PpcmiError: if it cannot; CancelledError when stopped.
    """
    config, dataset = _claim_and_load(services, number)
    _say(f"{len(dataset)} slices")

    def report(epoch: EpochReport) -> None:
        _say(f"epoch {epoch.epoch} of {epoch.epochs}: {epoch.train_loss:.5f}, {epoch.seconds:.1f} s")
        with services.database.writing() as session:
            jobs.record_epoch(session, number, epoch)

    folder = services.config.job_folder(number)
    device = choose_device(services.config.training.device)
    umn = train_umn(dataset, config, folder, report=report, should_stop=stop, device=device)
    file = services.config.models_folder / f"job-{number}.safetensors"
    umn.save(file)
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    with services.database.writing() as session:
        model = _register(session, number, dataset, file.name, digest)
    jobs.delete_checkpoint(services.config, number)
    return model


class StopSignal:
    """True once the operator has asked for the job's end, or the process was told to end."""

    def __init__(self, database: Database, job: int) -> None:
        self._database = database
        self._job = job
        self._next_look = 0.0
        self.asked = False
        self.terminated = False

    def __call__(self) -> bool:
        """Whether to end; looks into the database now and then."""
        if not self.asked and time.monotonic() >= self._next_look:
            with self._database.reading() as session:
                self.asked = jobs.find_job(session, self._job).stop_requested
            self._next_look = time.monotonic() + STOP_POLL_S
        return self.asked or self.terminated

    def terminate(self, *_: object) -> None:
        """End after this batch; the job stays unfinished. A signal handler."""
        self.terminated = True


def _claim_and_load(services: Services, number: int) -> tuple[UmnConfig, LatentDataset]:
    for _ in range(LOAD_ATTEMPTS):
        with services.database.writing() as session:
            job = jobs.claim(session, services.config, number)
            task = session.get_one(Task, job.task_id)
            cohorts = stored_cohorts(session, jobs.cohorts_of(session, job))
        config = jobs.config_of(job)
        try:
            return config, load_dataset(services, parse_task(task.document), config.profile, cohorts)
        except FileNotFoundError:
            continue  # withdrawn while it was read; the next claim leaves it out
    raise TrainingError("A cohort's bytes are missing; restore the blobs from a backup, or have the cohort withdrawn.")


def _run_and_record(services: Services, number: int) -> int:
    stop = StopSignal(services.database, number)
    signal.signal(signal.SIGTERM, stop.terminate)
    try:
        model = run_job(services, number, stop)
    except CancelledError as error:
        if stop.asked:
            _finish(services, number, "stopped", "The operator stopped it.")
        _say("stopped" if stop.asked else "ended by a signal; the job is unfinished")
        return error.exit_code
    except PpcmiError as error:
        _finish(services, number, "failed", str(error))
        raise
    except Exception as error:
        _say(f"{type(error).__name__}\n{''.join(traceback.format_tb(error.__traceback__))}")
        _finish(services, number, "failed", f"It failed unexpectedly ({type(error).__name__}); see the job's log.")
        return TrainingError.exit_code
    _say(f"model {model} is ready")
    return 0


def _finish(services: Services, number: int, state: str, message: str) -> None:
    with services.database.writing() as session:
        if jobs.find_job(session, number).state in jobs.UNFINISHED:
            jobs.finish(session, number, state, message)
    jobs.delete_checkpoint(services.config, number)


def _register(session: Session, number: int, dataset: LatentDataset, file: str, digest: str) -> int:
    job = session.get_one(Job, number)
    task = session.get_one(Task, job.task_id)
    consortium = session.get_one(Consortium, task.id)
    config = jobs.config_of(job)
    checks = jobs.codec_checks(jobs.cohorts_of(session, job))
    model = Model(
        task_id=task.id, number=models.next_number(session, task.id), job_id=number, state="ready",
        preset=config.preset, profile=config.profile.value, mode=consortium.mode, scope=consortium.scope,
        codecs={codec: checks[codec] for codec in dataset.codecs}, config=job.config, seed=config.seed,
        code_version=f"ppcmi-server {__version__}, torch {torch.__version__}",
        file=file, file_digest=digest,
        cases=len(torch.unique(dataset.case)), slices=int((dataset.variant == 0).sum()),
        withdrawn_data=jobs.was_withdrawn(session, job), created=clock.now(),
    )  # fmt: skip
    session.add(model)
    jobs.finish(session, number, "done")
    audit.record(session, audit.OPERATOR, "model.create", task=task.name, model=model.number, job=number)
    return model.number


def _say(text: str) -> None:
    sys.stdout.write(f"{clock.now()} {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

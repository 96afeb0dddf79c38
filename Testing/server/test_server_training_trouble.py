"""Trainings that are hindered: disks and stores that do not work, orders that cross, kills at the end."""

import dataclasses
import errno
import os
import signal
import subprocess
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from ppcmi_server import models, tasks
from ppcmi_server.database.schema import Job, JobCohort
from ppcmi_server.storage.blobs import BlobStore
from ppcmi_server.training import jobs, leases, supervisor, worker
from ppcmi_server.training.checkpoints import sweep_checkpoints
from ppcmi_server.training.supervisor import Supervisor
from ppcmi_server.training.train_job import TrainingOfJob
from support.app_server import TASK, app_server

ATTEMPTS = 2
CHECKPOINT = "000001-000000007"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A server, a site and its cohort."""
    folder = tmp_path_factory.mktemp("trouble")
    with app_server(folder / "server") as server:
        (site,) = server.add_consortium("Hospital A")
        yield server, site, site.upload(site.write_cohort(folder / "a.ppcmi", [1, 2]))


@pytest.fixture
def server(world):
    """The server, on which every job ends with the test."""
    yield world[0]
    world[0].stop_jobs()


@pytest.fixture
def number(server):
    """A job that waits; it has more epochs than any test waits for."""
    with server.services.database.writing() as session:
        task = tasks.find_task(session, TASK.name)
        job, _ = jobs.queue_job(session, task, jobs.TrainingRequest(epochs=500))
        job.config = {**job.config, "batch_size": 4}  # several batches an epoch
        return job.id


def look(server, number):
    with server.services.database.reading() as session:
        return jobs.find_job(session, number)


def change(server, action, number):
    with server.services.database.writing() as session:
        action(session, number)


def claim(server, number):
    with server.services.database.writing() as session:
        return leases.claim(session, jobs.find_job(session, number))


def checkpoints(server, number):
    return server.services.blobs.names(f"jobs/{number}")


def terminate(point="epoch-recorded"):
    """Has the worker in this process told to end when it is at a point."""
    return lambda here: os.kill(os.getpid(), signal.SIGTERM) if here == point else None


class Ended:
    """A process that ran in this one, with what a supervisor uses of ``Popen``."""

    def __init__(self, code):
        self.code = code

    def poll(self):
        return self.code

    def kill(self):
        pass

    def wait(self):
        return self.code


class Watched:
    """A supervisor whose clock is turned, and which starts no process."""

    def __init__(self, server, start):
        training = dataclasses.replace(server.services.config.training, workers=1, attempts=ATTEMPTS)
        config = dataclasses.replace(server.services.config, training=training)
        self.now, self.started, self._start = 0.0, [], start
        services = dataclasses.replace(server.services, config=config)
        self._supervisor = Supervisor(services, start_worker=self._begin, monotonic=lambda: self.now)

    def watch_until(self, condition):
        for _ in range(20_000):
            self._supervisor.look()
            if condition():
                return
            self.now += 1
        raise AssertionError("it did not happen")

    def waits(self):
        """Seconds between one start and the next."""
        return [int(late - early) for early, late in pairwise(self.started)]

    def _begin(self, _, lease):
        self.started.append(self.now)
        return Ended(self._start(lease))


def test_a_store_that_takes_nothing_for_long_costs_a_training_nothing(server, number, monkeypatch):
    worker.work(server.services, claim(server, number), terminate())
    kept, whole = checkpoints(server, number), BlobStore.writing

    @contextmanager
    def full(blobs, name):
        if name.startswith("jobs/"):
            raise OSError(errno.ENOSPC, "No space left on device")
        with whole(blobs, name) as file:
            yield file

    monkeypatch.setattr(BlobStore, "writing", full)
    watched = Watched(server, lambda lease: worker.work(server.services, lease))
    watched.watch_until(lambda: len(watched.started) == ATTEMPTS + 2)
    assert watched.waits() == [5, 17, 65]  # a round later than it may
    job = look(server, number)
    assert (job.state, job.attempts) == ("queued", 0)
    assert job.message == "The database, the disk or the blob store did not work (OSError)."
    assert checkpoints(server, number) == kept
    monkeypatch.setattr(BlobStore, "writing", whole)
    worker.work(server.services, claim(server, number), terminate("checkpoint-there"))
    assert (look(server, number).state, look(server, number).message) == ("queued", None)
    assert checkpoints(server, number)[-1] > kept[-1]


def test_who_cannot_even_write_that_it_met_trouble_says_so_as_it_exits(server, number, monkeypatch):
    monkeypatch.setattr(supervisor, "TROUBLES", ATTEMPTS + 2)
    watched = Watched(server, lambda _: worker.TROUBLE_CODE)
    watched.watch_until(lambda: look(server, number).state == "paused")
    assert len(watched.started) == ATTEMPTS + 2
    job = look(server, number)
    assert job.message.startswith("The database, the disk or the blob store did not work. It was tried again")
    change(server, jobs.resume, number)
    job = look(server, number)
    assert (job.state, job.attempts, job.message) == ("queued", 0, None)
    watched.watch_until(lambda: len(watched.started) == ATTEMPTS + 3)


def test_a_disk_without_room_for_a_workers_log_is_no_fault_of_the_job(server, number):
    def fail(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    watched = Watched(server, fail)
    watched.watch_until(lambda: len(watched.started) == ATTEMPTS + 1)
    assert (look(server, number).state, look(server, number).attempts) == ("queued", 0)


def test_a_job_whose_workers_die_keeps_its_checkpoint_until_it_is_stopped(server, number):
    server.services.blobs.write(f"jobs/{number}/{CHECKPOINT}", b"what it learned")
    watched = Watched(server, lambda _: -signal.SIGKILL)
    watched.watch_until(lambda: look(server, number).state == "paused")
    assert "died 2 times without getting on" in look(server, number).message
    with server.services.database.reading() as session:
        sweep_checkpoints(session, server.services.blobs)
    assert checkpoints(server, number) == [CHECKPOINT]
    change(server, jobs.request_stop, number)
    with server.services.database.reading() as session:
        sweep_checkpoints(session, server.services.blobs)
    assert checkpoints(server, number) == []


def test_what_a_paused_job_learned_of_data_that_were_taken_back_is_swept(server, number):
    server.services.blobs.write(f"jobs/{number}/{CHECKPOINT}", b"what it learned")
    change(server, jobs.request_pause, number)
    with server.services.database.writing() as session:
        for part in session.query(JobCohort).filter_by(job_id=number):
            part.withdrawn = True
    with server.services.database.reading() as session:
        sweep_checkpoints(session, server.services.blobs)
    assert checkpoints(server, number) == []


@pytest.mark.parametrize(
    ("orders", "state"),
    [(("pause", "resume"), "queued"), (("terminate", "pause"), "paused"), (("pause", "terminate"), "paused")],
)
def test_what_is_ordered_while_the_last_checkpoint_is_written_counts(server, number, monkeypatch, orders, state):
    monkeypatch.setattr(worker, "STOP_POLL_S", 0.0)
    ways = {
        "pause": lambda: change(server, jobs.request_pause, number),
        "resume": lambda: change(server, jobs.resume, number),
        "terminate": lambda: os.kill(os.getpid(), signal.SIGTERM),
    }
    left, batches = list(orders), []

    def at(here):
        batches.append(here)
        if (here == "batch" and batches.count(here) == 2) or here == "checkpoint-written":
            ways[left.pop(0)]()

    assert worker.work(server.services, claim(server, number), at) == 130
    job = look(server, number)
    assert left == []
    assert (job.state, job.worker, job.pause_requested, job.attempts) == (state, None, False, 0)


def test_a_kill_between_a_models_file_and_its_row_leaves_nothing_for_ever(server, number):
    services, folder = server.services, server.services.config.models_folder
    killed = f"job-{number}-0.safetensors"
    folder.mkdir(exist_ok=True)
    names = [killed, f"{killed}.0a1b2c3d.part", "job-999-1.safetensors", "of another kind"]
    for name in names:
        (folder / name).write_bytes(b"weights")
        services.blobs.write(f"models/{name}", b"weights")

    def stored():
        return sorted(set(services.blobs.names("models")) & {path.name for path in folder.iterdir()})

    services.sweep(older_than_s=0)
    assert stored() == sorted(names)  # its job may register it yet
    with services.database.writing() as session:
        job = session.get_one(Job, number)
        job.config = {**job.config, "epochs": 1}
    model = TrainingOfJob(services, claim(server, number), lambda: False, print).run()
    with services.database.reading() as session:
        registered = models.find_model(session, tasks.find_task(session, TASK.name), model).file
    services.sweep()
    assert killed in stored()  # young: somebody may be at it
    services.sweep(older_than_s=0)
    assert stored() == sorted([registered, *names[2:]])


def test_a_log_that_takes_nothing_changes_no_exit_code(server, number, monkeypatch):
    programs = []
    monkeypatch.setattr(worker, "spawn_program", lambda program, *_: programs.append(program))
    worker.spawn(server.services.config, claim(server, number))
    python = programs[0][: programs[0].index("-m")]
    code = "from ppcmi_server.training import worker; worker._say('words'); raise SystemExit(worker.TROUBLE_CODE)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*python, "-c", code], check=False, stdout=full, env=environment)
    assert done.returncode == worker.TROUBLE_CODE

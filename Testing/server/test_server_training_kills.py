"""Faults F2, F3, F8, F9, F10: training processes and servers are killed and race each other; no job is lost."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file

from ppcmi_server import models, tasks
from ppcmi_server.config import SETTINGS_NAME, settings_text
from ppcmi_server.database.engine import Database
from ppcmi_server.database.schema import Consortium, Job
from ppcmi_server.training import jobs, leases, worker
from ppcmi_server.training.leases import LeaseLostError, Watch
from ppcmi_server.training.supervisor import Supervisor
from ppcmi_server.training.train_job import TrainingOfJob
from support.app_server import TASK, app_server
from support.real_server import serving
from support.waiting import wait_until

EPOCHS = 2
POINTS = (
    "claimed", "loaded", "batch:3", "checkpoint-written:1", "checkpoint-there:1", "epoch-recorded:1",
    "checkpoint-there:1", "model-written", "registered",
)  # fmt: skip


@pytest.fixture
def server(tmp_path):
    with app_server(tmp_path / "server") as server:
        yield server


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A server with a site's cohort, and the model of a job that nothing disturbed."""
    folder = tmp_path_factory.mktemp("kills")
    with app_server(folder / "server") as server:
        (site,) = server.add_consortium("Hospital A")
        site.upload(site.write_cohort(folder / "a.ppcmi", range(1, 10), slices=10))
        number = queue(server)
        TrainingOfJob(server.services, claim(server, number), lambda: False, print).run()
        yield server, weights(server, number)


def queue(server, epochs=EPOCHS):
    with server.services.database.writing() as session:
        task = tasks.find_task(session, TASK.name)
        return jobs.queue_job(session, task, jobs.TrainingRequest(epochs=epochs, seed=3))[0].id


def look(server, number):
    with server.services.database.reading() as session:
        return jobs.find_job(session, number)


def claim(server, number):
    with server.services.database.writing() as session:
        return leases.claim(session, jobs.find_job(session, number))


def weights(server, number):
    with server.services.database.reading() as session:
        model = models.model_of_job(session, number)
    return load_file(server.services.config.models_folder / model.file)


def assert_same(found, expected):
    for name, values in expected.items():
        assert torch.equal(values, found[name]), name


def test_killed_at_every_point_one_after_the_other_it_ends_with_the_same_bits(trained):
    server, expected = trained
    number = queue(server)
    folder = str(server.services.config.folder)
    command = [sys.executable, "-m", "support.forking_supervisor", folder, str(number), *POINTS]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=200, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert [line[10:] for line in done.stdout.splitlines() if line.startswith("killed at ")] == list(POINTS), (
        done.stdout
    )
    # The last one was killed when everything was done but for the checkpoints, which the next sweep removes.
    assert f"done after {len(POINTS)} claims" in done.stdout
    assert_same(weights(server, number), expected)
    with server.services.database.reading() as session:
        assert [point.epoch for point in models.curve(session, number)] == [1, 2]
        assert (
            sum(model.job_id == number for model in models.list_models(session, tasks.find_task(session, TASK.name)))
            == 1
        )
    files = [file.name for file in server.services.config.models_folder.iterdir()]
    assert sum(name.startswith(f"job-{number}-") for name in files) <= 2  # that of the killed one may be left


def test_paused_within_an_epoch_and_resumed_it_ends_with_the_same_bits(trained):
    server, expected = trained
    number, batches = queue(server), []

    def pause(here):
        batches.append(here)
        if batches.count("batch") == 2:
            with server.services.database.writing() as session:
                assert jobs.request_pause(session, number)
            batches.append("batch")

    worker.STOP_POLL_S, usual = 0.0, worker.STOP_POLL_S
    try:
        assert worker.work(server.services, claim(server, number), pause) == 130
    finally:
        worker.STOP_POLL_S = usual
    assert (look(server, number).state, look(server, number).worker) == ("paused", None)
    assert len(server.services.blobs.names(f"jobs/{number}")) == 1
    with server.services.database.writing() as session:
        jobs.resume(session, number)
        assert jobs.queue_positions(session) == {number: 1}
    assert worker.work(server.services, claim(server, number)) == 0
    assert_same(weights(server, number), expected)


def test_who_lost_the_job_writes_nothing_more(trained):
    server, _ = trained
    number = queue(server)
    first = claim(server, number)

    def take_over(here):
        if here == "checkpoint-written":
            claim(server, number)

    assert worker.work(server.services, first, take_over) == LeaseLostError.exit_code
    job = look(server, number)
    assert (job.state, job.fence) == ("running", 2)
    assert server.services.blobs.names(f"jobs/{number}") == []
    with server.services.database.reading() as session:
        assert len(models.curve(session, number)) == 1  # of before
        assert models.model_of_job(session, number) is None
    with server.services.database.writing() as session:
        jobs.request_stop(session, number)


def test_the_server_is_killed_while_it_trains_and_the_training_while_it_serves(trained):
    server, _ = trained
    number = queue(server, epochs=2000)
    config = server.services.config
    supervising = dataclasses.replace(
        config, training=dataclasses.replace(config.training, workers=1, lease_seconds=20.0)
    )
    (config.folder / SETTINGS_NAME).write_text(settings_text(supervising), encoding="utf-8")

    def epochs():
        with server.services.database.reading() as session:
            return len(models.curve(session, number))

    def workers():
        found = subprocess.run(
            ["pgrep", "-f", f"{config.folder} {number} "], check=False, capture_output=True, text=True
        )
        return [int(pid) for pid in found.stdout.split()]

    try:
        with serving(config.folder) as real:
            wait_until(epochs)
            os.kill(real.pid, signal.SIGKILL)
        at_the_kill = epochs()
        wait_until(lambda: epochs() > at_the_kill)  # its worker is a process of its own
        assert look(server, number).fence == 1
        with serving(config.folder):
            (pid,) = workers()
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: look(server, number).fence == 2)  # at once: the lock of the dead one is free
            before = epochs()
            wait_until(lambda: epochs() > before)
            with server.services.database.writing() as session:
                jobs.request_stop(session, number)
            wait_until(lambda: not workers())  # who has lost the job ends by itself
        assert look(server, number).state == "stopped"
    finally:
        (config.folder / SETTINGS_NAME).write_text(settings_text(config), encoding="utf-8")


class Recorder:
    """Starts nothing that trains: a process that ends, or one that stays, and remembers for which claims."""

    def __init__(self, *command):
        self.command, self.leases, self.processes = command, [], []

    def __call__(self, config, lease):
        self.leases.append(lease)
        self.processes.append(subprocess.Popen(self.command))
        return self.processes[-1]


def add_jobs(server, count):
    """Jobs on nothing, which no worker ever opens."""
    with server.services.database.writing() as session:
        task = tasks.find_task(session, TASK.name)
        found = [Job(task_id=task.id, state="queued", config={}, created="2026-01-01T00:00:00Z") for _ in range(count)]
        session.add_all(found)
        session.flush()
        return [job.id for job in found]


@pytest.mark.usefixtures("every_storage")
def test_of_many_that_claim_a_job_at_once_one_gets_it(server):
    databases = [server.services.database, Database(server.services.config)]
    for number in add_jobs(server, 5):
        seen, together = look(server, number), threading.Barrier(4)

        def try_it(database, seen=seen, together=together):
            together.wait()
            with database.writing() as session:
                return leases.claim(session, seen)

        with ThreadPoolExecutor(4) as pool:
            claims = [found for found in pool.map(try_it, databases * 2) if found is not None]
        assert len(claims) == 1
        with databases[1].writing() as session:
            assert leases.hold(session, claims[0]).heartbeat == 1
            with pytest.raises(LeaseLostError):
                leases.hold(session, dataclasses.replace(claims[0], worker="0" * 16))
    databases[1].close()


@pytest.mark.usefixtures("every_storage")
def test_two_supervisors_of_one_database_start_every_job_once(server):
    numbers = add_jobs(server, 6)
    services = dataclasses.replace(
        server.services,
        config=dataclasses.replace(
            server.services.config, training=dataclasses.replace(server.services.config.training, workers=4)
        ),
    )
    starts = [Recorder("sleep", "60"), Recorder("sleep", "60")]
    supervisors = [Supervisor(services, start_worker=start) for start in starts]
    try:
        with ThreadPoolExecutor(2) as pool:
            for _ in range(3):
                list(pool.map(Supervisor.look, supervisors))
        assert sorted(lease.job for start in starts for lease in start.leases) == numbers
        assert all(len(start.leases) <= 4 for start in starts)
    finally:
        for process in starts[0].processes + starts[1].processes:
            process.kill()
            process.wait()


def supervised(server, *, workers=1, attempts=3):
    config = server.services.config
    training = dataclasses.replace(config.training, workers=workers, attempts=attempts, lease_seconds=30.0)
    return dataclasses.replace(server.services, config=dataclasses.replace(config, training=training))


def test_a_job_whose_workers_always_die_fails_with_a_sentence_and_the_queue_moves_on(server):
    first, second = add_jobs(server, 2)
    clock, start = [0.0], Recorder("false")
    supervisor = Supervisor(supervised(server), start_worker=start, monotonic=lambda: clock[0])
    for _ in range(3):
        supervisor.look()
        start.processes[-1].wait()
        clock[0] += 1000
    assert {lease.job for lease in start.leases} == {first}
    supervisor.look()
    supervisor.look()
    failed = look(server, first)
    assert failed.state == "failed"
    assert "died 3 times without getting on" in failed.message
    assert start.leases[-1].job == second
    start.processes[-1].wait()


def test_what_nobody_expected_ends_a_round_and_not_the_supervisor(server):
    add_jobs(server, 2)
    started = []

    def fail(config, lease):
        started.append(lease.job)
        raise RuntimeError(f"job {lease.job}")

    supervisor = Supervisor(supervised(server), start_worker=fail, retry_base_s=0.0)
    supervisor.start()
    try:
        wait_until(lambda: len(set(started)) == 2)
        assert supervisor.alive
    finally:
        supervisor.close()


def test_a_worker_is_dead_when_its_heartbeat_stands_still_by_the_watchers_own_clock(server):
    (number,) = add_jobs(server, 1)
    lease, clock = claim(server, number), [1000.0]
    watch = Watch(30.0, lambda: clock[0])

    def beat():
        with server.services.database.writing() as session:
            leases.hold(session, lease)

    beat()
    assert not watch.is_dead(look(server, number))
    clock[0] += 29
    assert not watch.is_dead(look(server, number))
    beat()
    clock[0] += 29
    assert not watch.is_dead(look(server, number))
    clock[0] += 31
    assert watch.is_dead(look(server, number))
    beat()  # it was only slow
    assert not watch.is_dead(look(server, number))
    assert Watch(30.0, lambda: -500.0).is_dead(look(server, number)) is False  # another machine's clock starts anywhere


def test_a_job_that_was_to_be_paused_when_its_worker_died_is_paused(server):
    with server.services.database.writing() as session:
        task = tasks.find_task(session, TASK.name)
        assert session.get(Consortium, task.id) is None
    (number,) = add_jobs(server, 1)
    clock, start = [0.0], Recorder("false")
    supervisor = Supervisor(supervised(server), start_worker=start, monotonic=lambda: clock[0])
    supervisor.look()
    start.processes[-1].wait()
    with server.services.database.writing() as session:
        assert jobs.request_pause(session, number)
    clock[0] += 1000
    supervisor.look()
    assert (look(server, number).state, len(start.leases)) == ("paused", 1)

"""Training jobs as an operator runs them: in a process of their own, killed, gone on with, stopped, withdrawn from."""

import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file
from sqlalchemy import select

from ppcmi.errors import CancelledError, TrainingError
from ppcmi_server import models, tasks
from ppcmi_server.cli.main import main
from ppcmi_server.database.schema import Member, Model
from ppcmi_server.training import jobs, leases, worker
from ppcmi_server.training.supervisor import Supervisor
from ppcmi_server.training.train_job import ServerGoneError, TrainingOfJob
from support.app_server import CODEC, TASK, app_server

EPOCHS = 4


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with app_server(tmp_path_factory.mktemp("jobs") / "server") as server:
        yield server


@pytest.fixture(scope="module")
def cohorts(server, tmp_path_factory):
    """Two sites' cohorts: six cases of four slices, each slice in two variants."""
    folder = tmp_path_factory.mktemp("cohorts")
    a, b = server.add_consortium("Hospital A", "Hospital B")
    return [
        (a, a.upload(a.write_cohort(folder / "a.ppcmi", [1, 2, 3]))),
        (b, b.upload(b.write_cohort(folder / "b.ppcmi", [1, 2, 3]))),  # other cases by the same numbers
    ]


def queue(server, **request):
    """A new job's number."""
    with server.services.database.writing() as session:
        task = tasks.find_task(session, TASK.name)
        job, new = jobs.queue_job(session, task, jobs.TrainingRequest(**request))
        assert new
        return job.id


def look(server, number):
    with server.services.database.reading() as session:
        return jobs.find_job(session, number), models.curve(session, number), models.model_of_job(session, number)


def claim(server, number):
    with server.services.database.writing() as session:
        return leases.claim(session, jobs.find_job(session, number))


def run_here(server, number, stop=lambda: False):
    """What a worker does, in this process; the model's number."""
    return TrainingOfJob(server.services, claim(server, number), stop, print).run()


def checkpoints(server, number):
    return server.services.blobs.names(f"jobs/{number}")


def supervise(server, number):
    """Start a worker for a job; its process."""
    started = []

    def start(config, lease):
        started.append(worker.spawn(config, lease))
        return started[-1]

    Supervisor(server.services, only=number, start_worker=start).look()
    (process,) = started
    return process


def is_alive(server, number):
    return jobs.is_alive(server.services.config, look(server, number)[0])


def weights(server, model):
    return load_file(server.services.config.models_folder / model.file)


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def uninterrupted(server, cohorts):
    number = queue(server, epochs=EPOCHS, seed=5)
    run_here(server, number)
    return look(server, number)


def test_a_model_records_what_made_it(server, uninterrupted, cohorts):
    job, curve, model = uninterrupted
    assert (job.state, [point.epoch for point in curve]) == ("done", list(range(1, EPOCHS + 1)))
    assert (model.number, model.state, model.profile, model.preset, model.seed) == (1, "ready", "coarse", "default", 5)
    assert (model.cases, model.slices) == (6, 24)
    inner_check = cohorts[0][0].protection().inner.check()
    assert model.codecs == {CODEC: inner_check}
    assert model.config["epochs"] == EPOCHS
    assert model.config["minimum_steps"] == 0
    assert not model.withdrawn_data
    assert "torch" in model.code_version
    assert checkpoints(server, job.id) == []
    assert {site["site"] for site in job.report["sites"]} == {site.site_id for site, _ in cohorts}


def test_a_job_whose_process_was_killed_goes_on_and_gives_the_same_model(server, uninterrupted, capsys):
    number = queue(server, epochs=EPOCHS, seed=5)
    process = supervise(server, number)
    wait_until(lambda: any(not name.endswith(".part") for name in checkpoints(server, number)))
    process.kill()
    process.wait()
    job, curve, _ = look(server, number)
    assert job.state == "running"
    assert checkpoints(server, number)
    assert 1 <= len(curve) < EPOCHS
    folder = str(server.services.config.folder)
    assert main(["job", "list", "--dir", folder]) == 0
    assert "interrupted" in capsys.readouterr().out
    assert main(["train", TASK.name, "--epochs", "9", "--dir", folder]) == TrainingError.exit_code
    assert "unfinished and has other options" in capsys.readouterr().err

    assert main(["train", TASK.name, "--epochs", str(EPOCHS), "--seed", "5", "--dir", folder, "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    assert "Model 2 is ready: 6 cases, 24 slices" in out
    assert f"epoch {EPOCHS} of {EPOCHS}" in err
    job, curve, model = look(server, number)
    assert (job.state, len(curve)) == ("done", EPOCHS)
    log = (server.services.config.job_folder(number) / worker.LOG_NAME).read_text()
    assert log.count(f"epoch 1 of {EPOCHS}:") == 1  # it went on, it did not begin anew
    assert log.count(f"epoch {EPOCHS} of {EPOCHS}:") == 1
    _, whole_curve, whole = uninterrupted
    for point, expected in zip(curve, whole_curve, strict=True):
        assert point.train_loss == pytest.approx(expected.train_loss, rel=1e-4)
    expected = weights(server, whole)
    for name, values in weights(server, model).items():
        assert torch.equal(values, expected[name]), name


def test_a_detached_job_is_shown_left_alone_and_stopped(server, cohorts, capsys):
    folder = str(server.services.config.folder)
    assert main(["train", TASK.name, "--epochs", "2000", "--detach", "--dir", folder, "--device", "cpu"]) == 0
    with server.services.database.reading() as session:
        number = max(job.id for job, _ in jobs.list_jobs(session))
    wait_until(lambda: look(server, number)[1])
    assert is_alive(server, number)

    command = [sys.executable, "-m", "ppcmi_server", "train", TASK.name, "--dir", folder]
    looking_on = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    shown = [looking_on.stderr.readline() for _ in range(2)]
    assert f"Job {number} is under way" in shown[0]
    assert "epoch 1 of 2000: loss " in shown[1]
    looking_on.send_signal(signal.SIGINT)
    rest = looking_on.communicate(timeout=120)[1]
    assert looking_on.returncode == CancelledError.exit_code
    assert f"job {number} goes on" in rest
    assert f"'ppcmi-server job stop {number}' ends it" in rest
    assert is_alive(server, number)

    (lock,) = server.services.config.job_folder(number).glob("*.lock")
    assert main(["job", "stop", str(number), "--dir", folder]) == 0
    wait_until(lambda: not lock.exists())
    job, _, model = look(server, number)
    assert (job.state, model) == ("stopped", None)
    assert checkpoints(server, number) == []
    assert main(["job", "stop", str(number), "--dir", folder]) == TrainingError.exit_code
    assert "ended already: stopped" in capsys.readouterr().err


def test_a_worker_whose_server_folder_is_gone_ends_by_itself_and_does_not_make_it_anew(server, cohorts):
    number = queue(server, epochs=2000)
    process = supervise(server, number)
    wait_until(lambda: checkpoints(server, number))
    folder = server.services.config.folder
    elsewhere = folder.rename(folder.with_name("elsewhere"))
    try:
        assert process.wait(60) == ServerGoneError.exit_code
        assert not folder.exists()
    finally:
        elsewhere.rename(folder)
    log = (server.services.config.job_folder(number) / worker.LOG_NAME).read_text()
    assert log.rstrip().endswith("The server's folder is gone, and nothing more is written; the job ends here.")
    with server.services.database.writing() as session:
        jobs.request_stop(session, number)


def test_a_withdrawal_during_training_marks_the_model_and_after_a_crash_the_data_are_left_out(server, tmp_path):
    c = server.add_site("Hospital C")
    with server.services.database.reading() as session:
        task = tasks.find_task(session, TASK.name)
    with server.services.database.writing() as session:
        session.add(Member(task_id=task.id, site_id=c.site_id, joined="2026-01-01T00:00:00Z"))
    withdrawn = c.upload(c.write_cohort(tmp_path / "c.ppcmi", [7, 8]))
    number = queue(server, epochs=2, seed=1)

    def withdraw_after_the_first_epoch():
        if len(look(server, number)[1]) == 1:
            c.client.withdraw(withdrawn)
            return True
        return False

    with pytest.raises(CancelledError):
        run_here(server, number, withdraw_after_the_first_epoch)
    run_here(server, number)  # begins anew, without what was withdrawn
    _, curve, model = look(server, number)
    assert len(curve) == 2
    assert (model.cases, model.withdrawn_data) == (6, False)

    again = c.upload(c.write_cohort(tmp_path / "c2.ppcmi", [7, 8]))
    number = queue(server, epochs=2, seed=1)
    run_here(server, number, lambda: bool(look(server, number)[1] and c.client.withdraw(again)))
    _, _, model = look(server, number)
    assert (model.cases, model.withdrawn_data) == (8, True)  # it had been read; the model says so
    with server.services.database.reading() as session:
        assert session.scalar(select(Model.withdrawn_data).where(Model.job_id == number))


def test_a_job_with_nothing_left_fails_with_a_sentence(server, cohorts, tmp_path, capsys):
    number = queue(server, epochs=1)
    for site, cohort_id in cohorts:
        site.client.withdraw(cohort_id)
    folder = str(server.services.config.folder)
    assert main(["train", TASK.name, "--dir", folder]) == TrainingError.exit_code
    assert "Every cohort of the job was withdrawn" in capsys.readouterr().err
    assert look(server, number)[0].state == "failed"

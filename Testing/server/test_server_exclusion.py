"""A cohort that is excluded while a training waits, runs or is paused: who leaves it out, who is named."""

import pytest

from ppcmi.errors import TrainingError
from ppcmi_server import tasks
from ppcmi_server.cli.main import main
from ppcmi_server.intake.cohorts import set_excluded
from ppcmi_server.training import jobs, leases
from ppcmi_server.training.train_job import TrainingOfJob
from support.app_server import TASK, app_server

CHECKPOINT = "000001-000000007"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A server, and two sites' cohorts."""
    folder = tmp_path_factory.mktemp("exclusion")
    with app_server(folder / "server") as server:
        sites = server.add_consortium("Hospital A", "Hospital B")
        cohorts = [site.upload(site.write_cohort(folder / site.site_id, [number])) for number, site in enumerate(sites)]
        yield server, cohorts


@pytest.fixture
def cohorts(world):
    return world[1]


@pytest.fixture
def server(world):
    """The server, on which nothing is excluded nor unfinished once the test is over."""
    server, cohorts = world
    yield server
    with server.services.database.writing() as session:
        for cohort in cohorts:
            set_excluded(session, cohort, False)
    server.stop_jobs()


@pytest.fixture
def number(server):
    """A job on both cohorts that waits."""
    with server.services.database.writing() as session:
        task = tasks.find_task(session, TASK.name)
        return jobs.queue_job(session, task, jobs.TrainingRequest(epochs=1))[0].id


def exclude(server, cohort, capsys):
    """What the command line says as it excludes a cohort."""
    assert main(["cohort", "exclude", cohort, "--dir", str(server.services.config.folder)]) == 0
    return capsys.readouterr().out


def claim(server, number):
    with server.services.database.writing() as session:
        return leases.claim(session, jobs.find_job(session, number))


def train(server, number):
    TrainingOfJob(server.services, claim(server, number), lambda: False, print).run()
    with server.services.database.reading() as session:
        return [cohort.id for cohort in jobs.cohorts_of(session, jobs.find_job(session, number))]


def test_a_job_that_has_learned_nothing_yet_leaves_it_out(server, cohorts, number, capsys):
    assert "Job" not in exclude(server, cohorts[0], capsys)
    assert train(server, number) == [cohorts[1]]


def test_a_job_that_has_nothing_left_says_so(server, cohorts, number, capsys):
    for cohort in cohorts:
        exclude(server, cohort, capsys)
    with pytest.raises(TrainingError, match="Every cohort of the job was excluded"):
        train(server, number)


def test_a_job_that_runs_or_has_a_checkpoint_keeps_it_and_is_named(server, cohorts, number, capsys):
    sentence = f"Job {number} was made before and still has it; stop it"
    server.services.blobs.write(f"jobs/{number}/{CHECKPOINT}", b"what it learned from both")
    assert sentence in exclude(server, cohorts[0], capsys)
    assert train(server, number) == sorted(cohorts)


def test_a_job_with_a_worker_is_named(server, cohorts, number, capsys):
    claim(server, number)
    assert f"Job {number} was made before" in exclude(server, cohorts[0], capsys)
    with server.services.database.writing() as session:
        jobs.request_stop(session, number)
    assert "Job" not in exclude(server, cohorts[1], capsys)

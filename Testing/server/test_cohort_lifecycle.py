"""Cohorts from the operator's side: listed, excluded, withdrawn, and forgotten when nobody goes on with them."""

import time

import pytest
from sqlalchemy import select

from ppcmi.errors import TrainingError
from ppcmi_server import clock, tasks
from ppcmi_server.cli.main import main
from ppcmi_server.database.schema import AuditEvent, Cohort, Frame
from ppcmi_server.errors import OperatorError
from ppcmi_server.intake import cohorts
from ppcmi_server.intake.garbage import Sweeper
from ppcmi_server.training import jobs
from support.app_server import TASK, app_server
from support.uploads import blobs_of, frames_of, orphans, refused

pytestmark = pytest.mark.usefixtures("every_storage")
OPERATOR = "operator-7"


@pytest.fixture
def server(tmp_path):
    with app_server(tmp_path / "server") as server:
        yield server


@pytest.fixture
def site(server):
    return server.add_consortium("Hospital A", "Hospital B")[0]


@pytest.fixture
def cohort(site, tmp_path):
    return site.write_cohort(tmp_path / "a.ppcmi", [1, 2])


def events(server, action):
    with server.services.database.reading() as session:
        found = select(AuditEvent).where(AuditEvent.action == action).order_by(AuditEvent.id)
        return [(event.actor, event.objects) for event in session.scalars(found)]


def change(server, cohort_id, **values):
    with server.services.database.writing() as session:
        for name, value in values.items():
            setattr(session.get_one(Cohort, cohort_id), name, value)


def queue(server):
    """The cohorts of a new job, which is stopped again."""
    with server.services.database.writing() as session:
        job, _ = jobs.queue_job(session, tasks.find_task(session, TASK.name), jobs.TrainingRequest())
        found = [cohort.id for cohort in jobs.cohorts_of(session, job)]
        jobs.request_stop(session, job.id)
    return found


def test_training_sees_a_cohort_only_when_it_is_whole_and_not_excluded(server, site, cohort):
    cohort_id = site.client.create_cohort(TASK.name, cohort.header_bytes)
    for index, data in enumerate(frames_of(cohort)):
        site.client.put_frame(cohort_id, index, data)
    with pytest.raises(TrainingError, match="no whole cohort"):
        queue(server)
    site.client.commit_cohort(cohort_id, 4, cohort.end.digest)
    assert queue(server) == [cohort_id]
    for excluded in (True, True, False):
        with server.services.database.writing() as session:
            cohorts.set_excluded(session, cohort_id, excluded, OPERATOR)
        if excluded:
            with pytest.raises(TrainingError, match="no whole cohort"):
                queue(server)
    assert queue(server) == [cohort_id]
    assert events(server, "cohort.exclude") == [(OPERATOR, {"cohort": cohort_id})]  # once
    assert events(server, "cohort.include") == [(OPERATOR, {"cohort": cohort_id})]


def test_the_operator_withdraws_as_a_site_does(server, site, cohort):
    cohort_id = site.upload(cohort)
    for _ in range(2):
        server.services.cohorts.withdraw_by_operator(cohort_id, OPERATOR)
    assert blobs_of(server, cohort_id) == {}
    with server.services.database.reading() as session:
        found = session.get_one(Cohort, cohort_id)
        assert (found.state, found.wrapped_key, found.header, found.stored_bytes) == ("withdrawn", None, None, 0)
    assert events(server, "cohort.withdraw") == [(OPERATOR, {"cohort": cohort_id})]
    with refused(409, "withdrawn"):
        site.client.put_frame(cohort_id, 0, frames_of(cohort)[0])
    with server.services.database.writing() as session, pytest.raises(OperatorError, match="was withdrawn"):
        cohorts.set_excluded(session, cohort_id, True)
    with pytest.raises(OperatorError, match="no such cohort"):
        server.services.cohorts.withdraw_by_operator("0" * 32)


def test_the_command_line_lists_excludes_includes_and_withdraws(server, site, cohort, capsys):
    cohort_id = site.upload(cohort)
    folder = ["--dir", str(server.services.config.folder)]
    assert main(["cohort", "exclude", cohort_id, *folder]) == 0
    assert main(["cohort", "list", TASK.name, *folder]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if cohort_id in line)
    assert "Hospital A" in line
    assert "whole, excluded" in line
    assert line.split()[-4:-2] == ["2", "8"]
    assert main(["cohort", "include", cohort_id, *folder]) == 0
    assert main(["cohort", "withdraw", cohort_id, *folder]) == 0
    assert main(["cohort", "list", *folder]) == 0
    assert "withdrawn" in capsys.readouterr().out.splitlines()[-1]
    assert blobs_of(server, cohort_id) == {}
    for command in ("exclude", "withdraw"):
        assert main(["cohort", command, "f" * 32, *folder]) == OperatorError.exit_code
        assert "no such cohort" in capsys.readouterr().err
    assert main(["cohort", "list", "no-such-task", *folder]) != 0


def test_an_upload_that_nobody_goes_on_with_is_removed_and_may_begin_anew(server, site, cohort, tmp_path):
    data = frames_of(cohort)
    stale = site.client.create_cohort(TASK.name, cohort.header_bytes)
    site.client.put_frame(stale, 0, data[0])
    fresh = site.client.create_cohort(TASK.name, site.write_cohort(tmp_path / "b.ppcmi", [3]).header_bytes)
    whole = site.upload(site.write_cohort(tmp_path / "c.ppcmi", [4]))
    for cohort_id in (stale, whole):
        change(server, cohort_id, touched=clock.in_future(-15), created=clock.in_future(-40))
    change(server, fresh, created=clock.in_future(-40))  # it got something lately
    server.services.cohorts.sweep()
    with refused(404, "no such cohort"):
        site.client.cohort(stale)
    assert [site.client.cohort(cohort_id)["state"] for cohort_id in (fresh, whole)] == ["open", "whole"]
    assert blobs_of(server, stale) == {}
    assert events(server, "cohort.expire") == [("operator", {"cohort": stale})]
    again = site.upload(cohort)
    assert again != stale
    assert site.client.cohort(again)["state"] == "whole"


def test_the_sweep_leaves_alone_what_an_upload_is_about_to_name(server, site, cohort):
    cohort_id = site.client.create_cohort(TASK.name, cohort.header_bytes)
    site.client.put_frame(cohort_id, 0, frames_of(cohort)[0])
    blobs = server.services.blobs
    blobs.write(f"cohorts/{cohort_id}/1-young", b"its row comes in a moment")
    blobs.write(f"cohorts/{'0' * 32}/0-young", b"of a cohort that another server is announcing")
    blobs.write("codecs/young", b"a codec that is being published")
    server.services.cohorts.sweep()
    assert "1-young" in blobs_of(server, cohort_id)
    assert blobs.names("codecs")[-1] == "young"
    server.services.cohorts.sweep(older_than_s=0)
    assert orphans(server.services) == set()
    assert len(blobs.names("codecs")) == 1  # the published one
    assert blobs.names("cohorts") == [cohort_id]


def test_frames_from_before_sizes_were_counted_are_counted(server, site, cohort):
    cohort_id = site.upload(cohort)
    before = site.client.me()["stored_bytes"]
    with server.services.database.writing() as session:
        for frame in session.scalars(select(Frame)):
            frame.stored_bytes = 0
        session.get_one(Cohort, cohort_id).stored_bytes = len(cohort.header_bytes)
    server.services.cohorts.sweep()
    assert site.client.me()["stored_bytes"] == before


def test_a_sweep_that_fails_is_logged_and_does_not_end_the_server(caplog):
    def fail():
        raise RuntimeError("Jane Doe")

    sweeper = Sweeper(fail)
    sweeper.start()
    deadline = time.monotonic() + 10
    while "sweep-failed" not in caplog.text:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    sweeper.close()
    assert "Jane Doe" not in caplog.text

"""What the overview tells the operator to look at, each from what really is the case."""

import dataclasses

import pytest
from sqlalchemy import text

from ppcmi_server import audit, clock
from ppcmi_server.access import identity
from ppcmi_server.config import ServerConfig
from ppcmi_server.dashboard.attention import concerns
from ppcmi_server.dashboard.site_facts import site_facts
from ppcmi_server.database.schema import AuditEvent, Cohort, EnrolmentCode, Job, Site
from ppcmi_server.operation.backup import CREATED
from ppcmi_server.operation.tls import CERTIFICATE_NAME, make_self_signed
from ppcmi_server.settings import StorageSettings, TlsSettings
from support.app_server import TASK, app_server
from support.dashboard_world import make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("attention")
    with app_server(folder / "server") as server:
        yield make_world(server, folder)


@pytest.fixture
def said(world):
    """``said(config)``: (level, whom, what) of every concern."""

    def look(config: ServerConfig | None = None, mapper_alive: bool = True):
        config = config or world.server.services.config
        with world.reading() as session:
            facts = site_facts(session, config, identity.list_sites(session))
            found = concerns(session, config, facts, audit.verify(session), mapper_alive)
        return [(concern.level, concern.about, concern.sentence) for concern in found]

    return look


def test_problems_come_before_what_can_wait(said):
    levels = [level for level, _, _ in said()]
    assert levels == sorted(levels, key=lambda level: level != "problem")
    assert said()[0] == ("problem", "Regional Clinic West", "job 2 (tiny) reports its data as suspect.")
    assert ("look", TASK.name, "model 2 is validated by 2 of 3 members.") in said()


def test_a_disk_below_the_reserve_and_a_mapper_that_has_ended(world, said):
    config = dataclasses.replace(world.server.services.config, storage=StorageSettings(reserve_bytes=1 << 60))
    assert any(level == "problem" and "uploads are refused" in what for level, _, what in said(config))
    assert ("problem", None, "Mapping has ended; start the server again.") in said(mapper_alive=False)


def test_a_site_near_its_quota_and_above_it(world, said):
    def quota(share):
        with world.writing() as session:
            site = session.get_one(Site, world.sites[0].site_id)
            stored = session.query(Cohort).filter_by(site_id=site.id).one().stored_bytes
            identity.set_quota(session, site.name, int(stored / share))
        return [level for level, about, what in said() if about == site.name and "quota" in what]

    assert quota(0.5) == []
    assert quota(0.95) == ["look"]
    assert quota(1.1) == ["problem"]


def test_an_upload_that_stopped_and_a_code_that_expired(world, said):
    assert not any("upload" in what or "code" in what for _, _, what in said())
    with world.writing() as session:
        cohort = session.get_one(Cohort, world.cohorts[1])
        cohort.state, cohort.touched = "open", clock.in_future(-2)
        for code in session.query(EnrolmentCode):
            code.expires = clock.in_future(-1)
    assert ("look", "St. Mary's Radiology", "1 upload got nothing new for a day or longer.") in said()
    assert ("look", "City Hospital South", "its enrolment code has expired.") in said()


def test_a_training_that_failed_or_waits_for_nobody(world, said):
    number = world.add_job("failed", 1, message="A cohort's bytes are missing.")
    assert ("problem", TASK.name, f"job {number} failed. A cohort's bytes are missing.") in said()
    number = world.add_job("queued", 0)
    with world.writing() as session:
        session.get_one(Job, number).created = clock.in_future(-1)
    assert any(f"job {number} has waited for more than an hour" in what for _, _, what in said())
    assert not any("failed" in what for _, _, what in said())  # the newer job is what counts


def test_an_active_model_whose_data_were_taken_back(world, said):
    world.activate(2)
    world.server.services.cohorts.withdraw_by_operator(world.cohorts[0])
    assert any("took back data that the active model 2" in what for _, about, what in said() if about == TASK.name)


def test_a_certificate_that_expires_has_expired_or_is_gone(world, said):
    folder = world.server.services.config.folder
    tls = TlsSettings(certificate=CERTIFICATE_NAME, key="server.key")
    config = dataclasses.replace(world.server.services.config, tls=tls)
    for days, expected in {400: [], 10: ["expires in 9 days"], 0: ["has expired"]}.items():
        make_self_signed(folder, ["localhost"], days)
        found = [what for _, _, what in said(config) if "certificate" in what]
        assert len(found) == len(expected)
        assert all(words in what for words, what in zip(expected, found, strict=True))
    (folder / CERTIFICATE_NAME).unlink()
    assert any(level == "problem" and "tls.certificate" in what for level, _, what in said(config))


def test_no_backup_an_old_one_and_a_new_one(world, said):
    assert any("There is no backup yet" in what for _, _, what in said())
    with world.writing() as session:
        session.add(AuditEvent(id=10_000, at=clock.in_future(-30), actor="operator", action=CREATED, objects={}))
    assert any("The last backup is older than 8 days" in what for _, _, what in said())
    with world.writing() as session:
        audit.record(session, audit.OPERATOR, CREATED)
    assert not any("backup" in what for _, _, what in said())


def test_an_audit_log_that_somebody_changed(world, said):
    with world.writing() as session:
        for (name,) in session.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).all():
            session.execute(text(f"DROP TRIGGER {name}"))
        session.execute(text("UPDATE audit_events SET actor = 'nobody' WHERE id = 3"))
    assert ("problem", None, "The audit log does not hold together from event 3 on: somebody changed it.") in said()

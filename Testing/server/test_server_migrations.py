"""Upgrades: a database of the first version keeps every row on its way here, and back; a newer one is refused."""

from dataclasses import replace

import pytest
from sqlalchemy import MetaData, insert, select, text

from ppcmi_server.access import identity, operators
from ppcmi_server.access.tokens import digest_of
from ppcmi_server.config import create_folder
from ppcmi_server.database.engine import Database
from ppcmi_server.database.schema import Base, SharedNetwork, Token
from ppcmi_server.errors import OperatorError
from support.storages import storage_settings

pytestmark = pytest.mark.usefixtures("every_storage")

WHEN = "2026-01-01T00:00:00Z"
SITE, COHORT = "a" * 16, "c" * 32
TOKEN = "t" * 43
FIRST_VERSION = {  # a row of every table, as the first version wrote it
    "sites": {"id": SITE, "name": "Hospital A", "public_key": b"k" * 32, "link_salt": b"s" * 16, "created": WHEN},
    "tasks": {"id": 1, "name": "phantom", "document": "{}", "created": WHEN},
    "enrolment_codes": {"id": 1, "site_id": SITE, "code_hash": b"h" * 32, "expires": WHEN, "used": WHEN},
    "tokens": {
        "id": 1, "site_id": SITE, "token_hash": digest_of(TOKEN), "created": WHEN, "revoked": False,
        "scopes": ["tasks", "consortium", "cohorts", "models", "map"],
    },
    "consortia": {"task_id": 1, "scope": "consortium", "mode": "two-layer", "founder_id": SITE, "created": WHEN},
    "members": {"task_id": 1, "site_id": SITE, "joined": WHEN},
    "invitations": {"id": 1, "task_id": 1, "from_id": SITE, "to_id": SITE, "sealed": b"x", "created": WHEN},
    "cohorts": {
        "id": COHORT, "task_id": 1, "site_id": SITE, "header_digest": b"d" * 32, "codec": "0" * 32,
        "profile": "coarse", "mode": "two-layer", "state": "whole", "cases": 1, "slices": 4, "created": WHEN,
        "wrapped_key": b"w" * 60, "header": b"header",
    },
    "cases": {"cohort_id": COHORT, "pseudonym": "1" * 32, "slices": 4},
    "frames": {
        "cohort_id": COHORT, "index": 0, "digest": b"f" * 32, "blob": "cohorts/x/0", "pseudonym": "1" * 32,
        "part": 0, "parts": 1, "variant": 0, "slices": 4,
    },
    "jobs": {
        "id": 1, "task_id": 1, "state": "done", "config": {"epochs": 2}, "stop_requested": False, "created": WHEN,
        "finished": WHEN,
    },
    "job_epochs": {"job_id": 1, "epoch": 1, "train_loss": 0.5, "validation_loss": None, "seconds": 1.5},
    "job_cohorts": {"job_id": 1, "cohort_id": COHORT, "withdrawn": False},
    "models": {
        "id": 1, "task_id": 1, "number": 1, "job_id": 1, "state": "active", "preset": "default", "profile": "coarse",
        "mode": "two-layer", "scope": "consortium", "codecs": {"0" * 32: None}, "config": {"epochs": 2}, "seed": 1,
        "code_version": "1", "file": "job-1.safetensors", "file_digest": "0" * 64, "cases": 1, "slices": 4,
        "withdrawn_data": False, "created": WHEN,
    },
    "validations": {"id": 1, "model_id": 1, "site_id": SITE, "numbers": {"cases": 1}, "created": WHEN},
    "audit_events": {"id": 1, "at": WHEN, "actor": "operator", "action": "site.add", "objects": {"site": SITE}},
}  # fmt: skip


@pytest.fixture
def database(tmp_path):
    """One of the first version with :data:`FIRST_VERSION` in it."""
    database = Database(replace(create_folder(tmp_path / "server"), storage=storage_settings()))
    database.migrate("0001")
    metadata = MetaData()
    with database.writing() as session:
        metadata.reflect(session.connection())
        assert set(FIRST_VERSION) == set(metadata.tables) - {"alembic_version"}
        for name, row in FIRST_VERSION.items():
            by_itself = {column: value for column, value in row.items() if column != "id" or isinstance(value, str)}
            session.execute(insert(metadata.tables[name]).values(by_itself))
    yield database
    database.close()


def rows(database):
    """The first row of every table, as it is now."""
    found, metadata = {}, MetaData()
    with database.reading() as session:
        metadata.reflect(session.connection())
        for name in FIRST_VERSION:
            found[name] = session.execute(select(metadata.tables[name])).mappings().first()
    return found


def expect_all(database, **changed):
    now = rows(database)
    for table, row in FIRST_VERSION.items():
        assert {column: now[table][column] for column in row} == {**row, **changed.get(table, {})}, table


def test_every_row_of_the_first_version_is_there_after_the_upgrade_and_tokens_open_the_same(database):
    database.upgrade()
    scopes = ["contribute", "segment", "validate"]
    expect_all(database, tokens={"scopes": scopes})
    with database.writing() as session:
        assert sorted(identity.authenticate(session, TOKEN).scopes) == scopes
        assert session.get_one(Token, 1).label == ""
        for table in Base.metadata.tables.values():  # the code can read all of it
            session.execute(select(table)).all()


def test_down_and_up_again_loses_nothing_but_what_the_first_version_cannot_know(database):
    database.upgrade()
    with database.writing() as session:
        operators.add_operator(session, "on call")
    database.migrate("0001")
    now = rows(database)
    assert sorted(now["tokens"]["scopes"]) == sorted(FIRST_VERSION["tokens"]["scopes"])
    expect_all(database, tokens={"scopes": now["tokens"]["scopes"]})
    with database.reading() as session:  # an operator's token would be nobody's there
        assert session.execute(text("SELECT count(*) FROM tokens")).scalar() == 1
    database.upgrade()
    expect_all(database, tokens={"scopes": ["contribute", "segment", "validate"]})


def test_a_server_from_before_networks_were_shared_has_none_and_its_members_can_share(database):
    database.migrate("0002")
    database.upgrade()
    network = SharedNetwork(
        task_id=1, site_id=SITE, codec="0" * 32, blob="networks/x", stored_bytes=5 << 30, shared=WHEN
    )
    with database.writing() as session:
        assert session.scalars(select(SharedNetwork)).all() == []
        session.add(network)
    with database.reading() as session:
        assert session.get_one(SharedNetwork, (1, SITE)).stored_bytes == 5 << 30
    database.migrate("0002")
    expect_all(database, tokens={"scopes": ["contribute", "segment", "validate"]})
    database.upgrade()


def test_a_database_of_a_newer_version_is_refused_and_left_alone(database):
    database.upgrade()
    with database.writing() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(OperatorError, match="newer version"):
        database.upgrade()
    assert database.revision() == "9999"
    with pytest.raises(OperatorError, match="newer version"):
        database.migrate("8888")

"""The database: migrations make exactly the tables that the code has, transactions are whole, the audit log stays."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Column, Integer, MetaData, Table, func, select, text
from sqlalchemy.exc import DatabaseError, IntegrityError

from ppcmi_server import audit
from ppcmi_server.cli.main import main
from ppcmi_server.config import create_folder
from ppcmi_server.database.engine import Database
from ppcmi_server.database.schema import AuditEvent, Base, Member, Site
from support.storages import storage_settings

pytestmark = pytest.mark.usefixtures("every_storage")
WHEN = "2026-01-01T00:00:00Z"


@pytest.fixture
def database(tmp_path):
    database = Database(replace(create_folder(tmp_path / "server"), storage=storage_settings()))
    database.upgrade()
    yield database
    database.close()


def differences(database, metadata):
    with database.reading() as session:
        context = MigrationContext.configure(session.connection(), opts={"compare_type": True})
        return compare_metadata(context, metadata)


def test_the_newest_migration_is_the_schema(database):
    assert differences(database, Base.metadata) == []
    more = MetaData()
    for table in Base.metadata.tables.values():
        table.to_metadata(more)
    Table("forgotten", more, Column("id", Integer, primary_key=True))
    assert len(differences(database, more)) == 1  # it would be noticed


def test_upgrading_again_changes_nothing(database):
    with database.writing() as session:
        session.add(Site(id="0" * 16, name="Hospital A", created=WHEN))
    database.upgrade()
    with database.reading() as session:
        assert [site.name for site in session.scalars(select(Site))] == ["Hospital A"]


def test_a_transaction_is_whole_or_nothing_and_references_hold(database):
    def add_two_of_one_name():
        with database.writing() as session:
            for number in "01":
                session.add(Site(id=number * 16, name="Hospital A", created=WHEN))
                session.flush()

    with pytest.raises(IntegrityError):
        add_two_of_one_name()
    with pytest.raises(DatabaseError), database.writing() as session:  # PostgreSQL's driver has another class for it
        session.add(Member(task_id=1, site_id="1" * 16, joined=WHEN))
    with database.reading() as session:
        assert session.scalars(select(Site)).all() == []


@pytest.mark.parametrize("statement", ["DELETE FROM audit_events", "UPDATE audit_events SET actor = 'nobody'"])
def test_the_audit_log_only_grows(database, statement):
    with database.writing() as session:
        audit.record(session, audit.OPERATOR, "site.add", site="0" * 16)
    with pytest.raises(DatabaseError, match="append"), database.writing() as session:
        session.execute(text(statement))
    if database.kind == "sqlite":  # nor by another program
        connection = sqlite3.connect(database.url.removeprefix("sqlite:///"))
        with pytest.raises(sqlite3.DatabaseError):
            connection.execute(statement)
        connection.close()
    with database.reading() as session:
        (event,) = session.scalars(select(AuditEvent))
    assert (event.actor, event.action, event.objects) == ("operator", "site.add", {"site": "0" * 16})


def test_what_a_writer_read_stays_true_until_it_commits(database):
    """Read, then write what follows from it, by several at once: no writing is lost."""
    with database.writing() as session:
        session.add(Site(id="0" * 16, name="Hospital A", created=WHEN, quota_bytes=0))

    def count_up():
        for _ in range(10):
            with database.writing() as session:
                site = session.get_one(Site, "0" * 16)
                site.quota_bytes += 1

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(count_up) for _ in range(4)]:
            done.result()
    with database.reading() as session:
        assert session.get_one(Site, "0" * 16).quota_bytes == 40


def test_a_reader_sees_one_moment_while_others_write(database):
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(Site)) == 0
        with database.writing() as other:
            other.add(Site(id="0" * 16, name="Hospital A", created=WHEN))
        assert session.scalar(select(func.count()).select_from(Site)) == 0
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(Site)) == 1


def test_connections_that_a_database_server_ended_are_replaced(database, request):
    if database.kind != "postgresql":
        pytest.skip("SQLite has no server.")
    for number in range(1, 4):
        with database.reading() as session, database.reading() as other:  # both are kept for later
            assert len(session.scalars(select(AuditEvent)).all()) == len(other.scalars(select(AuditEvent)).all())
        request.getfixturevalue("postgres").disconnect_all(database.url)
        with database.writing() as session:
            audit.record(session, audit.OPERATOR, "site.add", site="0" * 16)
        with database.reading() as session:
            assert len(session.scalars(select(AuditEvent)).all()) == number


def test_a_database_that_does_not_answer_is_one_line(tmp_path, capsys):
    folder = create_folder(tmp_path / "server").folder
    address = "postgresql://ppcmi:secret@127.0.0.1:9/ppcmi"
    (folder / "server.toml").write_text(f'[storage]\ndatabase_url = "{address}"\n')
    assert main(["task", "list", "--dir", str(folder)]) == 14
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "database does not work" in err
    assert "secret" not in err

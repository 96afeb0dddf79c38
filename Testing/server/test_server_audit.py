"""The audit log: what is changed, dropped, moved or rolled back in it is found, here and at the sites."""

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import select

from ppcmi.audit_receipt import NAME, compare_receipt
from ppcmi.cli.main import main as site_main
from ppcmi.errors import SiteError
from ppcmi.site import SiteProfile
from ppcmi_server import audit
from ppcmi_server.access import identity
from ppcmi_server.cli.main import main
from ppcmi_server.config import create_folder
from ppcmi_server.database.engine import Database
from ppcmi_server.database.schema import AuditEvent
from ppcmi_server.errors import OperatorError
from support.app_server import app_server

EVENTS = 6


def open_database(folder):
    database = Database(create_folder(folder))
    database.upgrade()
    return database


@pytest.fixture
def database(tmp_path):
    """One with a log of several transactions, one of which tells of two things."""
    database = open_database(tmp_path / "server")
    for number in range(EVENTS - 2):
        with database.writing() as session:
            audit.record(session, audit.OPERATOR, "site.add", site=f"{number:016x}", number=number)
    with database.writing() as session:
        audit.record(session, "operator-7", "site.quota", site="0" * 16, bytes="default")
        audit.record(session, "operator-7", "site.weight", site="0" * 16, weight="0.5")
    yield database
    database.close()


def verified(database):
    with database.reading() as session:
        return audit.verify(session)


def tamper(database, *statements):
    """As somebody who can write the database's file, and knows of the triggers."""
    assert database.url.startswith("sqlite:///")
    with sqlite3.connect(database.url.removeprefix("sqlite:///")) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            connection.execute(statement)
    connection.close()


def test_a_log_that_nobody_touched_is_whole(database):
    state = verified(database)
    assert (state.events, state.unchained, state.first_broken) == (EVENTS, 0, None)
    with database.reading() as session:
        assert audit.head(session) == state.head
        assert audit.event_of(session, state.head) == EVENTS
        assert [event.id for event in audit.events(session, None, 3)] == [6, 5, 4]
        assert [event.id for event in audit.events(session, 4, 9)] == [3, 2, 1]


@pytest.mark.parametrize(
    ("statements", "broken"),
    [
        (["UPDATE audit_events SET actor = 'operator-8' WHERE id = 3"], 3),
        (["UPDATE audit_events SET objects = '{}' WHERE id = 1"], 1),
        (["UPDATE audit_events SET at = '2026-01-01T00:00:00Z' WHERE id = 6"], 6),
        (["UPDATE audit_events SET digest = NULL WHERE id = 4"], 4),
        (["DELETE FROM audit_events WHERE id = 3"], 4),
        (["DELETE FROM audit_events WHERE id = 1"], 2),
        (["UPDATE audit_events SET id = 99 WHERE id = 2", "UPDATE audit_events SET id = 2 WHERE id = 3",
          "UPDATE audit_events SET id = 3 WHERE id = 99"], 2),
        (["DELETE FROM audit_events WHERE id = 3", "UPDATE audit_events SET id = id - 1 WHERE id > 3"], 3),
        (["INSERT INTO audit_events (id, at, actor, action, objects) VALUES (7, '', 'operator', 'x', '{}')"], 7),
    ],
    ids=["edited", "first edited", "last redated", "digest gone", "dropped", "first dropped", "two exchanged",
         "dropped and renumbered", "added by hand"],
)  # fmt: skip
def test_whatever_is_done_to_an_event_the_first_that_does_not_follow_is_named(database, statements, broken):
    tamper(database, *statements)
    assert verified(database).first_broken == broken


def test_what_was_cut_off_at_the_end_or_written_anew_is_found_by_whoever_kept_a_digest(database, tmp_path):
    receipt = verified(database).head
    tamper(database, "DELETE FROM audit_events WHERE id = 6")
    assert verified(database).first_broken is None  # alone it looks whole
    with database.reading() as session:
        assert audit.event_of(session, receipt) is None
    with database.writing() as session:
        audit.record(session, "operator-7", "site.weight", site="0" * 16, weight="0.7")
    with database.reading() as session:
        assert audit.event_of(session, receipt) is None  # also when it has grown again


def test_what_is_undone_leaves_no_event_and_no_gap(database):
    def fail():
        with database.writing() as session:
            audit.record(session, audit.OPERATOR, "site.add", site="f" * 16)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with database.writing() as session:
        audit.record(session, audit.OPERATOR, "site.add", site="e" * 16)
    state = verified(database)
    assert (state.events, state.first_broken) == (EVENTS + 1, None)


def test_the_order_is_that_of_events_whatever_the_clock_does(database):
    with database.writing() as session:
        audit.record(session, audit.OPERATOR, "site.add", site="a" * 16)
        session.info["audit-events"][-1].at = "1999-12-31T23:59:59Z"  # the clock was set back
    with database.writing() as session:
        audit.record(session, audit.OPERATOR, "site.add", site="b" * 16)
    state = verified(database)
    assert (state.events, state.first_broken) == (EVENTS + 2, None)
    with database.reading() as session:
        assert [event.objects["site"][0] for event in audit.events(session, None, 2)] == ["b", "a"]


def test_a_log_from_before_there_were_digests_is_covered_by_the_first_one(tmp_path):
    database = open_database(tmp_path / "server")
    with sqlite3.connect(tmp_path / "server" / "ppcmi.sqlite3") as connection:
        for action in ("task.add", "site.add"):
            connection.execute(
                "INSERT INTO audit_events (at, actor, action, objects) VALUES ('2026-01-01', 'operator', ?, '{}')",
                (action,),
            )
    connection.close()
    assert verified(database) == audit.AuditState(2, 2, None, "")
    with database.writing() as session:
        audit.record(session, audit.OPERATOR, "site.add", site="a" * 16)
    state = verified(database)
    assert (state.events, state.unchained, state.first_broken) == (3, 2, None)
    tamper(database, "UPDATE audit_events SET actor = 'nobody' WHERE id = 1")
    assert verified(database).first_broken == 3
    database.close()


def test_an_exported_log_is_verified_without_the_server(database):
    with database.reading() as session:
        lines = list(audit.export(session))
    assert audit.verify_lines(lines) == verified(database)
    edited = [line.replace("operator-7", "operator-8") for line in lines]
    assert audit.verify_lines(edited).first_broken == 5
    assert audit.verify_lines([lines[0], *lines[2:]]).first_broken == 3
    for bad in ("", "[]", "{}", '{"id": 1}', "\x00"):
        with pytest.raises(OperatorError, match="not an exported audit log"):
            audit.verify_lines([bad])


def test_docs_protocol_is_enough_to_verify_a_log(database):
    """What the protocol's page says of digests, done anew and by hand."""
    from hashlib import sha256

    with database.reading() as session:
        lines = [json.loads(line) for line in audit.export(session)]
    digest = bytes(32)
    for entry in lines:
        keys = ("action", "actor", "at", "id", "objects")
        content = json.dumps({key: entry[key] for key in keys}, sort_keys=True, separators=(",", ":"))
        digest = sha256(digest + content.encode("ascii")).digest()
        assert entry["digest"] == digest.hex()


def test_an_operator_lists_verifies_and_exports_by_commands(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder, file = tmp_path / "server", tmp_path / "audit.jsonl"

    def run(*words):
        code = main([*words, "--dir", str(folder)])
        return code, "".join(capsys.readouterr())

    main(["init", str(folder)])
    for name in ("Hospital A", "Hospital B"):
        run("site", "add", name)
    assert "site.add" in run("audit", "list", "--count", "1")[1]
    code, said = run("audit", "verify")
    assert code == 0
    head = said.split()[-1]
    assert len(head) == 64
    assert run("audit", "export", str(file))[0] == 0
    assert run("audit", "verify", "--head", head.upper())[0] == 0
    assert run("audit", "verify", "--file", str(file), "--head", head)[0] == 0
    code, said = run("audit", "verify", "--head", "0" * 64)
    assert code == 14
    assert "rolled back or written anew" in said
    assert run("audit", "verify", "--head", "abc")[0] == 2
    file.write_text(file.read_text().replace('"id": 2', '"id": 3'))
    code, said = run("audit", "verify", "--file", str(file))
    assert code == 14
    assert "Event 3 does not follow" in said


def test_a_site_notices_that_the_servers_database_was_set_back(tmp_path, capsys):
    backup = tmp_path / "backup.sqlite3"
    with app_server(tmp_path / "server") as server:
        with server.services.database.writing() as session:
            code = identity.add_site(session, "Hospital A")
        site = SiteProfile.enrol(tmp_path / "site", server.url, code)
        file = Path(server.services.config.folder) / "ppcmi.sqlite3"
        assert not compare_receipt(site.folder, site.client())
        with sqlite3.connect(file) as source, sqlite3.connect(backup) as target:
            source.backup(target)
        server.add_site("Hospital B")
        server.add_site("Hospital C")
        assert compare_receipt(site.folder, site.client())  # it has grown, and has what was seen
        assert site_main(["site", "test", "--site", str(site.folder)]) == 0
        assert "audit log still has what this site saw" in capsys.readouterr().out
        kept = (site.folder / NAME).read_text()
        with sqlite3.connect(backup) as source, sqlite3.connect(file) as target:
            source.backup(target)
        with pytest.raises(SiteError, match="set back or written anew"):
            compare_receipt(site.folder, site.client())
        assert (site.folder / NAME).read_text() == kept  # the evidence stays
        assert site_main(["site", "test", "--site", str(site.folder)]) == SiteError.exit_code
    shutil.rmtree(tmp_path / "server")


def test_a_damaged_receipt_is_replaced_by_a_good_one(tmp_path):
    with app_server(tmp_path / "server") as server:
        site = server.add_site("Hospital A")
        (tmp_path / NAME).write_text("no digest")
        assert not compare_receipt(tmp_path, site.client)
        assert compare_receipt(tmp_path, site.client)


def test_every_event_tells_who_did_it(tmp_path):
    with app_server(tmp_path / "server") as server:
        with server.services.database.writing() as session:
            code = identity.add_site(session, "Hospital A", actor="operator-3")
            identity.set_quota(session, "Hospital A", 1 << 30, "operator-3")
            identity.revoke_site(session, "Hospital A", "operator-3")
        with server.services.database.reading() as session:
            told = session.execute(select(AuditEvent.actor, AuditEvent.action)).all()
        assert {actor for actor, action in told if action.startswith("site.")} == {"operator-3"}
        assert code not in str(told)

"""What a withdrawal deletes leaves SQLite's log as soon as nobody reads it any longer, and nobody waits for that."""

import sqlite3
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError

from ppcmi_server.config import create_folder, load_config
from ppcmi_server.database import engine, traces
from ppcmi_server.database.engine import Database
from ppcmi_server.database.schema import Cohort, Site
from ppcmi_server.database.traces import TraceEraser
from support.app_server import app_server

SOON_S = 8.0
"""Far less than a writer waits for others before it gives up."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with app_server(tmp_path_factory.mktemp("traces") / "server") as server:
        yield server


@pytest.fixture(scope="module")
def sites(server):
    return server.add_consortium("Hospital A", "Hospital B")


@pytest.fixture
def cohort(sites, tmp_path):
    return sites[0].upload(sites[0].write_cohort(tmp_path / "a.ppcmi", [1]))


@pytest.fixture
def database(tmp_path):
    database = Database(create_folder(tmp_path / "server"))
    database.upgrade()
    yield database
    database.close()


@pytest.fixture
def command(database, tmp_path):
    """The database as a command opens it beside the server, and has written to it."""
    command = Database(load_config(tmp_path / "server"))
    with command.writing() as session:
        session.add(Site(id="0" * 16, name="Hospital A", created="2026-01-01T00:00:00Z"))
    return command


@contextmanager
def a_long_read(database):
    """Somebody looks at one moment of the database, as a backup or an export does for as long as it takes."""
    with database.reading() as session:
        session.execute(text("SELECT count(*) FROM sites")).all()
        yield


def log_of(database):
    """SQLite's log, which has what was written lately and what that was before."""
    return Path(database.url.removeprefix("sqlite:///") + "-wal").read_bytes()


def wait_until(true, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def test_neither_a_withdrawal_nor_who_writes_meanwhile_waits_for_a_reader(server, sites, cohort):
    with a_long_read(server.services.database):
        began = time.monotonic()
        assert sites[0].call("DELETE", f"/v1/cohorts/{cohort}").status_code == 204
        added = sites[1].call("POST", "/v1/tokens", json={"label": "x", "scopes": ["segment"], "days": 1.0})
        assert added.status_code == 201
        assert time.monotonic() - began < SOON_S


def test_the_wrapped_key_leaves_the_disk_as_soon_as_the_reader_has_ended(server, sites, cohort):
    database = server.services.database
    with database.reading() as session:
        wrapped = session.scalar(select(Cohort.wrapped_key).where(Cohort.id == cohort))

    def is_there():
        return any(wrapped in file.read_bytes() for file in server.services.config.folder.glob("ppcmi.sqlite3*"))

    with a_long_read(database):
        assert sites[0].call("DELETE", f"/v1/cohorts/{cohort}").status_code == 204
        time.sleep(2 * traces.FIRST_PAUSE_S)
        assert is_there()  # the reader may need it still
    wait_until(lambda: not is_there())  # and nobody asked for anything


def test_a_withdrawal_has_happened_whatever_becomes_of_its_traces(server, sites, cohort, monkeypatch):
    def fail(_):
        raise OperationalError("PRAGMA", {}, sqlite3.OperationalError("disk I/O error"))

    with monkeypatch.context() as failing:
        failing.setattr(engine, "_truncate_log", fail)
        assert sites[0].call("DELETE", f"/v1/cohorts/{cohort}").status_code == 204
    wait_until(lambda: log_of(server.services.database) == b"")  # it was tried again


def test_a_command_waits_for_a_reader_before_it_ends(database, command):
    with a_long_read(database):
        command.erase_traces()
        assert log_of(database) != b""
        closing = threading.Thread(target=command.close)
        closing.start()
        time.sleep(0.2)
        assert closing.is_alive()
    closing.join(20)
    assert log_of(database) == b""


def test_but_not_for_ever(database, command, monkeypatch):
    monkeypatch.setattr(traces, "AT_END_S", 0.2)
    with a_long_read(database):
        command.erase_traces()
        began = time.monotonic()
        command.close()
        assert time.monotonic() - began < SOON_S


def test_an_attempt_follows_another_until_one_erases_everything(monkeypatch):
    """Failures in between change nothing; whoever asks meanwhile is served by the next attempt."""
    monkeypatch.setattr(traces, "FIRST_PAUSE_S", 0.01)
    outcomes = [False, OperationalError("", {}, Exception()), False, True, True]
    made = []

    def attempt():
        made.append(outcomes[len(made)])
        if isinstance(made[-1], Exception):
            raise made[-1]
        return made[-1]

    erase = TraceEraser(attempt)
    erase()
    erase()
    wait_until(lambda: len(made) == 4)
    time.sleep(0.1)
    assert len(made) == 4  # it is done
    erase()
    assert len(made) == 5
    erase.close()

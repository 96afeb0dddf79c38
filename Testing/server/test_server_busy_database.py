"""While somebody writes and does not end, others read; who waits to write for too long is told to come back."""

import sqlite3
import threading
import time
from contextlib import contextmanager

import pytest
import requests
from sqlalchemy.exc import OperationalError

from ppcmi_server.access import operators
from ppcmi_server.database import engine
from ppcmi_server.database.contention import is_busy
from support.app_server import TASK, app_server

pytestmark = pytest.mark.usefixtures("every_storage")

SOON_S = 8.0
"""Far less than a connection of the database is waited for."""


@pytest.fixture(scope="module")
def server(tmp_path_factory, every_storage):
    with app_server(tmp_path_factory.mktemp("busy") / "server") as server:
        yield server


@pytest.fixture(scope="module")
def sites(server):
    sites = server.add_consortium("Hospital A", "Hospital B")
    for site in sites:
        site.client.me()  # the first use of a token is noted, which is a write
    return sites


@pytest.fixture
def impatient(server, monkeypatch):
    """Who writes waits for a moment only."""
    with monkeypatch.context() as changed:
        changed.setattr(engine, "BUSY_TIMEOUT_MS", 200)
        server.services.database._engine.dispose()  # SQLite's connections have it from their beginning
        yield
    server.services.database._engine.dispose()


@contextmanager
def somebody_writes(server):
    with server.services.database.writing() as session:
        session.connection()  # with this it begins
        yield


def write(site):
    return site.call("POST", "/v1/tokens", json={"label": "x", "scopes": ["segment"], "days": 1.0})


def expect_busy(answer):
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:ppcmi:problem:busy"), answer.text
    assert int(answer.headers["Retry-After"]) > 0


@pytest.mark.usefixtures("impatient")
def test_who_waited_too_long_is_told_to_come_back_and_then_gets_in(server, sites):
    with somebody_writes(server):
        expect_busy(write(sites[0]))
    assert write(sites[0]).status_code == 201


@pytest.mark.usefixtures("impatient")
def test_of_an_upload_that_waited_too_long_nothing_is_left(server, sites):
    before = server.services.blobs.names("codecs")
    codec = {"data": b"codec", "headers": {"X-PPCMI-Codec": "0" * 32}}
    with somebody_writes(server):
        expect_busy(sites[0].call("PUT", f"/v1/tasks/{TASK.name}/codec", **codec))
    assert server.services.blobs.names("codecs") == before


@pytest.mark.usefixtures("impatient")
def test_an_operator_is_told_so_on_a_page(server):
    with server.services.database.writing() as session:
        token = operators.add_operator(session, "Night shift")
    with somebody_writes(server):
        page = requests.post(f"{server.url}/dashboard/login", {"token": token}, timeout=30)
    assert (page.status_code, "try again in" in page.text) == (503, True)
    assert int(page.headers["Retry-After"]) > 0


def test_others_read_however_many_wait_to_write(server, sites):
    with somebody_writes(server):
        waiting = [threading.Thread(target=write, args=sites[:1]) for _ in range(25)]
        for thread in waiting:
            thread.start()
        time.sleep(1)
        began = time.monotonic()
        assert sites[1].call("GET", "/v1/me").status_code == 200
        assert time.monotonic() - began < SOON_S
    for thread in waiting:
        thread.join(30)


def test_only_what_others_were_in_the_way_of_is_busy():
    class PgError(Exception):
        pass

    def from_database(cause):
        return OperationalError("statement", {}, cause)

    assert is_busy(from_database(PgError({"S": "ERROR", "C": "55P03"})))
    assert not is_busy(from_database(PgError({"S": "ERROR", "C": "53100"})))
    assert not is_busy(from_database(sqlite3.OperationalError("no such table")))
    assert not is_busy(OSError(16, "Device or resource busy"))

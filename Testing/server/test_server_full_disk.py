"""A full disk refuses what does not fit, keeps nothing half, and is forgotten when there is room again (F5)."""

import os
import re
import subprocess
import sys

import pytest
import requests
from sqlalchemy.exc import DBAPIError, OperationalError

from ppcmi.errors import ServerRefusedError
from ppcmi.frame_sender import FrameSender
from ppcmi_server.access import identity, operators
from ppcmi_server.database.schema import Login
from ppcmi_server.errors import RefusalError
from ppcmi_server.intake.quota import Room
from ppcmi_server.settings import StorageSettings
from ppcmi_server.storage.full_disk import is_full
from support.app_server import CODEC, TASK, app_server
from support.uploads import UploadingSite, differences, frames_of, orphans, refused

MEBIBYTE = 1 << 20
SIZE = 16 * MEBIBYTE


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory):
    """A file system of 16 MiB in memory."""
    folder = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    if not sys.platform.startswith("linux") or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("Only root may mount a small file system here.")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def server(small_disk):
    with app_server(small_disk / "server", {"storage": StorageSettings(reserve_bytes=0)}) as server:
        yield server


@pytest.fixture(scope="module")
def site(server, tmp_path_factory):
    with server.services.database.writing() as session:
        code = identity.add_site(session, "Hospital A")
    return UploadingSite(tmp_path_factory.mktemp("site") / "profile", server.url, code)


@pytest.fixture
def ballast(small_disk):
    """``ballast(n)`` leaves n bytes of the disk free."""
    file = small_disk / "ballast"

    def leave(count):
        file.unlink(missing_ok=True)
        disk = os.statvfs(small_disk)
        file.write_bytes(bytes(max(0, disk.f_bavail * disk.f_frsize - count)))

    yield leave
    file.unlink(missing_ok=True)


def test_a_frame_and_a_chunk_that_do_not_fit_are_refused_and_leave_nothing(server, site, ballast, tmp_path):
    path = tmp_path / "a.ppcmi"
    cohort = site.write_cohort(path, [60, 60])
    first, second = frames_of(cohort)
    cohort_id = site.client.create_cohort(TASK.name, cohort.header_bytes)
    site.client.put_frame(cohort_id, 0, first)
    ballast(len(second) // 2)
    with refused(507, "no room"):
        site.client.put_frame(cohort_id, 1, second)
    sender = FrameSender(site.client, cohort_id, largest=200 << 10)
    with refused(507, "no room"):
        sender.send(1, second)  # its first chunks fit
    state = site.client.cohort(cohort_id)
    assert state["frames"] == [0]
    assert orphans(server.services) == set()
    ballast(SIZE)
    assert site.upload(path).cases == 2
    assert differences(server.services, cohort_id, cohort) == []


class Roomless(Room):
    """Believes that there is room, as it does when others fill the disk in the same moment."""

    def require_space(self, more):
        pass


def test_a_disk_that_fills_in_the_middle_of_a_write_is_answered_with_507(server, site, ballast, tmp_path, monkeypatch):
    path = tmp_path / "b.ppcmi"
    cohort = site.write_cohort(path, [60], first=10)
    (frame,) = frames_of(cohort)
    cohort_id = site.client.create_cohort(TASK.name, cohort.header_bytes)
    cohorts = server.services.cohorts
    believing = Roomless(StorageSettings(), [])
    monkeypatch.setattr(cohorts, "room", believing)
    monkeypatch.setattr(cohorts.uploads, "_room", believing)
    ballast(len(frame) // 2)
    with refused(507, "no room"):
        site.client.put_frame(cohort_id, 0, frame)
    with refused(507, "no room"):
        FrameSender(site.client, cohort_id, largest=200 << 10).send(0, frame)
    assert orphans(server.services) == set()
    ballast(0)
    other = site.write_cohort(tmp_path / "c.ppcmi", [1], first=20)
    with refused(507, "no room"):
        for _ in range(200):  # until what the database has in reserve is used up
            site.client.create_cohort(TASK.name, other.header_bytes)
            other = site.write_cohort(tmp_path / "c.ppcmi", [1], first=20)
    assert site.client.me()["site_id"] == site.profile.identity.site_id  # it still answers
    ballast(SIZE)
    assert site.upload(path).cases == 1
    assert differences(server.services, cohort_id, cohort) == []
    assert orphans(server.services) == set()
    with server.services.database.reading() as session:
        assert session.connection().exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"


def test_uploads_leave_the_reserve_to_the_database_and_checkpoints(tmp_path, monkeypatch):
    disk = os.statvfs(tmp_path)
    free = disk.f_bavail * disk.f_frsize
    with app_server(tmp_path / "server") as server:
        with server.services.database.writing() as session:
            code = identity.add_site(session, "Hospital A")
        site = UploadingSite(tmp_path / "site", server.url, code)
        cohort = site.write_cohort(tmp_path / "a.ppcmi", [1])
        blobs = [server.services.blobs.names(folder) for folder in ("codecs", "networks")]
        full = StorageSettings(reserve_bytes=free + (1 << 40))
        monkeypatch.setattr(server.services.cohorts.room, "_storage", full)
        with refused(507, "no room"):
            site.client.create_cohort(TASK.name, cohort.header_bytes)
        with refused(507, "no room"):
            site.client.put_codec(TASK.name, b"encrypted codec", CODEC)
        with refused(507, "no room"):
            site.client.put_network(TASK.name, b"encrypted network", CODEC)
        assert [server.services.blobs.names(folder) for folder in ("codecs", "networks")] == blobs
    room = Room(StorageSettings(reserve_bytes=free // 2), [tmp_path, tmp_path / "not" / "made" / "yet"])
    room.require_space(1000)
    with pytest.raises(RefusalError) as caught:
        room.require_space(free)
    assert (caught.value.status, caught.value.kind) == (507, "storage")


def test_only_a_full_disk_is_one():
    class PgError(Exception):
        pass

    def from_database(cause):
        return DBAPIError("statement", {}, cause)

    assert is_full(OSError(28, "No space left on device"))
    assert not is_full(OSError(13, "Permission denied"))
    assert is_full(from_database(PgError({"S": "ERROR", "C": "53100"})))
    assert not is_full(from_database(PgError({"S": "ERROR", "C": "40001"})))
    assert not is_full(OperationalError("statement", {}, Exception()))
    assert not is_full(ServerRefusedError(507, "no", "room"))


def test_the_dashboard_can_be_read_meanwhile_and_what_it_cannot_do_is_said_on_a_page(server, ballast):
    with server.services.database.writing() as session:
        token = operators.add_operator(session, "Night shift")
    browser, root = requests.Session(), f"{server.url}/dashboard"
    form = {"csrf": re.search(r'name="csrf" value="([^"]+)"', browser.post(f"{root}/login", {"token": token}).text)[1]}
    with server.services.database.writing() as session:
        for login in session.query(Login):
            login.last_seen -= 600  # the next click would be noted
    ballast(0)
    assert browser.get(f"{root}/load").status_code == 200
    refused_page = browser.post(f"{root}/sites", {**form, "name": "Hospital " + "B" * 80})
    assert (refused_page.status_code, "no room" in refused_page.text) == (507, True)
    ballast(4 * MEBIBYTE)
    assert "one-time code" in browser.post(f"{root}/sites", {**form, "name": "Hospital " + "B" * 80}).text

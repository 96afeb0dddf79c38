"""Where latents lie on another disk than the server's folder, the fuller of both is what everybody speaks of."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import requests

from ppcmi_server.access import operators
from ppcmi_server.config import load_config
from ppcmi_server.intake import quota
from ppcmi_server.operation.doctor import examine
from ppcmi_server.settings import StorageSettings
from support.app_server import TASK, app_server
from support.uploads import refused

MEBIBYTE = 1 << 20
RESERVE = 16 * MEBIBYTE

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def disks(monkeypatch):
    """``disks[folder]``: what is free there and below, on a disk of its own size."""
    free, real = {}, shutil.disk_usage

    def usage(path):
        for number, (folder, left) in enumerate(free.items(), start=1):
            if Path(path).is_relative_to(folder):
                return Usage(number << 30, (number << 30) - left, left)
        return real(path)

    monkeypatch.setattr(quota.shutil, "disk_usage", usage)
    return free


@pytest.fixture
def server(tmp_path, disks):
    storage = StorageSettings(blobs_url=str(tmp_path / "disk of latents" / "blobs"), reserve_bytes=RESERVE)
    (tmp_path / "disk of latents").mkdir()
    disks[tmp_path / "disk of latents"] = disks[tmp_path / "server"] = 64 * MEBIBYTE
    with app_server(tmp_path / "server", {"storage": storage}) as server:
        yield server


@pytest.fixture(params=["disk of latents", "server"])
def full(request, tmp_path, disks, server):
    """Fill the one or the other disk after a consortium was founded; what lies there."""
    sites = server.add_consortium("Hospital A")
    disks[tmp_path / request.param] = RESERVE - MEBIBYTE
    cohort = sites[0].write_cohort(tmp_path / "a.ppcmi", [1])
    with refused(507, "no room"):  # this is what the others have to foretell
        sites[0].client.create_cohort(TASK.name, cohort.header_bytes)
    return "latents and codecs" if request.param == "disk of latents" else "the server's folder"


def log_in(server):
    with server.services.database.writing() as session:
        token = operators.add_operator(session, "Night shift")
    browser, root = requests.Session(), f"{server.url}/dashboard"
    browser.post(f"{root}/login", {"token": token}, timeout=20)
    return lambda path: browser.get(root + path, timeout=20).text


def metric(server, name):
    with server.services.database.writing() as session:
        token = operators.add_operator(session, "Monitoring", ["observe"])
    answer = requests.get(f"{server.url}/metrics", headers={"Authorization": f"Bearer {token}"}, timeout=20)
    (line,) = [line for line in answer.text.splitlines() if line.startswith(f"{name} ")]
    return float(line.split()[1])


def space(server):
    (finding,) = [f for f in examine(load_config(server.services.config.folder)) if f.subject == "space"]
    return finding


def test_with_room_on_both_uploads_are_open(server):
    assert requests.get(f"{server.url}/readyz", timeout=20).json()["uploads"] == "open"
    assert space(server).level == "ok"
    assert metric(server, "ppcmi_storage_free_bytes") == 64 * MEBIBYTE
    page = log_in(server)
    assert "uploads are refused" not in page("") + page("/load")


def test_readiness_says_that_uploads_are_closed(server, full):
    assert requests.get(f"{server.url}/readyz", timeout=20).json() == {"status": "ok", "uploads": "closed"}


def test_the_doctor_says_which_disk_needs_room(server, full):
    assert (space(server).level, full in space(server).says) == ("problem", True)


def test_the_alert_for_little_space_sees_the_fuller_disk(server, full):
    assert metric(server, "ppcmi_storage_free_bytes") == RESERVE - MEBIBYTE
    assert metric(server, "ppcmi_storage_reserve_bytes") == RESERVE


def test_the_dashboard_shows_both_disks_and_which_of_them_is_full(server, full):
    page = log_in(server)
    said = full.replace("'", "&#39;")
    assert f"on the disk of {said}, less than the reserve" in page("")
    for path in ("", "/load"):
        assert all(what in page(path) for what in ("latents and codecs", "the server&#39;s folder"))


def test_folders_on_one_disk_are_one_disk(tmp_path):
    (disk,) = quota.Room(StorageSettings(), [tmp_path, tmp_path / "not" / "made" / "yet"]).disks()
    assert disk.what == "the server's folder"

"""One headless Slicer for all tests in this folder, brought back to its beginning after each of them."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ppcmi.site import SiteProfile
    from slicer_host.host import SlicerHost
    from support.real_server import RealServer
    from support.trained_site import TrainedSite

# The wheel slicer-core goes as far as Python 3.13.
_HAS_SLICER_CORE = sys.version_info < (3, 14)
collect_ignore_glob = [] if _HAS_SLICER_CORE else ["test_*.py"]


def pytest_report_header() -> list[str]:
    """Say where the tests of the module cannot run."""
    return [] if _HAS_SLICER_CORE else ["The tests of the Slicer module need Python 3.13 or earlier; left out."]


@pytest.fixture(scope="session")
def running_host() -> Iterator[SlicerHost]:
    """The host, started with the first test that asks; on Slicer's own Python files where SLICER_BASE_PYTHON says."""
    from slicer_host.host import SlicerHost

    base = os.environ.get("SLICER_BASE_PYTHON")
    host = SlicerHost(base_python=Path(base) if base else None)
    host.start()
    yield host
    host.stop()


@pytest.fixture
def slicer_host(running_host: SlicerHost) -> Iterator[SlicerHost]:
    """The host with an empty scene. A test fails where a slot raised and the test did not look at it."""
    yield running_host
    errors = list(running_host.slot_errors)
    running_host.reset()
    if errors:
        raise errors[0]


@pytest.fixture
def folder(a_site: TrainedSite, tmp_path: Path) -> Path:
    """Of a copy of its profile, for a test to change."""
    return Path(shutil.copytree(a_site.folder, tmp_path / "site"))


# ---- the tab Site


@pytest.fixture(scope="session")
def a_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """A server that nobody has enrolled at."""
    from support.real_server import real_server
    from support.trained_site import TASK_FILE

    with real_server(tmp_path_factory.mktemp("server") / "server", TASK_FILE) as server:
        yield server


@pytest.fixture
def names(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Names of sites that no other test has taken."""
    return lambda name: f"{name} {abs(hash(request.node.name)) % 10**8}"


@pytest.fixture
def enrol_elsewhere(a_server: RealServer, tmp_path: Path) -> Callable[[str], SiteProfile]:
    """Enrols another site, at another workstation."""
    from ppcmi.site import SiteProfile

    return lambda name: SiteProfile.enrol(tmp_path / name, a_server.url, a_server.add_site(name))


@pytest.fixture
def an_empty_tab(slicer_host: SlicerHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The tab on a workstation without a site."""
    from slicer_module.site_tab import opened_site_tab

    return opened_site_tab(slicer_host, tmp_path / "site", monkeypatch)


@pytest.fixture
def a_site_s_tab(
    slicer_host: SlicerHost,
    monkeypatch: pytest.MonkeyPatch,
    enrol_elsewhere: Callable[[str], SiteProfile],
    names: Callable[[str], str],
) -> Any:
    """The tab of an enrolled site."""
    from slicer_module.site_tab import opened_site_tab

    return opened_site_tab(slicer_host, enrol_elsewhere(names("Site")).folder, monkeypatch)


@pytest.fixture(scope="session")
def a_trained_site(kept_site: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainedSite]:
    """A site with a codec and a model for one task, and founder of another one."""
    from slicer_module.site_tab import ABSENT, UNTRAINED
    from support.trained_site import TASK_FILE, copy_of_a_trained_site

    folder = tmp_path_factory.mktemp("trained")
    with copy_of_a_trained_site(kept_site, folder) as site:
        task = {**json.loads(TASK_FILE.read_text()), "name": UNTRAINED, "title": "Untrained"}
        task["labels"].append({**task["labels"][-1], "value": len(task["labels"]) + 1, "name": ABSENT})
        file = folder / "task.json"
        file.write_text(json.dumps(task))
        site.server.command("task", "add", str(file))
        site.command("consortium", "create", "--task", UNTRAINED)
        yield site


@pytest.fixture
def a_copied_site(a_trained_site: TrainedSite, tmp_path: Path) -> TrainedSite:
    """A copy of its profile, for a test to change."""
    return dataclasses.replace(a_trained_site, folder=Path(shutil.copytree(a_trained_site.folder, tmp_path / "site")))

"""One headless Slicer for all tests in this folder, brought back to its beginning after each of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from slicer_host.host import SlicerHost

# The wheel slicer-core goes as far as Python 3.13.
_HAS_SLICER_CORE = sys.version_info < (3, 14)
collect_ignore_glob = [] if _HAS_SLICER_CORE else ["test_*.py"]


def pytest_report_header() -> list[str]:
    """Say where the tests of the module cannot run."""
    return [] if _HAS_SLICER_CORE else ["The tests of the Slicer module need Python 3.13 or earlier; left out."]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep these tests in one process: each process that runs one starts a Slicer of its own."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("slicer"))


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

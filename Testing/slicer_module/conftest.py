"""One headless Slicer for all tests in this folder, brought back to its beginning after each of them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from slicer_host.host import SlicerHost


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep these tests in one process: each process that runs one starts a Slicer of its own."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("slicer"))


@pytest.fixture(scope="session")
def running_host() -> Iterator[SlicerHost]:
    """The host, started with the first test that asks; on Slicer's own Python files where SLICER_BASE_PYTHON says."""
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

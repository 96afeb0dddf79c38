"""A link to segment by and scans to segment, for tests of batches."""

import pytest

from support.batch_runs import Thresholds, write_dark_scan, write_scan
from support.private_link import HalvingServer, link_to, untrained_codec


@pytest.fixture(scope="module")
def a_codec():
    return untrained_codec()


@pytest.fixture
def a_server(a_codec):
    return HalvingServer(task=a_codec.task.identity)


@pytest.fixture
def a_link(a_codec, a_server):
    return link_to(a_server, a_codec, decoder=Thresholds(a_codec))


@pytest.fixture
def scans(tmp_path):
    """Three small scans, their paths by name."""
    (tmp_path / "scans").mkdir()
    paths = [tmp_path / "scans" / f"{name}.nii.gz" for name in ("one", "two", "three")]
    for number, path in enumerate(paths):
        write_scan(path, number)
    return paths


@pytest.fixture
def a_dark_scan(tmp_path):
    """The path of a scan in which the link's decoder finds nothing."""
    write_dark_scan(tmp_path / "dark.nii.gz")
    return tmp_path / "dark.nii.gz"

"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_folder():
    """``data_folder("hippocampus_mr")``: the folder of a data set of real images; skips where there is none.

    They lie in the folder that ``PPCMI_TEST_DATA`` names, or in ``shared/data`` beside the repository.
    """
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("PPCMI_TEST_DATA") or beside)

    def find(name):
        if not (root / name).is_dir():
            pytest.skip(f"There is no data set {name}; name the folder that holds it in PPCMI_TEST_DATA.")
        return root / name

    return find


@pytest.fixture(scope="session")
def kept_site(request):
    """Where a trained site is kept, for all processes that run tests of this code."""
    return request.config.cache.mkdir("trained-site")


@pytest.fixture(scope="module")
def a_site(kept_site, tmp_path_factory):
    """A site with a codec and a model for the one task of its server."""
    from support.trained_site import copy_of_a_trained_site

    with copy_of_a_trained_site(kept_site, tmp_path_factory.mktemp("trained")) as site:
        yield site

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

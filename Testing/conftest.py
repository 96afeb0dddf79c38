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


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL cluster; skips where Debian's package ``postgresql`` is missing."""
    pytest.importorskip("pg8000", reason="The extra 'postgresql' is not installed.")
    from support.postgres import postgres_binary, postgres_cluster

    if postgres_binary("initdb") is None:
        pytest.skip("There is no PostgreSQL; install Debian's package postgresql.")
    with postgres_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def s3_store():
    """An S3 store on loopback; skips where the extra ``dev`` is not installed."""
    for module in ("moto", "s3fs"):
        pytest.importorskip(module, reason="The extras 's3' and 'dev' are not installed.")
    from support.s3 import object_store

    with object_store() as store:
        yield store


@pytest.fixture(scope="module", params=["sqlite-directory", "postgresql-s3"])
def every_storage(request):
    """Tests that use this run once with SQLite and a directory, once with PostgreSQL and an S3 store."""
    if request.param == "sqlite-directory":
        yield
        return
    cluster, store = request.getfixturevalue("postgres"), request.getfixturevalue("s3_store")
    from support.storages import postgresql_and_s3

    with postgresql_and_s3(cluster, store):
        yield

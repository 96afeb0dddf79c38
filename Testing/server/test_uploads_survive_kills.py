"""kill -9 at every step of an upload and of a withdrawal: what was acknowledged is there, and the rest goes on (F1)."""

import itertools

import pytest

from benchmarks.service_kills import random_kills
from ppcmi.client import Patience
from ppcmi.errors import ConnectionFailedError
from ppcmi_server.access import identity
from ppcmi_server.config import load_config
from ppcmi_server.database.schema import Cohort
from ppcmi_server.services import open_services
from support.killable import killable_server
from support.uploads import (
    RecordingClient,
    UploadingSite,
    add_task,
    differences,
    make_server,
    missing_of,
    orphans,
)

GIVES_UP = Patience(connect_s=5, read_s=20, attempts=1, pause_s=0.01)
CHUNK_BYTES = 30 << 10
SLICES = (4, 1)
"""A frame that comes in two chunks, and one that comes whole."""


@pytest.fixture(scope="module")
def folder(every_storage, tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed") / "server"
    make_server(folder, {"limits": {"chunk_bytes": CHUNK_BYTES}, "training": {"workers": 0}})
    return folder


@pytest.fixture(scope="module")
def services(folder):
    """What lies in the server's folder, looked at from beside it."""
    services = open_services(load_config(folder))
    add_task(services)
    yield services
    services.database.close()


@pytest.fixture(scope="module")
def server(folder, services):
    with killable_server(folder) as server:
        yield server


@pytest.fixture(scope="module")
def site(server, services, tmp_path_factory):
    with services.database.writing() as session:
        code = identity.add_site(session, "Hospital A")
    return UploadingSite(tmp_path_factory.mktemp("site") / "profile", server.url, code)


def upload_until_it_dies(server, site, path, step):
    """A client that knows what was acknowledged; None if the server lived on to the end."""
    client = RecordingClient(server.url, site.token, patience=GIVES_UP)
    server.die_at(step)
    try:
        site.upload(path, client, in_flight=1)
    except ConnectionFailedError:
        assert server.died()
        server.restart()
        return client
    assert not server.died()
    server.die_at(0)
    return None


def test_a_server_killed_at_any_step_of_an_upload_loses_nothing_that_it_acknowledged(server, services, site, tmp_path):
    # Each restart takes seconds where the database and the store are elsewhere: every other step has to do there.
    stride = 1 if services.blobs.is_local else 2
    for uploads, step in enumerate(itertools.count(1, stride), start=1):
        path = tmp_path / f"{step}.ppcmi"
        source = site.write_cohort(path, SLICES, first=2 * step)
        client = upload_until_it_dies(server, site, path, step)
        with services.database.reading() as session:
            found = list(session.query(Cohort))
        assert len(found) <= uploads  # none is there twice
        cohort_id = site.client.create_cohort(site.part.task.name, source.header_bytes)
        if client is None:
            break
        assert missing_of(getattr(client, "acknowledged", []), site.client.cohort(cohort_id)) == []
        summary = site.upload(path)
        assert (summary.cases, summary.slices) == (len(SLICES), sum(SLICES))
        assert differences(services, cohort_id, source) == []
    # A database of its own and a store keep no journal in the server's folder: there it is transactions and objects.
    assert step > (20 if services.blobs.is_local else 8), "the upload has fewer steps than it should"
    with services.database.reading() as session:
        assert session.query(Cohort).count() == uploads
    services.cohorts.sweep(older_than_s=0)
    assert orphans(services) == set()
    assert site.client.me()["stored_bytes"] == sum(
        len(services.blobs.read(f"cohorts/{cohort.id}/{name}"))
        for cohort in found
        for name in services.blobs.names(f"cohorts/{cohort.id}")
    ) + sum(len(cohort.header) for cohort in found)


def test_a_withdrawal_that_a_kill_interrupts_has_happened_whole_or_not_at_all(server, services, site, tmp_path):
    for step in itertools.count(1):
        path = tmp_path / f"{step}.ppcmi"
        source = site.write_cohort(path, (1, 1), first=1000 + 2 * step)
        cohort_id = site.upload(path).cohort_id
        client = RecordingClient(server.url, site.token, patience=GIVES_UP)
        server.die_at(step)
        try:
            client.withdraw(cohort_id)
        except ConnectionFailedError:
            assert server.died()
        else:
            break
        with services.database.reading() as session:
            cohort = session.get_one(Cohort, cohort_id)
        if cohort.state == "whole":
            assert differences(services, cohort_id, source) == []
        else:
            assert (cohort.state, cohort.wrapped_key, cohort.header) == ("withdrawn", None, None)
            services.cohorts.sweep()  # as the next start does; what was withdrawn is never too young
            assert services.blobs.names(f"cohorts/{cohort_id}") == []
        server.restart()
        site.client.withdraw(cohort_id)
        assert services.blobs.names(f"cohorts/{cohort_id}") == []
        assert orphans(services) == set()
    assert step > 3, "the withdrawal has fewer steps than it should"
    server.die_at(0)


def test_a_handful_of_random_kills_of_server_client_and_worker_loses_nothing(tmp_path):
    """The benchmark's story of 200 kills, in small."""
    tally = random_kills(tmp_path, kills=8, seed=3)
    assert tally.kills.total() >= 8
    assert tally.cases > 0
    assert (tally.cases_lost, tally.pieces_lost, tally.twice, tally.orphans, tally.left_of_withdrawn) == (0, 0, 0, 0, 0)

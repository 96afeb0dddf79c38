"""What a site may store: every byte that is kept counts, what is too much is refused unread, others never notice."""

import hashlib

import pytest

from ppcmi_server.access import identity
from ppcmi_server.settings import StorageSettings
from support.app_server import TASK, app_server
from support.shared_networks import networks, share_network, withdraw_network
from support.uploads import blobs_of, frames_of, refused

MEBIBYTE = 1 << 20
QUOTA = 3 * MEBIBYTE


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    settings = {"storage": StorageSettings(site_quota_bytes=QUOTA)}
    with app_server(tmp_path_factory.mktemp("quotas") / "server", settings) as server:
        yield server


@pytest.fixture(scope="module")
def sites(server):
    return server.add_consortium("Hospital A", "Hospital B")


@pytest.fixture
def site(sites):
    return sites[0]


def set_quota(server, site, quota):
    with server.services.database.writing() as session:
        identity.set_quota(session, site.name, quota)


def usage(site):
    me = site.client.me()
    return me["stored_bytes"], me["quota_bytes"]


def test_a_site_is_refused_what_goes_beyond_its_quota_and_others_are_not(server, sites, tmp_path):
    site, other = sites
    assert usage(site) == (0, QUOTA)
    cohort = site.write_cohort(tmp_path / "a.ppcmi", [1, 2], slices=43)  # four frames of 1 MiB
    cohort_id = site.client.create_cohort(TASK.name, cohort.header_bytes)
    first, second, third, fourth = frames_of(cohort)
    site.client.put_frame(cohort_id, 0, first)
    site.client.put_frame(cohort_id, 1, second)
    with refused(507, "Quota exceeded: The site may not store more"):
        site.client.put_frame(cohort_id, 2, third)
    chunk = {"frame_bytes": len(third), "frame_digest": "0" * 64}
    with refused(507, "Quota exceeded"):
        site.client.put_chunk(cohort_id, 2, 0, third[:-1000], **chunk)
    site.client.put_frame(cohort_id, 1, second)  # what is there may come again
    answer = site.call("PUT", f"/v1/cohorts/{cohort_id}/frames/2", data=iter([third]))  # its length is not said
    assert (answer.status_code, answer.json()["type"]) == (507, "urn:ppcmi:problem:quota-exceeded")
    stored = sum(len(content) for content in blobs_of(server, cohort_id).values())
    assert usage(site) == (stored + len(cohort.header_bytes), QUOTA)
    assert len(blobs_of(server, cohort_id)) == 2

    assert other.upload(other.write_cohort(tmp_path / "b.ppcmi", [1], slices=43))
    set_quota(server, site, 5 * MEBIBYTE)
    site.client.put_frame(cohort_id, 2, third)
    set_quota(server, site, 0)
    with refused(507, "Quota exceeded"):
        site.client.create_cohort(TASK.name, site.write_cohort(tmp_path / "c.ppcmi", [3], slices=1).header_bytes)
    set_quota(server, site, None)
    site.client.withdraw(cohort_id)
    assert usage(site) == (0, QUOTA)
    with refused(409, "withdrawn"):
        site.client.put_frame(cohort_id, 3, fourth)


def test_a_shared_network_counts_until_it_is_taken_back_and_a_smaller_one_always_replaces_it(server, site):
    before, _ = usage(site)
    assert share_network(site, bytes(2 * MEBIBYTE)).status_code == 204
    assert share_network(site, bytes(MEBIBYTE)).status_code == 204
    assert usage(site)[0] == before + MEBIBYTE
    for body in (bytes(QUOTA + 1), iter([bytes(QUOTA + 1)])):  # its length is said, or not
        answer = share_network(site, body)
        assert (answer.status_code, answer.json()["type"]) == (507, "urn:ppcmi:problem:quota-exceeded")
    set_quota(server, site, 0)
    assert share_network(site, bytes(MEBIBYTE)).status_code == 204
    assert share_network(site, bytes(MEBIBYTE + 1)).status_code == 507
    set_quota(server, site, None)
    assert networks(site) == {site.site_id: bytes(MEBIBYTE)}
    assert len(server.services.blobs.names("networks")) == 1  # of what was refused nothing is left
    withdraw_network(site)
    assert usage(site)[0] == before


def test_chunks_count_until_they_are_a_frame_and_a_withdrawn_case_counts_no_longer(server, site, tmp_path):
    cohort = site.write_cohort(tmp_path / "d.ppcmi", [11, 12], slices=20)
    cohort_id = site.client.create_cohort(TASK.name, cohort.header_bytes)
    before, _ = usage(site)
    (frame, *others) = frames_of(cohort)

    named = {"frame_bytes": len(frame), "frame_digest": hashlib.sha256(frame).hexdigest()}
    half = len(frame) // 2
    site.client.put_chunk(cohort_id, 0, 0, frame[:half], **named)
    assert usage(site)[0] == before + half + 28
    site.client.put_chunk(cohort_id, 0, half, frame[half:], **named)
    (stored,) = blobs_of(server, cohort_id).values()
    assert usage(site)[0] == before + len(stored)
    for index, data in enumerate(others, start=1):
        site.client.put_frame(cohort_id, index, data)
    site.client.commit_cohort(cohort_id, 4, cohort.end.digest)
    site.client.withdraw(cohort_id, f"{11:032x}")
    assert usage(site)[0] == before + sum(len(content) for content in blobs_of(server, cohort_id).values())
    site.client.withdraw(cohort_id)


def test_a_large_frame_that_is_refused_unread_is_told_why(server, site, tmp_path):
    """The answer comes while the client still sends."""
    cohort = site.write_cohort(tmp_path / "e.ppcmi", [21], slices=340)
    (frame, _) = frames_of(cohort)
    assert len(frame) > 8_000_000
    cohort_id = site.client.create_cohort(TASK.name, cohort.header_bytes)
    for _ in range(5):
        with refused(507, "Quota exceeded"):
            site.client.put_frame(cohort_id, 0, frame)
    site.client.withdraw(cohort_id)

"""Chunks of a frame: durable one by one, in any order, the same twice no harm, anything else refused (F6)."""

import hashlib
import threading

import pytest
from sqlalchemy import func, select

from ppcmi_server.database.schema import Chunk, Cohort, Frame
from support.app_server import TASK, app_server
from support.uploads import blobs_of, frames_of

pytestmark = pytest.mark.usefixtures("every_storage")
KIB = 1 << 10
CHUNK_LIMIT = 32 * KIB


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with app_server(tmp_path_factory.mktemp("chunks") / "server", chunk_bytes=CHUNK_LIMIT) as server:
        yield server


@pytest.fixture(scope="module")
def sites(server):
    return server.add_consortium("Hospital A", "Hospital B")


@pytest.fixture
def site(sites):
    return sites[0]


@pytest.fixture
def cohort(site, tmp_path):
    return site.write_cohort(tmp_path / "a.ppcmi", cases=[1])


@pytest.fixture
def frame(cohort):
    return frames_of(cohort)[0]


@pytest.fixture
def cohort_id(site, cohort):
    return site.client.create_cohort(TASK.name, cohort.header_bytes)


def put(site, cohort_id, frame, start, end, index=0, **changes):
    """Send bytes of a frame as a chunk; the answer's status and the problem's name."""
    chunk = changes.get("chunk", frame[start:end])
    headers = {
        "X-PPCMI-Frame-Bytes": str(len(frame)),
        "X-PPCMI-Frame-Digest": hashlib.sha256(frame).hexdigest(),
        "X-PPCMI-Digest": hashlib.sha256(frame[start:end]).hexdigest(),
        **changes.get("headers", {}),
    }
    answer = site.call("PUT", f"/v1/cohorts/{cohort_id}/frames/{index}/chunks/{start}", data=chunk, headers=headers)
    problem = answer.json()["type"].removeprefix("urn:ppcmi:problem:") if answer.status_code >= 400 else None
    return answer.status_code, problem


def pieces(frame, size=10 * KIB):
    return [(start, min(start + size, len(frame))) for start in range(0, len(frame), size)]


def rows(server, kind, cohort_id):
    with server.services.database.reading() as session:
        return session.scalar(select(func.count()).select_from(kind).where(kind.cohort_id == cohort_id))


def stored_bytes(server, cohort_id):
    with server.services.database.reading() as session:
        return session.get_one(Cohort, cohort_id).stored_bytes


def test_chunks_in_any_order_become_the_frame_and_are_gone_then(server, site, cohort, cohort_id):
    whole, parted = frames_of(cohort)
    reference = site.client.put_frame(cohort_id, 0, whole)
    assert reference is None
    order = pieces(parted)[::-1]
    for start, end in order[:-1]:
        assert put(site, cohort_id, parted, start, end, index=1) == (201, None)
        assert put(site, cohort_id, parted, start, end, index=1) == (200, None)  # the same again
    state = site.client.cohort(cohort_id)
    assert state["frames"] == [0]
    assert state["partial"] == {"1": [[start, end - start] for start, end in order[:-1][::-1]]}
    assert len(blobs_of(server, cohort_id)) == len(order)
    assert put(site, cohort_id, parted, *order[-1], index=1) == (201, None)
    assert put(site, cohort_id, parted, *order[-1], index=1) == (200, None)  # its answer was lost, say
    site.client.put_frame(cohort_id, 1, parted)
    state = site.client.cohort(cohort_id)
    assert (state["frames"], state["partial"]) == ([0, 1], {})
    assert (rows(server, Frame, cohort_id), rows(server, Chunk, cohort_id)) == (2, 0)
    stored = blobs_of(server, cohort_id)
    assert len(stored) == 2
    assert stored_bytes(server, cohort_id) == sum(map(len, stored.values())) + len(cohort.header_bytes)
    assert site.client.commit_cohort(cohort_id, 2, cohort.end.digest) == {"cases": 1, "slices": 4}


def test_a_chunk_lies_encrypted_under_the_cohorts_key(server, site, frame, cohort_id):
    put(site, cohort_id, frame, 0, 10 * KIB)
    (stored,) = blobs_of(server, cohort_id).values()
    assert len(stored) == 10 * KIB + 28
    assert frame[1000:1064] not in stored


def test_a_chunk_that_overlaps_differs_or_is_of_another_frame_is_refused_and_changes_nothing(
    server, site, cohort, cohort_id
):
    frame, other = frames_of(cohort)
    assert put(site, cohort_id, frame, 10 * KIB, 20 * KIB) == (201, None)
    before = blobs_of(server, cohort_id)
    for start, end in ((10 * KIB, 19 * KIB), (10 * KIB, 21 * KIB), (0, 10 * KIB + 1), (20 * KIB - 1, 22 * KIB)):
        assert put(site, cohort_id, frame, start, end) == (409, "chunk-overlaps")
    assert put(site, cohort_id, other, 0, 10 * KIB) == (409, "frame-differs")
    longer = {"headers": {"X-PPCMI-Frame-Bytes": str(len(frame) + 1)}}
    assert put(site, cohort_id, frame, 0, 10 * KIB, **longer) == (409, "frame-differs")
    assert blobs_of(server, cohort_id) == before
    assert site.client.cohort(cohort_id)["partial"] == {"0": [[10 * KIB, 10 * KIB]]}


def test_a_chunk_that_arrives_altered_cut_or_beyond_the_frame_leaves_nothing(server, site, frame, cohort_id):
    flipped = bytearray(frame[: 10 * KIB])
    flipped[5000] ^= 1
    assert put(site, cohort_id, frame, 0, 10 * KIB, chunk=bytes(flipped)) == (422, "chunk-damaged")
    assert put(site, cohort_id, frame, 0, 10 * KIB, chunk=frame[: 10 * KIB - 1]) == (422, "chunk-damaged")
    assert put(site, cohort_id, frame, 0, 10 * KIB, chunk=b"") == (422, "invalid")
    assert put(site, cohort_id, frame, len(frame) - 5, len(frame) + 5, chunk=bytes(10)) == (422, "invalid")
    assert put(site, cohort_id, frame, 0, CHUNK_LIMIT + 1)[0] == 413
    giant = {"headers": {"X-PPCMI-Frame-Bytes": str(1 << 39)}}
    assert put(site, cohort_id, frame, 0, 10 * KIB, **giant)[0] == 413
    for name in ("X-PPCMI-Frame-Bytes", "X-PPCMI-Frame-Digest", "X-PPCMI-Digest"):
        for value in ("-1", "x" * 64, "A" * 64, ""):
            assert put(site, cohort_id, frame, 0, 10 * KIB, headers={name: value}) == (422, "invalid")
    assert blobs_of(server, cohort_id) == {}
    assert site.client.cohort(cohort_id)["partial"] == {}


def test_chunks_that_do_not_make_the_frame_they_are_said_to_be_of_are_gone(server, site, frame, cohort_id):
    """Each chunk is what it says; together they are not, or cannot be opened: the frame begins anew."""
    lie = {"headers": {"X-PPCMI-Frame-Digest": "0" * 64}}
    altered = frame[:-1] + bytes([frame[-1] ^ 1])
    for content, changes in ((frame, lie), (altered, {})):
        *first, last = pieces(content, 30 * KIB)
        for start, end in first:
            assert put(site, cohort_id, content, start, end, **changes) == (201, None)
        assert put(site, cohort_id, content, *last, **changes) == (422, "invalid")
        assert blobs_of(server, cohort_id) == {}
        assert site.client.cohort(cohort_id)["partial"] == {}
    site.client.put_frame(cohort_id, 0, frame)


def test_a_chunk_that_was_damaged_where_it_is_stored_is_named_and_sent_again(server, site, frame, cohort_id):
    *first, last = pieces(frame, 30 * KIB)
    for start, end in first:
        assert put(site, cohort_id, frame, start, end) == (201, None)
    name, content = next(iter(blobs_of(server, cohort_id).items()))
    server.services.blobs.write(f"cohorts/{cohort_id}/{name}", content[:-1] + bytes([content[-1] ^ 1]))
    assert put(site, cohort_id, frame, *last) == (422, "invalid")
    assert blobs_of(server, cohort_id) == {}
    for start, end in (*first, last):
        assert put(site, cohort_id, frame, start, end) == (201, None)
    assert site.client.cohort(cohort_id)["partial"] == {}


def test_a_frame_that_comes_whole_replaces_its_chunks(server, site, frame, cohort_id):
    put(site, cohort_id, frame, 0, 10 * KIB)
    site.client.put_frame(cohort_id, 0, frame)
    assert len(blobs_of(server, cohort_id)) == 1
    assert rows(server, Chunk, cohort_id) == 0


def test_nobody_else_and_no_committed_or_withdrawn_cohort_takes_a_chunk(server, sites, cohort, cohort_id):
    site, other = sites
    frame, second = frames_of(cohort)
    assert put(other, cohort_id, frame, 0, 10 * KIB) == (404, "not-found")
    site.upload(cohort)
    assert put(site, cohort_id, frame, 0, 10 * KIB) == (200, None)  # late, and of a frame that is there
    assert put(site, cohort_id, second, 0, 10 * KIB, index=0) == (409, "frame-differs")
    assert put(site, cohort_id, frame, 0, 10 * KIB, index=2) == (409, "cohort-whole")
    site.client.withdraw(cohort_id)
    assert put(site, cohort_id, frame, 0, 10 * KIB) == (409, "cohort-withdrawn")
    assert blobs_of(server, cohort_id) == {}


def test_a_withdrawal_takes_chunks_along(server, site, frame, cohort_id):
    put(site, cohort_id, frame, 0, 10 * KIB)
    site.client.withdraw(cohort_id)
    assert (rows(server, Chunk, cohort_id), stored_bytes(server, cohort_id)) == (0, 0)
    assert blobs_of(server, cohort_id) == {}


def test_two_uploaders_of_one_cohort_store_every_frame_once(server, site, tmp_path):
    """They send other chunks of the same frames at the same time, as two workstations of a site might."""
    from ppcmi.frame_sender import FrameSender, extents_of

    cohort = site.write_cohort(tmp_path / "b.ppcmi", cases=[1, 2, 3])
    cohort_id = site.client.create_cohort(TASK.name, cohort.header_bytes)
    failures = []

    def upload(largest):
        try:
            sender = FrameSender(site.client, cohort_id, largest)
            for index, data in enumerate(frames_of(cohort)):
                sender.send(index, data, extents_of(site.client.cohort(cohort_id), index))
            site.client.commit_cohort(cohort_id, 6, cohort.end.digest)
        except Exception as error:
            failures.append(error)

    uploaders = [threading.Thread(target=upload, args=(size,)) for size in (9 * KIB, 14 * KIB)]
    for uploader in uploaders:
        uploader.start()
    for uploader in uploaders:
        uploader.join(60)
    assert failures == []
    assert site.client.cohort(cohort_id)["state"] == "whole"
    assert len(blobs_of(server, cohort_id)) == 6
    assert (rows(server, Frame, cohort_id), rows(server, Chunk, cohort_id)) == (6, 0)


def test_a_chunk_whose_frame_was_never_put_together_is_enough_to_have_it_done(server, site, frame, cohort_id):
    """A crash between the last chunk and the frame: the client finds all chunks there and no frame."""
    from ppcmi.frame_sender import FrameSender, extents_of
    from ppcmi_server.intake.uploads import Uploads

    class Crashing(Uploads):
        def _assemble(self, *_):
            raise ConnectionError

    cohorts = server.services.cohorts
    working = cohorts.uploads
    cohorts.uploads = Crashing(
        server.services.database, server.services.blobs, server.services.keys, server.services.channels, cohorts.room
    )
    try:
        statuses = [put(site, cohort_id, frame, start, end)[0] for start, end in pieces(frame, 20 * KIB)]
    finally:
        cohorts.uploads = working
    assert statuses[-1] == 500
    state = site.client.cohort(cohort_id)
    assert sum(size for _, size in state["partial"]["0"]) == len(frame)
    FrameSender(site.client, cohort_id, 20 * KIB).send(0, frame, extents_of(state, 0))
    assert site.client.cohort(cohort_id)["frames"] == [0]

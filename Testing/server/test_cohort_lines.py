"""Uploads over lines that are slow, cut, or of a client that is killed: they end, and little is sent twice (F7)."""

import signal
import time

import pytest

from benchmarks.service_large import upload_of
from ppcmi.client import Patience, ServerClient
from ppcmi.errors import ConnectionFailedError
from ppcmi.frame_sender import SMALLEST_BYTES, FrameSender, PieceSize, extents_of
from ppcmi_server.access import identity
from support.app_server import TASK, app_server
from support.bad_line import bad_line_to
from support.gate import gate_to
from support.killable import start_process
from support.uploads import UploadingSite, differences, frames_of

KIB = 1 << 10
STUBBORN = Patience(connect_s=5, read_s=20, attempts=5, pause_s=0.01)
LINE = {"cut_every": 640 * KIB, "bytes_per_second": 3_000_000}
"""As a line of 256 kbit/s that is cut every 20 s, in a hundredth of the time."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with app_server(tmp_path_factory.mktemp("lines") / "server") as server:
        yield server


@pytest.fixture(scope="module")
def site(server, tmp_path_factory):
    with server.services.database.writing() as session:
        code = identity.add_site(session, "Hospital A")
    return UploadingSite(tmp_path_factory.mktemp("site") / "profile", server.url, code)


def test_an_upload_over_a_bad_line_ends_and_sends_little_twice(server, site, tmp_path):
    path = tmp_path / "a.ppcmi"
    cohort = site.write_cohort(path, [42, 42, 42, 10, 85])  # frames of 1, 0.25 and 2 MiB
    size = sum(map(len, frames_of(cohort)))
    with bad_line_to(server.url, **LINE) as line:
        client = ServerClient(line.url, site.token, patience=STUBBORN)
        summary = site.upload(path, client)
    assert line.cuts >= 6
    assert differences(server.services, summary.cohort_id, cohort) == []
    first_cuts = 4 * LINE["cut_every"]  # until the pieces are small enough, and while four frames are under way
    assert line.passed - size < first_cuts + line.cuts * 320 * KIB
    assert line.passed < 2 * size


def test_a_piece_that_arrived_although_its_answer_did_not_is_not_sent_again(server, site, tmp_path):
    cohort = site.write_cohort(tmp_path / "b.ppcmi", [30, 30], first=10)
    first, second = frames_of(cohort)
    with gate_to(server.url) as gate:
        behind = ServerClient(gate.url, site.token, patience=STUBBORN)
        cohort_id = behind.create_cohort(TASK.name, cohort.header_bytes)
        answers = iter([ConnectionFailedError("The answer was lost."), None])

        class Forgetful(ServerClient):
            """Its line is cut after the body and before the answer."""

            def put_chunk(self, *arguments, **frame):
                super().put_chunk(*arguments, **frame)
                lost = next(answers, None)
                if lost is not None:
                    raise lost

        forgetful = Forgetful(gate.url, site.token, patience=STUBBORN)
        sender = FrameSender(forgetful, cohort_id, largest=100 * KIB)
        sender.send(0, first)
        assert sender.bytes_again == 100 * KIB
        assert sender.bytes_sent == len(first)  # nothing came twice
        sender.send(1, second)
    assert site.client.cohort(cohort_id)["frames"] == [0, 1]


def test_a_line_that_lets_nothing_through_is_given_up(server, site, tmp_path):
    cohort = site.write_cohort(tmp_path / "c.ppcmi", [30], first=20)
    (frame,) = frames_of(cohort)
    with bad_line_to(server.url, cut_every=40 * KIB, bytes_per_second=10_000_000) as line:
        client = ServerClient(line.url, site.token, patience=STUBBORN)
        cohort_id = client.create_cohort(TASK.name, cohort.header_bytes)
        with pytest.raises(ConnectionFailedError):
            FrameSender(client, cohort_id).send(0, frame)
    assert line.cuts >= STUBBORN.attempts


def test_pieces_halve_once_for_several_cuts_at_a_time_and_grow_again():
    size = PieceSize(8 << 20)
    for _ in range(4):
        size.cut(8 << 20)
    assert size.now == 4 << 20
    for _ in range(20):
        size.cut(size.now)
    assert size.now == SMALLEST_BYTES
    for _ in range(4):
        size.arrived(SMALLEST_BYTES)
    assert size.now == 2 * SMALLEST_BYTES
    for _ in range(100):
        size.arrived(size.now)
    assert size.now == 8 << 20


def upload_in_small_pieces(url, token, cohort_id, frame):
    """What a client does that is about to be killed: small pieces, slowly."""

    class Slow(ServerClient):
        def put_chunk(self, *arguments, **frame):
            super().put_chunk(*arguments, **frame)
            time.sleep(0.05)

    FrameSender(Slow(url, token, patience=STUBBORN), cohort_id, largest=20 * KIB).send(0, frame)


def test_a_client_that_was_killed_goes_on_where_it_was(server, site, tmp_path):
    cohort = site.write_cohort(tmp_path / "d.ppcmi", [60], first=30)
    (frame,) = frames_of(cohort)
    cohort_id = site.client.create_cohort(TASK.name, cohort.header_bytes)
    process = start_process(upload_in_small_pieces, server.url, site.token, cohort_id, frame)
    while len(site.client.cohort(cohort_id)["partial"].get("0", [])) < 5:
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    state = site.client.cohort(cohort_id)
    there = sum(size for _, size in extents_of(state, 0))
    assert 0 < there < len(frame)
    sender = FrameSender(site.client, cohort_id)
    sender.send(0, frame, extents_of(state, 0))
    assert len(frame) - there - 20 * KIB <= sender.bytes_sent <= len(frame) - there
    assert site.client.cohort(cohort_id)["frames"] == [0]


def test_an_upload_takes_memory_by_the_frame_and_not_by_the_cohort(tmp_path):
    """The benchmark of 5 GB, in small: frames of 16 MiB, in chunks, by a process of its own."""
    done = upload_of(tmp_path, 60_000_000, parts=2)
    assert done.is_whole
    assert done.size > 60_000_000
    assert 0 < done.server_mib < 1000
    assert 0 < done.client_mib < 1000

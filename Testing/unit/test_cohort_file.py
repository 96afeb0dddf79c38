"""A cohort file is whole or says what of it is whole; only its server can open it, and nothing in it can be moved."""

import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppcmi.cohort_file import CohortKey, CohortReader, CohortWriter, cohort_digest, frame_digest, parse_header
from ppcmi.cohort_frames import CasePart
from ppcmi.errors import BundleError, KeyMismatchError, WriteError
from ppcmi.quantization import Quantization
from ppcmi.scales import Profile
from ppcmi.sealing import public_key_of
from support.bundles import CODEC, TASK, make_channel, make_latents, seal_latents

SERVER_PRIVATE = bytes(range(32))
CASES = ["a" * 32, "b" * 32, "c" * 32]
PARTS = [1, 3, 2]


def open_writer(path, **changes):
    fields = {
        "server_public_key": public_key_of(SERVER_PRIVATE),
        "task": TASK,
        "codec": CODEC,
        "profile": Profile.COARSE,
        "mode": "two-layer",
        "quantization": Quantization.F32,
    }
    return CohortWriter(path, **(fields | changes))


def write_cohort(path):
    """Three cases of one, three and two bundles; returns the bundles."""
    channel = make_channel()
    bundles = [
        [seal_latents(channel, make_latents(1), case=case) for _ in range(n)]
        for case, n in zip(CASES, PARTS, strict=True)
    ]
    with open_writer(path) as writer:
        for case, parts in zip(CASES, bundles, strict=True):
            writer.add_case(case, parts)
    return bundles


def names_in(folder):
    return [path.name for path in folder.iterdir()]


@pytest.fixture(scope="module")
def a_cohort(tmp_path_factory):
    path = tmp_path_factory.mktemp("cohort") / "a.ppcmi"
    return path, write_cohort(path)


@pytest.fixture
def a_damaged_cohort(a_cohort, tmp_path):
    """A function that writes other bytes into a file and returns its path."""

    def damaged(data):
        path = tmp_path / "damaged.ppcmi"
        path.write_bytes(data)
        return path

    return damaged


def test_a_folder_of_the_files_name_is_found_out_before_anything_is_encoded(tmp_path):
    with pytest.raises(WriteError, match="folder"), open_writer(tmp_path):
        pytest.fail("nothing should be encoded")
    assert list(tmp_path.iterdir()) == []


def test_the_server_opens_what_the_site_wrote(a_cohort):
    path, bundles = a_cohort
    reader = CohortReader(path)
    key = CohortKey.open(reader.header_bytes, SERVER_PRIVATE)
    opened = [(key.open_frame(index, frame.data), frame) for index, frame in reader.frames()]
    assert [bundle for (_, bundle), _ in opened] == [bundle for parts in bundles for bundle in parts]
    expected = [CasePart(case, part, n) for case, n in zip(CASES, PARTS, strict=True) for part in range(n)]
    assert [plain for (plain, _), _ in opened] == expected
    assert [CasePart(frame.case, frame.part, frame.parts) for _, frame in opened] == expected


def test_header_and_end_tell_what_is_inside(a_cohort):
    path, _ = a_cohort
    reader = CohortReader(path)
    assert parse_header(reader.header_bytes) == reader.header
    assert (reader.header.task, reader.header.codec, reader.header.profile) == (TASK, CODEC, Profile.COARSE)
    digests = [frame_digest(frame.data) for _, frame in reader.frames()]
    assert (reader.end.frames, reader.end.cases, reader.end.digest) == (6, 3, cohort_digest(digests))
    assert reader.whole_cases() == CASES


def test_the_server_authenticates_the_end(a_cohort):
    path, _ = a_cohort
    reader = CohortReader(path)
    data, length = path.read_bytes(), len(reader.header_bytes)
    position, frame = 12 + length, b""
    while position < len(data):
        size = int.from_bytes(data[position : position + 4], "little")
        frame, position = data[position + 4 : position + 4 + size], position + 4 + size
    key = CohortKey.open(reader.header_bytes, SERVER_PRIVATE)
    assert key.open_end(frame) == reader.end
    with pytest.raises(BundleError):
        key.open_end(frame.replace(b'"cases":3', b'"cases":2'))
    with pytest.raises(BundleError, match="end"):
        key.open_frame(6, frame)


def test_another_server_cannot_open_it(a_cohort):
    with pytest.raises(KeyMismatchError):
        CohortKey.open(CohortReader(a_cohort[0]).header_bytes, bytes(range(1, 33)))


def test_two_exports_share_no_key_and_no_bytes(a_cohort, tmp_path):
    write_cohort(tmp_path / "b.ppcmi")
    first, second = CohortReader(a_cohort[0]), CohortReader(tmp_path / "b.ppcmi")
    assert first.header.cohort != second.header.cohort
    _, frame = next(first.frames())
    with pytest.raises(BundleError):
        CohortKey.open(second.header_bytes, SERVER_PRIVATE).open_frame(0, frame.data)


@given(cut=st.floats(0, 1, exclude_max=True))
@settings(max_examples=40, deadline=None)
def test_a_file_cut_anywhere_says_how_many_cases_are_whole(a_cohort, tmp_path_factory, cut):
    data = a_cohort[0].read_bytes()
    path = tmp_path_factory.mktemp("cut") / "cut.ppcmi"
    path.write_bytes(data[: int(cut * len(data))])
    try:
        reader = CohortReader(path)
    except BundleError:
        assert int(cut * len(data)) < 1000  # within the header
        return
    whole = reader.whole_cases()
    assert whole == CASES[: len(whole)]
    seen = []
    with pytest.raises(BundleError, match=rf"cut off; {len(whole)} case"):
        seen.extend(frame for _, frame in reader.frames())
    assert sum(PARTS[: len(whole)]) <= len(seen)
    with pytest.raises(BundleError, match="cut off"):
        _ = reader.end


def test_a_file_without_its_end_frame_is_cut_off_though_every_case_is_there(a_cohort, a_damaged_cohort):
    data = a_cohort[0].read_bytes()
    reader = CohortReader(a_damaged_cohort(data[:-100]))
    assert reader.whole_cases() == CASES
    with pytest.raises(BundleError, match="3 cases are whole"):
        list(reader.frames())


@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(1, 255))
@settings(max_examples=100, deadline=None)
def test_a_corrupted_byte_is_found_without_any_key_or_by_the_server(a_cohort, tmp_path_factory, place, value):
    data = bytearray(a_cohort[0].read_bytes())
    data[int(place * len(data))] ^= value
    path = tmp_path_factory.mktemp("corrupt") / "corrupt.ppcmi"
    path.write_bytes(data)
    with pytest.raises((BundleError, KeyMismatchError)):
        open_everything(path)


def open_everything(path):
    """What site and server do with a file, from the header to the end."""
    reader = CohortReader(path)
    key = CohortKey.open(reader.header_bytes, SERVER_PRIVATE)
    for index, frame in reader.frames():
        key.open_frame(index, frame.data)
    data = path.read_bytes()
    key.open_end(data[data.rindex(b'{"end"') - 2 :])


def test_a_file_that_is_whole_opens_from_the_header_to_the_end(a_cohort):
    open_everything(a_cohort[0])


def test_a_frame_opens_at_its_own_place_only(a_cohort):
    reader = CohortReader(a_cohort[0])
    key = CohortKey.open(reader.header_bytes, SERVER_PRIVATE)
    frames = [frame.data for _, frame in reader.frames()]
    with pytest.raises(BundleError, match="another place"):
        key.open_frame(1, frames[0])
    with pytest.raises(BundleError, match="altered"):
        key.open_frame(0, frames[0].replace(CASES[0].encode(), CASES[1].encode()))


def test_frames_swapped_or_repeated_are_found_by_anyone(a_cohort, a_damaged_cohort):
    reader = CohortReader(a_cohort[0])
    data = a_cohort[0].read_bytes()
    frames = [struct.pack("<I", len(frame.data)) + frame.data for _, frame in reader.frames()]
    start = data[: data.index(frames[0])]
    end = data[len(start) + sum(len(frame) for frame in frames) :]
    for order in ([1, 0, 2, 3, 4, 5], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5, 5]):
        with pytest.raises(BundleError, match="damaged"):
            list(CohortReader(a_damaged_cohort(start + b"".join(frames[i] for i in order) + end)).frames())


@given(data=st.binary(max_size=200))
@settings(max_examples=50, deadline=None)
def test_arbitrary_frames_and_headers_are_bundle_errors(a_cohort, data):
    key = CohortKey.open(CohortReader(a_cohort[0]).header_bytes, SERVER_PRIVATE)
    for opening in (lambda: key.open_frame(0, data), lambda: key.open_end(data), lambda: parse_header(data)):
        with pytest.raises(BundleError):
            opening()


def test_something_else_is_no_cohort_file(a_cohort, a_damaged_cohort):
    data = a_cohort[0].read_bytes()
    length = int.from_bytes(data[8:12], "little")
    for other in (
        b"",
        b"PPCMI-C1",
        b"PK\x03\x04" + bytes(100),
        b"PPCMI-C1\xff\xff\xff\xff{}",
        data[:12] + b"[" * length,
    ):
        with pytest.raises(BundleError):
            CohortReader(a_damaged_cohort(other))
    folder = a_damaged_cohort(b"").parent
    with pytest.raises(BundleError, match="no such cohort file"):
        CohortReader(folder / "absent.ppcmi")
    with pytest.raises(BundleError, match=r"cannot be opened: \w+ \w"):  # the system's words, as "Is a directory"
        CohortReader(folder)


def test_bytes_after_the_end_and_frames_of_impossible_length_are_refused(a_cohort, a_damaged_cohort):
    data = a_cohort[0].read_bytes()
    with pytest.raises(BundleError, match="after its end"):
        list(CohortReader(a_damaged_cohort(data + b"more")).frames())
    position = 12 + int.from_bytes(data[8:12], "little")
    huge = data[:position] + b"\xff\xff\xff\xff" + data[position + 4 :]
    with pytest.raises(BundleError, match="damaged"):
        list(CohortReader(a_damaged_cohort(huge)).frames())


def test_an_exception_leaves_nothing_behind_and_what_was_there_untouched(tmp_path):
    path = tmp_path / "a.ppcmi"
    path.write_bytes(b"before")

    def fail():
        with open_writer(path) as writer:
            writer.add_case(CASES[0], [seal_latents(case=CASES[0])])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert names_in(tmp_path) == ["a.ppcmi"]
    assert path.read_bytes() == b"before"


def test_the_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "a.ppcmi"
    with open_writer(path) as writer:
        writer.add_case(CASES[0], [seal_latents(case=CASES[0])])
        assert not path.exists()
    assert names_in(tmp_path) == ["a.ppcmi"]


def test_a_missing_folder_or_an_empty_cohort_is_an_error_that_leaves_nothing(tmp_path):
    with pytest.raises(WriteError, match="cannot be written"), open_writer(tmp_path / "absent" / "a.ppcmi"):
        pass
    with pytest.raises(BundleError, match="no cases"), open_writer(tmp_path / "a.ppcmi"):
        pass
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    "changes",
    [{"codec": "0" * 32}, {"profile": Profile.MINIMAL}, {"quantization": Quantization.I8}, {"case": "f" * 32}],
    ids=lambda changes: next(iter(changes)),
)
def test_a_bundle_of_another_kind_or_case_is_refused_and_its_case_left_out(tmp_path, changes):
    good, bad = seal_latents(case=CASES[0]), seal_latents(**({"case": CASES[1]} | changes))
    with open_writer(tmp_path / "a.ppcmi") as writer:
        writer.add_case(CASES[0], [good])
        with pytest.raises(BundleError, match="another case"):
            writer.add_case(CASES[1], [seal_latents(case=CASES[1]), bad])
        with pytest.raises(BundleError, match="added once"):
            writer.add_case(CASES[0], [good])
        with pytest.raises(BundleError, match="at least one"):
            writer.add_case(CASES[1], [])
    reader = CohortReader(tmp_path / "a.ppcmi")
    assert reader.whole_cases() == [CASES[0]]
    assert reader.end.frames == 1


def test_reading_holds_one_frame_in_memory(tmp_path):
    path = tmp_path / "large.ppcmi"
    latents = make_latents(800)  # half a MiB a bundle
    with open_writer(path) as writer:
        for number in range(20):
            case = f"{number:032x}"
            writer.add_case(case, [seal_latents(latents=latents, case=case)])
    size = path.stat().st_size
    tracemalloc.start()
    assert sum(1 for _ in CohortReader(path).frames()) == 20
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < size / 5

"""A site profile under a passphrase: it comes back whole, or not at all, and never in the place of another."""

import io
import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppcmi.cli.main import main
from ppcmi.errors import SiteError, UsageError, WriteError
from ppcmi.passphrase_file import (
    FRAME_BYTES,
    MAGIC,
    DecryptedStream,
    PassphraseError,
    ScryptCost,
    encrypt,
    require_strong,
)
from ppcmi.site import SiteProfile
from ppcmi.site_transfer import FORMAT, export_profile, export_whole_profile, import_profile
from ppcmi.task import load_task
from ppcmi.task_profile import Membership
from support.relay import relay_for

TASK_FILE = Path(__file__).parents[2] / "Resources" / "Tasks" / "phantom.json"
PASSPHRASE = "correct horse battery staple"  # noqa: S105
QUICK = ScryptCost(n=4)
INNER_KEY = bytes(range(32))


@pytest.fixture(scope="module")
def a_site(tmp_path_factory):
    """A site with a task, a codec, a decoder, a network to share and a table of cases."""
    with relay_for(TASK_FILE.read_text()) as relay:
        site = relay.enrol(tmp_path_factory.mktemp("site"), "Hospital A")
    part = site.add_task(load_task(TASK_FILE), Membership("consortium", "two-layer", founder=True), INNER_KEY)
    part.codec_path.write_bytes(os.urandom(FRAME_BYTES + 77))
    part.decoder_path.write_bytes(os.urandom(10))
    part.network_path.write_bytes(os.urandom(10))
    part.candidate_path.write_bytes(b"waits to be published")
    site.pseudonyms("phantom", ["Jane Doe"])
    site.record_cohort("0" * 32, {"task": "phantom"})
    return site


@pytest.fixture(scope="module")
def an_export(a_site, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "site.ppcmi-site"
    export_profile(a_site, path, PASSPHRASE, cost=QUICK)
    return path.read_bytes()


def imported(data, folder, passphrase=PASSPHRASE):
    path = folder / "file"
    path.write_bytes(data)
    return import_profile(path, passphrase, folder / "site")


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_profile_comes_back_as_it_was_without_its_cases(a_site, an_export, tmp_path):
    site = imported(an_export, tmp_path)
    there, here = contents(site.folder), contents(a_site.folder)
    left_out = {"pseudonyms.json", "cohorts.json", "tables.lock", "tasks/phantom/codec.candidate.safetensors"}
    assert there == {name: data for name, data in here.items() if name not in left_out}
    assert site.link_key() == a_site.link_key()
    assert site.task("phantom").inner_key == INNER_KEY
    assert (tmp_path / "site").stat().st_mode & 0o777 == 0o700
    if os.name == "posix":
        modes = {stat.S_IMODE(p.stat().st_mode) for p in site.folder.rglob("*")}
        assert modes == {0o600, 0o700}


def test_a_site_that_moves_takes_its_cases_along(a_site, tmp_path):
    export_whole_profile(a_site, tmp_path / "all", PASSPHRASE, cost=QUICK)
    site = import_profile(tmp_path / "all", PASSPHRASE, tmp_path / "new" / "site")
    assert site.pseudonym_of("phantom", "Jane Doe") == a_site.pseudonym_of("phantom", "Jane Doe")
    assert site.cohorts() == a_site.cohorts()


def test_nothing_of_a_profile_can_be_read_from_the_file(a_site, an_export, tmp_path):
    for secret in (a_site.folder / "token", a_site.folder / "private.key"):
        assert secret.read_bytes() not in an_export
    assert b"Hospital A" not in an_export
    assert b"phantom" not in an_export
    again = tmp_path / "again"
    export_profile(a_site, again, PASSPHRASE, cost=QUICK)
    assert again.read_bytes()[100:] != an_export[100:]
    assert again.stat().st_mode & 0o777 == 0o600


def test_a_passphrase_is_the_same_however_it_was_typed_and_no_other_opens(a_site, tmp_path):
    composed, decomposed = "Schl\u00fcsselblumen am Weg", "Schlu\u0308sselblumen am Weg"
    export_profile(a_site, tmp_path / "file", composed, cost=QUICK)
    with pytest.raises(PassphraseError):
        import_profile(tmp_path / "file", composed + " ", tmp_path / "site")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
    assert import_profile(tmp_path / "file", decomposed, tmp_path / "site").identity == a_site.identity


@pytest.mark.parametrize("weak", ["", "short", "elevenchars", "aaaaaaaaaaaaaaaa", "abababababababab", "x" * 2000])
def test_a_weak_passphrase_is_refused_before_anything_is_written(weak, a_site, tmp_path):
    with pytest.raises(UsageError):
        require_strong(weak)
    with pytest.raises(UsageError):
        export_profile(a_site, tmp_path / "file", weak)
    assert not list(tmp_path.iterdir())


def test_a_profile_that_is_there_stays(a_site, an_export, tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "site.json").write_text("mine")
    with pytest.raises(SiteError, match="already"):
        imported(an_export, tmp_path)
    assert contents(tmp_path / "site") == {"site.json": b"mine"}
    with pytest.raises(SiteError, match="already"):
        export_profile(a_site, tmp_path / "file", PASSPHRASE, cost=QUICK)


@settings(max_examples=60, deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found(an_export, tmp_path_factory, where, bit):
    damaged = bytearray(an_export)
    damaged[int(where * len(damaged))] ^= 1 << bit
    expect_nothing(bytes(damaged), tmp_path_factory)


@settings(max_examples=60, deadline=None)
@given(bit=st.integers(0, 8 * 200))
def test_a_flipped_bit_in_the_header_is_found(an_export, tmp_path_factory, bit):
    damaged = bytearray(an_export)
    damaged[bit // 8] ^= 1 << bit % 8
    expect_nothing(bytes(damaged), tmp_path_factory)


@settings(max_examples=60, deadline=None)
@given(length=st.floats(0, 1, exclude_max=True))
def test_a_file_that_was_cut_off_is_found(an_export, tmp_path_factory, length):
    expect_nothing(an_export[: int(length * len(an_export))], tmp_path_factory)


def test_frames_cannot_be_left_out_or_added(an_export, tmp_path_factory):
    frame = FRAME_BYTES + 16
    start = len(an_export) % frame
    header = 12 + int.from_bytes(an_export[8:12], "little")
    assert start > header
    for damaged in (
        an_export[:header] + an_export[header + frame :],
        an_export[: header + frame],
        an_export + b"\0",
        an_export + an_export[header:],
    ):
        expect_nothing(damaged, tmp_path_factory)


def expect_nothing(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("import")
    with pytest.raises(SiteError):
        imported(data, folder)
    assert list(folder.iterdir()) == [folder / "file"]


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(0, 2 * FRAME_BYTES + 3), max_size=4), cut=st.integers(1, FRAME_BYTES))
def test_any_content_comes_back_in_pieces_of_any_size(sizes, cut):
    parts = [bytes([index + 1]) * size for index, size in enumerate(sizes)]
    stream = DecryptedStream(io.BytesIO(b"".join(encrypt(parts, PASSPHRASE, QUICK))), PASSPHRASE)
    left, got = sum(sizes), []
    while left:
        got.append(stream.read(min(cut * 64, left, FRAME_BYTES)))
        left -= len(got[-1])
    stream.require_end()
    assert b"".join(got) == b"".join(parts)


@pytest.mark.parametrize(
    "changes", [{"n": 1 << 30}, {"n": 1 << 19}, {"n": 3}, {"n": 0}, {"n": True}, {"r": 1 << 20}, {"p": 99}, {"n": "4"},
                {"kdf": "none"}, {"salt": ""}, {"salt": 5}, {"more": 1}],
)  # fmt: skip
def test_a_header_cannot_ask_for_much_memory_or_time(changes):
    document = {"kdf": "scrypt", "n": 4, "r": 8, "p": 1, "salt": "AAAAAAAAAAAAAAAAAAAAAA=="} | changes
    header = json.dumps(document).encode()
    data = MAGIC + len(header).to_bytes(4, "little") + header + bytes(100)
    with pytest.raises(PassphraseError):
        DecryptedStream(io.BytesIO(data), PASSPHRASE)


def made(members, data=b"", form=FORMAT):
    """A file of someone who knows the passphrase and means ill."""
    document = json.dumps({"format": form, "members": members}).encode()
    return b"".join(encrypt([len(document).to_bytes(4, "little"), document, data], PASSPHRASE, QUICK))


GOOD = [{"name": name, "size": 0} for name in ("site.json", "private.key", "token")]


@pytest.mark.parametrize(
    "members",
    [
        [],
        GOOD[:2],
        [*GOOD, GOOD[0]],
        *[[*GOOD, {"name": name, "size": 1}] for name in (
            "../token", "/etc/passwd", "tasks/../../x", "tasks/../task.json", "tasks/a/../task.json",
            "tasks/a/b/task.json", "tasks//task.json", "tasks/a\\b/task.json", "tasks/A/task.json",
            "C:\\x", "tasks/a/inner.key\0", "", ".",
            "tasks/a/codec.pickle", "notes.txt", "tasks/a/..", 5, None,
        )],
        *[[*GOOD, {"name": "server-ca.pem", "size": size}] for size in (-1, 1 << 40, (1 << 20) + 1, 1.5, "1", True)],
        [*GOOD, {"name": "server-ca.pem", "size": 5}],
        [*GOOD, {"name": "server-ca.pem"}],
        [*GOOD, {"name": "server-ca.pem", "size": 0, "mode": 7}],
        [*GOOD, "server-ca.pem"],
        [*GOOD, *({"name": f"tasks/t{i}/inner.key", "size": 0} for i in range(1000))],
        [*GOOD, *({"name": f"tasks/t{i}/codec.safetensors", "size": 256 << 20} for i in range(40))],
    ],
)  # fmt: skip
def test_names_and_sizes_that_no_profile_has_are_refused(members, tmp_path):
    with pytest.raises(SiteError):
        imported(made(members, b"5"), tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_declared_size_without_the_bytes_is_a_cut_off_file(tmp_path):
    with pytest.raises(PassphraseError):
        imported(made([*GOOD, {"name": "tasks/a/codec.safetensors", "size": 200 << 20}], b"few"), tmp_path)
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize("form", ["ppcmi-site-export/2", 1])
def test_another_version_is_named_as_such(form, tmp_path):
    with pytest.raises(SiteError, match="version"):
        imported(made(GOOD, form=form), tmp_path)


def test_a_whole_file_with_an_unusable_profile_leaves_nothing_behind(an_export, tmp_path):
    with pytest.raises(SiteError):
        imported(made(GOOD), tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_another_file_is_told_from_a_damaged_one(tmp_path):
    with pytest.raises(SiteError, match="no exported site profile"):
        imported(b"PK\x03\x04 something else", tmp_path)
    with pytest.raises(SiteError, match="cannot be read"):
        import_profile(tmp_path / "absent", PASSPHRASE, tmp_path / "site")


def test_a_folder_that_cannot_be_written_is_said(a_site, tmp_path):
    with pytest.raises(WriteError):
        export_profile(a_site, tmp_path / "absent" / "file", PASSPHRASE, cost=QUICK)


def test_by_command_the_passphrase_comes_from_a_file_and_the_cost_is_the_usual(a_site, tmp_path, capsys):
    (tmp_path / "secret").write_text("\ufeff" + PASSPHRASE + "\r\n", encoding="utf-8")  # as some editors write it
    file, secret = str(tmp_path / "file"), ["--passphrase-file", str(tmp_path / "secret")]
    assert main(["site", "export", file, "--site", str(a_site.folder), *secret]) == 0
    header = json.loads((tmp_path / "file").read_bytes()[12:].split(b"}")[0] + b"}")
    assert (header["n"], header["r"], header["p"]) == (1 << 17, 8, 1)
    assert main(["site", "import", file, "--site", str(tmp_path / "new"), *secret]) == 0
    assert SiteProfile.open(tmp_path / "new").identity == a_site.identity
    (tmp_path / "secret").write_text(PASSPHRASE)
    assert main(["site", "import", file, "--site", str(tmp_path / "newer"), *secret]) == 0
    captured = capsys.readouterr()
    assert PASSPHRASE not in captured.out + captured.err
    (tmp_path / "secret").write_text("short\n")
    assert main(["site", "export", file + "2", "--site", str(a_site.folder), *secret]) == UsageError.exit_code

"""What lies on the server's disk: whole or absent, encrypted, and locked by whoever works on it."""

import base64
import os
import subprocess
import sys

import pytest

from ppcmi.locks import hold_lock, is_locked
from ppcmi_server.config import create_folder
from ppcmi_server.errors import OperatorError, RefusalError
from ppcmi_server.settings import StorageSettings
from ppcmi_server.storage.blobs import BlobStore, open_blobs
from ppcmi_server.storage.keys import ServerKeys, decrypt, encrypt
from support.app_server import app_server

HOLD_FOREVER = """
import sys, time
from pathlib import Path
from ppcmi.locks import hold_lock
from ppcmi.errors import PpcmiError
with hold_lock(Path(sys.argv[1]), PpcmiError("taken")):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(params=["directory", "memory://blobs", "s3"])
def blobs(request, tmp_path):
    if request.param == "s3":
        store = request.getfixturevalue("s3_blobs")
    else:
        store = BlobStore(str(tmp_path / "blobs") if request.param == "directory" else request.param)
    yield store
    store.delete("a")


@pytest.fixture
def s3_blobs(s3_store, monkeypatch, tmp_path):
    from support.s3 import CREDENTIALS

    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    return open_blobs(StorageSettings(blobs_url=s3_store.new_bucket(), s3_endpoint=s3_store.endpoint), tmp_path)


def test_a_blob_is_stored_replaced_listed_and_deleted(blobs):
    assert blobs.names("a") == []
    blobs.write("a/1", b"one")
    blobs.write("a/2", b"2" * (3 << 20))
    blobs.write("a/1", b"another")
    assert blobs.names("a") == ["1", "2"]
    assert blobs.read("a/1") == b"another"
    assert [len(chunk) for chunk in blobs.chunks("a/2")] == [1 << 20] * 3
    for name in ("a/1", "a/1", "a", "a"):
        blobs.delete(name)
    assert blobs.names("a") == []
    with pytest.raises(FileNotFoundError):
        blobs.read("a/2")


@pytest.mark.parametrize("store", ["directory", "s3"])
@pytest.mark.parametrize("size", [2, 12 << 20])  # an S3 store gets the larger one in parts
def test_a_blob_that_was_not_finished_is_not_there(request, tmp_path, store, size):
    blobs = request.getfixturevalue("s3_blobs") if store == "s3" else BlobStore(str(tmp_path / "blobs"))
    blobs.write("a/1", b"whole")

    def fail_half_way():
        with blobs.writing("a/1") as file:
            file.write(b"h" * size)
            raise ConnectionError

    with pytest.raises(ConnectionError):
        fail_half_way()
    assert blobs.read("a/1") == b"whole"
    assert blobs.names("a") == ["1"]


def test_a_large_blob_is_whole_in_an_s3_store(s3_blobs):
    content = os.urandom(12 << 20)
    with s3_blobs.writing("a/1") as file:
        for start in range(0, len(content), 1 << 20):
            file.write(content[start : start + (1 << 20)])
    assert s3_blobs.read("a/1") == content
    assert s3_blobs.size("a/1") == len(content)


def test_a_store_that_does_not_answer_is_a_503_that_names_nothing(tmp_path, monkeypatch):
    from support.s3 import CREDENTIALS

    pytest.importorskip("s3fs", reason="The extra 's3' is not installed.")
    for name, value in {**CREDENTIALS, "AWS_MAX_ATTEMPTS": "1"}.items():
        monkeypatch.setenv(name, value)
    blobs = open_blobs(StorageSettings(blobs_url="s3://secret-bucket/x", s3_endpoint="http://127.0.0.1:9"), tmp_path)
    for call in (lambda: blobs.write("a/1", b"x"), lambda: blobs.read("a/1"), lambda: blobs.names("a")):
        with pytest.raises(RefusalError) as refused:
            call()
        assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "10"})
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize("url", ["nothing://x", "s4://bucket"])
def test_an_address_that_no_store_has_is_named(tmp_path, url):
    with pytest.raises(OperatorError, match=r"storage\.blobs_url"):
        open_blobs(StorageSettings(blobs_url=url), tmp_path)


def test_what_is_encrypted_opens_only_unaltered_under_its_key_and_context():
    key, other = os.urandom(32), os.urandom(32)
    data = encrypt(key, b"content", b"context")
    assert decrypt(key, data, b"context") == b"content"
    assert encrypt(key, b"content", b"context") != data
    altered = bytes([*data[:-1], data[-1] ^ 1])
    for wrong in (
        (other, data, b"context"),
        (key, data, b"another"),
        (key, altered, b"context"),
        (key, b"", b"context"),
    ):
        with pytest.raises(OperatorError, match="damaged or of another server"):
            decrypt(*wrong)


def test_a_wrapped_key_belongs_to_its_cohort_and_server(tmp_path):
    mine, other = (ServerKeys.load(create_folder(tmp_path / name).folder) for name in ("a", "b"))
    wrapped = mine.wrap(b"k" * 32, b"cohort 1")
    assert mine.unwrap(wrapped, b"cohort 1") == b"k" * 32
    for keys, context in ((mine, b"cohort 2"), (other, b"cohort 1")):
        with pytest.raises(OperatorError):
            keys.unwrap(wrapped, context)
    assert "k" * 8 not in repr(mine)
    assert base64.b64encode(mine.storage_key).decode() not in repr(mine)


@pytest.mark.parametrize("content", [b"", b"short", b"not base64!", base64.b64encode(b"k" * 31)])
def test_a_damaged_key_file_is_named(tmp_path, content):
    folder = create_folder(tmp_path / "server").folder
    (folder / "storage.key").write_bytes(content)
    with pytest.raises(OperatorError, match=r"missing or damaged|is damaged"):
        ServerKeys.load(folder)


def test_an_interrupted_init_goes_on_with_the_keys_that_it_made(tmp_path):
    folder = create_folder(tmp_path / "server").folder
    before = ServerKeys.load(folder)
    (folder / "server.toml").unlink()
    create_folder(folder)
    assert ServerKeys.load(folder) == before


def test_stored_frames_cannot_be_read_without_the_keys(tmp_path):
    with app_server(tmp_path / "server") as server:
        (site,) = server.add_consortium("Hospital A")
        cohort = site.write_cohort(tmp_path / "a.ppcmi", [1])
        site.upload(cohort)
        folder = server.services.config.folder
        stored = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
        sent = [frame.data for _, frame in cohort.frames()]
    assert len(stored) > sum(len(frame) for frame in sent)  # they are there
    assert b"ppcmi-bundle" not in stored
    assert not any(frame[-64:] in stored for frame in sent)  # nor as they came, for the server's key to open
    for secret in (site.token.encode(), site.link_key, server.services.keys.storage_key):
        assert secret not in stored


def test_a_lock_ends_with_the_process_that_held_it(tmp_path):
    lock = tmp_path / "lock"
    assert not is_locked(lock)
    holder = subprocess.Popen([sys.executable, "-c", HOLD_FOREVER, str(lock)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        assert is_locked(lock)
        with (
            pytest.raises(OperatorError, match="taken"),
            hold_lock(lock, OperatorError("It is taken."), patience_s=0.2),
        ):
            pass
    finally:
        holder.kill()
        holder.communicate()
    assert not is_locked(lock)
    with hold_lock(lock, OperatorError("It is taken.")):
        assert is_locked(lock)

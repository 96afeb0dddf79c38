"""Bodies that are made to harm: each gets a problem document, takes no more memory than was said, and harms nobody."""

import contextlib
import gzip
import io
import json
import random
import re
import socket
import struct
import threading
import time
import zipfile
import zlib
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ppcmi
import ppcmi_server
from ppcmi.bundle_header import BundleLimits, read_header
from ppcmi.errors import BundleError, KeyMismatchError
from ppcmi.quantization import Quantization
from ppcmi_server.settings import Limits
from support.app_server import TASK, app_server, make_latents
from support.bundle_forgery import put_together, random_forgery, take_apart, with_header, with_tensor, with_values
from support.bundles import make_channel, seal_latents
from support.random_models import add_model, random_umn
from support.real_server import serving
from support.resident_memory import resident_mib

MAP = f"/v1/tasks/{TASK.name}/map"
MEBIBYTE = 1 << 20
CAP_MIB, USUAL_CAP_MIB = 8, Limits().bundle_bytes // MEBIBYTE


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile") / "server"
    with app_server(folder, bundle_bytes=CAP_MIB * MEBIBYTE) as server:
        add_model(server.services, random_umn())
        yield server


@pytest.fixture(scope="module")
def site(server):
    return server.add_consortium("Hospital A", "Hospital B")[0]


@pytest.fixture(scope="module")
def good(site):
    """A bundle that is mapped, by quantization."""
    bundles = {q: site.bundle(make_latents(2, 1), quantization=q) for q in Quantization}
    for bundle in bundles.values():
        assert site.call("POST", MAP, data=bundle).status_code == 200
    return bundles


def expect_refusal(answer, *statuses):
    assert answer.status_code in statuses, (answer.status_code, answer.text[:200])
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert set(answer.json()) == {"type", "title", "status", "detail"}
    assert "Traceback" not in answer.text


F32, F16, I8 = Quantization.F32, Quantization.F16, Quantization.I8


def f32(*values):
    return struct.pack(f"<{len(values)}f", *values)


def f16(*values):
    return struct.pack(f"<{len(values)}e", *values)


def many_tensors(bundle):
    described, tensors = take_apart(bundle)
    return put_together(
        described | {f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(100_000)}, tensors
    )


def archive():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("../../x", bytes(MEBIBYTE))
    return buffer.getvalue()


def numpy_objects():
    buffer = io.BytesIO()
    np.savez(buffer, x=np.array([{"a": 1}], dtype=object))
    return buffer.getvalue()


PICKLE = b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85\x94R\x94."

SHAPES = {scale: list(shape) for scale, shape in make_latents(1, 0).shapes.items()}


def image(shapes):
    return {"image": shapes}


HOSTILE = {
    "not a number, f32": lambda b: with_values(b[F32], "image.s4", f32(float("nan"))),
    "infinite, f32": lambda b: with_values(b[F32], "image.b", f32(float("inf"))),
    "minus infinite, f32": lambda b: with_values(b[F32], "image.b", f32(float("-inf"))),
    "not a number, f16": lambda b: with_values(b[F16], "image.s4", f16(float("nan"))),
    "infinite, f16": lambda b: with_values(b[F16], "image.s4", f16(float("inf"))),
    "a factor that is not a number": lambda b: with_values(b[I8], "image.s4.scale", f32(float("nan"))),
    "an infinite factor": lambda b: with_values(b[I8], "image.s4.scale", f32(float("inf"))),
    "a negative factor": lambda b: with_values(b[I8], "image.s4.scale", f32(-1.0)),
    "values beyond all sums": lambda b: with_values(b[F32], "image.b", f32(*[3e38] * 1000)),
    "a factor beyond all sums": lambda b: with_values(b[I8], "image.b.scale", f32(3e38)),
    "another type": lambda b: with_tensor(b[F32], "image.s4", dtype="I32"),
    "an unknown type": lambda b: with_tensor(b[F32], "image.s4", dtype="PICKLE"),
    "another shape of the same size": lambda b: with_tensor(b[F32], "image.s4", shape=[1, 4096]),
    "a shape whose product is too large for 64 bits": lambda b: with_tensor(
        b[F32], "image.s4", shape=[1 << 40, 1 << 40]),
    "a negative size": lambda b: with_tensor(b[F32], "image.s4", shape=[-2, 2048]),
    "no slices": lambda b: with_header(b[F32], slice_indices=[]),
    "many slices": lambda b: with_header(b[F32], slice_indices=list(range(4097))),
    "a slice twice": lambda b: with_header(b[F32], slice_indices=[1, 1]),
    "more slices than there are": lambda b: with_header(b[F32], slice_indices=list(range(4096))),
    "huge shapes": lambda b: with_header(b[F32], shapes=image({"s4": [1024, 128, 128], "b": [1024, 128, 128]})),
    "other scales": lambda b: with_header(b[F32], shapes=image({"b": [256, 2, 2]})),
    "another profile": lambda b: with_header(b[F32], profile="minimal", shapes=image({"b": [256, 2, 2]})),
    "as many channels as no codec has": lambda b: with_header(b[F32], shapes=image(SHAPES | {"s4": [7, 4, 4]})),
    "shapes that are a list": lambda b: with_header(b[F32], shapes=[["image", {"b": [256, 2, 2]}]]),
    "another stream": lambda b: with_header(b[F32], shapes={"mask": SHAPES}),
    "both streams": lambda b: with_header(b[F32], shapes={"image": SHAPES, "mask": SHAPES}),
    "another task": lambda b: with_header(b[F32], task="phantom@1"),
    "another version of the task": lambda b: with_header(b[F32], task=f"{TASK.name}@2"),
    "another mode": lambda b: with_header(b[F32], mode="paper", inner_check=None),
    "another codec": lambda b: with_header(b[F32], codec="f" * 32),
    "a nonce that is not the check's": lambda b: with_header(b[F32], nonce="0" * 32),
    "a nonce too long": lambda b: with_header(b[F32], nonce="0" * 64),
    "an unknown field": lambda b: with_header(b[F32], path="../../etc/passwd"),
    "a field less": lambda b: with_header(b[F32], nonce=...),
    "a pseudonym that is a path": lambda b: with_header(b[F32], case="../../../../etc/passwd\x00aaaaaaa"),
    "a hundred thousand tensors": lambda b: many_tensors(b[F32]),
    "one tensor more": lambda b: with_tensor(b[F32], "image.s3", dtype="F32", shape=[0], data_offsets=[0, 0]),
    "tensors that overlap": lambda b: with_tensor(b[F32], "image.s4", data_offsets=[0, 16384]),
    "bytes behind the end": lambda b: b[F32] + b"x",
    "cut off": lambda b: b[F32][:-1],
    "a head alone": lambda b: put_together(take_apart(b[F32])[0], b""),
    "a head of 100 MB": lambda b: struct.pack("<Q", 100 * MEBIBYTE) + b[F32][8:],
    "a head of all there is": lambda b: struct.pack("<Q", (1 << 64) - 1) + b[F32][8:],
    "a head nested too deep": lambda b: put_together(b"[" * 60_000, b""),
    "a head of a large number": lambda b: put_together(b'{"__metadata__":' + b"9" * 60_000 + b"}", b""),
    "a name twice": lambda b: put_together(b'{"__metadata__":{},"__metadata__":{}}', b""),
    "half a character": lambda b: with_header(b[F32], task="\ud800"),
    "a pickle": lambda b: PICKLE * 20,
    "a zip archive": lambda b: archive(),
    "arrays of objects": lambda b: numpy_objects(),
    "gzip": lambda b: gzip.compress(b[F32]),
    "a cohort file": lambda b: b"PPCMIC\x01\x00" + bytes(1000),
    "text": lambda b: "ä".encode() * 50,
    "nothing": lambda b: b"",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_body_made_to_harm_gets_a_problem_document(server, site, good, name):
    expect_refusal(site.call("POST", MAP, data=HOSTILE[name](good)), 409, 413, 422)


def test_values_that_are_large_but_finite_harm_nobody_else(server, site, good):
    """1e30 is a number; whatever becomes of it, the next site's masks are right and the server goes on."""
    wild = with_values(good[F32], "image.b", f32(*[1e30] * 1024))
    assert site.call("POST", MAP, data=wild).status_code in (200, 422)
    assert site.call("POST", MAP, data=good[F32]).status_code == 200
    assert server.mapper.alive


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "x-gzip", "gzip, identity", "identity, gzip"])
def test_nothing_is_ever_unpacked(site, good, coding):
    bomb = zlib.compress(bytes(MEBIBYTE), 9)
    for method, path, kind in (("POST", MAP, "application/octet-stream"), ("POST", "/v1/enrol", "application/json")):
        answer = site.call(method, path, data=bomb, headers={"Content-Encoding": coding, "Content-Type": kind})
        expect_refusal(answer, 415)
    assert site.call("POST", MAP, data=good[F32], headers={"Content-Encoding": "identity"}).status_code == 200


LIMITS = BundleLimits(bytes=1 << 20, slices=64)


@pytest.fixture(scope="module")
def sealed():
    return [seal_latents(quantization=q) for q in Quantization]


@settings(max_examples=600, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 60))
def test_whatever_is_done_to_a_bundle_it_is_read_or_refused_with_a_sentence(sealed, seed):
    chance = random.Random(seed)
    forged = random_forgery(chance.choice(sealed), chance)
    with contextlib.suppress(BundleError):
        header = read_header(forged, LIMITS)
        assert len(header.slice_indices) <= LIMITS.slices
    with contextlib.suppress(BundleError, KeyMismatchError):
        make_channel().open(forged)


def endless(size, piece=bytes(64 << 10)):
    for _ in range(size // len(piece)):
        yield piece


def test_the_server_takes_no_more_memory_than_twice_what_one_body_may_have(tmp_path, monkeypatch):
    """A process of its own, watched from outside, while bodies of 10 GB, endless chunks and huge heads come in.

    With the cap that servers have: below 32 MiB the C library holds back freed memory as large as the bodies.
    """
    with app_server(tmp_path / "server", bundle_bytes=USUAL_CAP_MIB * MEBIBYTE) as prepared:
        site = prepared.add_consortium("Hospital A")[0]
        add_model(prepared.services, random_umn())
    bundle = site.bundle(make_latents(2, 1))
    with serving(tmp_path / "server") as served:
        site.url = served.url
        for _ in range(5):
            assert site.call("POST", MAP, data=bundle).status_code == 200
        before, peak, done = resident_mib(served.pid), [0.0], threading.Event()

        def watch():
            while not done.wait(0.005):
                peak[0] = max(peak[0], resident_mib(served.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            for body in (
                struct.pack("<Q", 100 * MEBIBYTE) + bytes(USUAL_CAP_MIB * MEBIBYTE - 8),
                many_tensors(bundle),
                put_together(b"[" * 60_000, bytes(USUAL_CAP_MIB * MEBIBYTE - 100_000)),
            ):
                expect_refusal(site.call("POST", MAP, data=body), 413, 422)
            for chunked in (False, True):
                assert send_until_refused(site, 10 << 30, chunked=chunked) < 2 * USUAL_CAP_MIB * MEBIBYTE
            flood_with_tiny_chunks(site, 1.0)
        finally:
            done.set()
            watcher.join()
        assert site.call("POST", MAP, data=bundle).status_code == 200
        assert peak[0] > 0
        assert peak[0] - before < 2 * USUAL_CAP_MIB
    assert "uncaught" not in served.log


def send_until_refused(site, size, chunked):
    """Bytes that the server took before it said no."""
    parts = urlsplit(site.url)
    head = f"POST {MAP} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {site.token}\r\n"
    head += "Transfer-Encoding: chunked\r\n\r\n" if chunked else f"Content-Length: {size}\r\n\r\n"
    piece = bytes(64 << 10)
    framed = b"%x\r\n" % len(piece) + piece + b"\r\n" if chunked else piece
    sent = 0
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        connection.sendall(head.encode())
        with contextlib.suppress(ConnectionError):
            while sent < size:
                connection.sendall(framed)
                sent += len(piece)
        with contextlib.suppress(ConnectionError):
            assert connection.recv(4096).startswith(b"HTTP/1.1 413")
    return sent


def flood_with_tiny_chunks(site, seconds):
    """Six bytes for each byte of the body, in one go."""
    parts, end = urlsplit(site.url), time.monotonic() + seconds
    head = f"POST {MAP} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {site.token}\r\nTransfer-Encoding: chunked\r\n\r\n"
    with (
        contextlib.suppress(ConnectionError),
        socket.create_connection((parts.hostname, parts.port), timeout=20) as connection,
    ):
        connection.sendall(head.encode())
        while time.monotonic() < end:
            connection.sendall(b"1\r\nx\r\n" * 1000)
    assert requests.get(site.url + "/healthz", timeout=20).json() == json.loads('{"status": "ok"}')


def test_nothing_in_the_server_unpickles_what_it_received():
    """The sources name no unpickler, and PyTorch's own reads weights alone."""
    unpicklers = re.compile(
        r"import (pickle|marshal|shelve|joblib|dill)|allow_pickle=True|(?<!safetensors\.)torch\.load\("
    )
    sources = [file for package in (ppcmi, ppcmi_server) for file in Path(package.__path__[0]).rglob("*.py")]
    assert len(sources) > 80
    for file in sources:
        found = unpicklers.search(file.read_text(encoding="utf-8"))
        assert found is None or "weights_only=True" in file.read_text(encoding="utf-8"), file.name

"""Keys become numbers in the same way on every machine: published vectors, processes, and the shape of the numbers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ppcmi.klt.derivation import KeyStream, context_of, encode_fields, key_check, key_stream
from ppcmi.klt.inner import InnerLayer
from ppcmi.klt.link import LinkLayer
from ppcmi.klt.published import PublishedLayer
from ppcmi.latents import Latents
from ppcmi.scales import Stream

VECTORS = json.loads(Path(__file__).with_name("klt_vectors.json").read_text(encoding="utf-8"))
KEY = bytes(range(32))
CONTEXT = context_of("phantom@1", "image", "b", purpose="test")


@pytest.fixture(params=VECTORS["derivations"], ids=lambda vector: vector["purpose"])
def vector(request):
    return request.param


def stream_of(vector):
    context = context_of(
        vector["task"],
        vector["stream"],
        vector["scale"],
        purpose=vector["purpose"],
        nonce=bytes.fromhex(vector["nonce"]),
        round_=vector["round"],
    )
    assert context.hex() == vector["context"]
    return KeyStream(bytes.fromhex(vector["key"]), context)


def test_published_vectors_hold_for_bytes_signs_and_permutations_exactly(vector):
    assert stream_of(vector).read(32).hex() == vector["bytes"]
    assert stream_of(vector).signs(16).tolist() == vector["signs_16"]
    assert stream_of(vector).permutation(16).tolist() == vector["permutation_16"]


def test_published_vectors_hold_for_normals_and_orthogonal_matrices(vector):
    np.testing.assert_allclose(stream_of(vector).normals(4), vector["normals_4"], atol=1e-6)
    np.testing.assert_allclose(stream_of(vector).orthogonal(3), vector["orthogonal_3"], atol=1e-6)


def test_published_vectors_hold_for_key_checks():
    for check in VECTORS["checks"]:
        key, nonce = bytes.fromhex(check["key"]), bytes.fromhex(check["nonce"])
        assert key_check(key, check["layer"], check["task"], nonce) == check["check"]


@pytest.mark.parametrize("layer_vector", VECTORS["layers"], ids=lambda vector: vector["layer"])
def test_published_vectors_hold_for_whole_layers(layer_vector):
    key, nonce = bytes.fromhex(layer_vector["key"]), bytes.fromhex(layer_vector["nonce"])
    latents = Latents({"b": torch.arange(48, dtype=torch.float32).view(2, 4, 2, 3)})
    result = {
        "inner": lambda: InnerLayer(key, "phantom@1").apply(latents, Stream.IMAGE),
        "link": lambda: LinkLayer(key, "phantom@1").apply(latents, Stream.IMAGE, nonce),
        "published": lambda: PublishedLayer(key, "phantom@1").apply(latents, Stream.IMAGE, nonce),
    }[layer_vector["layer"]]()
    np.testing.assert_allclose(result["b"].flatten(), layer_vector["of_0_to_47"], atol=1e-4)


def test_another_process_derives_the_same_numbers():
    program = (
        "from ppcmi.klt.derivation import KeyStream, context_of;"
        "s = KeyStream(bytes(range(32)), context_of('phantom@1', 'image', 'b', purpose='test'));"
        "print([s.signs(64).tolist(), s.permutation(64).tolist(), s.orthogonal(8).tolist()])"
    )
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    signs, permutation, orthogonal = json.loads(run.stdout)
    stream = KeyStream(KEY, CONTEXT)
    assert stream.signs(64).tolist() == signs
    assert stream.permutation(64).tolist() == permutation
    np.testing.assert_allclose(stream.orthogonal(8), orthogonal, atol=1e-12)  # QR's last bits are the machine's own


@given(fields=st.lists(st.binary(max_size=8), max_size=5), others=st.lists(st.binary(max_size=8), max_size=5))
@settings(max_examples=50, deadline=None)
def test_different_fields_never_encode_alike(fields, others):
    assert (encode_fields(*fields) == encode_fields(*others)) == (fields == others)


@given(parts=st.lists(st.integers(0, 100), max_size=6))
@settings(max_examples=20, deadline=None)
def test_a_stream_read_in_parts_is_the_stream_read_at_once(parts):
    stream = KeyStream(KEY, CONTEXT)
    assert b"".join(stream.read(part) for part in parts) == key_stream(KEY, CONTEXT, sum(parts))


@given(size=st.integers(1, 3000))
@settings(max_examples=20, deadline=None)
def test_a_permutation_holds_every_index_once(size):
    assert sorted(KeyStream(KEY, CONTEXT).permutation(size)) == list(range(size))


@given(size=st.integers(1, 64))
@settings(max_examples=15, deadline=None)
def test_an_orthogonal_matrix_is_orthogonal(size):
    matrix = KeyStream(KEY, CONTEXT).orthogonal(size)
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(size), atol=1e-12)


def test_orthogonal_matrices_are_uniform_over_reflections_and_first_columns():
    stream = KeyStream(KEY, CONTEXT)
    matrices = np.stack([stream.orthogonal(3) for _ in range(4000)])
    assert abs(np.linalg.det(matrices).mean()) < 0.06  # as many reflections as rotations
    np.testing.assert_allclose((matrices**2).mean(axis=0), 1 / 3, atol=0.02)
    np.testing.assert_allclose(matrices.mean(axis=0), 0, atol=0.04)


def test_normals_have_the_moments_of_a_standard_normal():
    values = KeyStream(KEY, CONTEXT).normals(200_001)
    assert len(values) == 200_001
    assert np.isfinite(values).all()
    np.testing.assert_allclose(
        [values.mean(), values.var(), (values**3).mean(), (values**4).mean()], [0, 1, 0, 3], atol=0.05
    )


def test_signs_are_even_and_fill_a_count_that_is_no_multiple_of_eight():
    values = KeyStream(KEY, CONTEXT).signs(100_003)
    assert len(values) == 100_003
    assert set(values.tolist()) == {1.0, -1.0}
    assert abs(values.mean()) < 0.02


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_key_of_another_length_is_refused(length):
    with pytest.raises(ValueError, match="32 bytes"):
        KeyStream(bytes(length), CONTEXT)


@pytest.mark.parametrize("size", [0, (1 << 24) + 1])
def test_a_permutation_of_impossible_size_is_refused(size):
    with pytest.raises(ValueError, match="1 to 2"):
        KeyStream(KEY, CONTEXT).permutation(size)

"""Bundles come back as they were packed, and nothing else comes through."""

import dataclasses
import json
import tracemalloc

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ppcmi.bundle import pack, unpack
from ppcmi.bundle_header import BundleLimits, read_header
from ppcmi.errors import BundleError
from ppcmi.latents import Latents
from ppcmi.quantization import Quantization
from ppcmi.scales import PRIVACY_PROFILES, Profile, Stream
from support.bundles import make_header, make_latents

few_examples = settings(max_examples=25, deadline=None)
PACKED = pack(make_header(), {Stream.IMAGE: make_latents()})


def document_of(data):
    """The header's JSON as a dictionary."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["ppcmi"])


def with_document(document, tensors=None):
    """A safetensors file with any header and tensors."""
    tensors = tensors if tensors is not None else safetensors.torch.load(PACKED)
    text = document if isinstance(document, str) else json.dumps(document)
    return safetensors.torch.save(tensors, metadata={"ppcmi": text})


def with_outer(outer, body=b""):
    """A safetensors file with any outer header."""
    text = outer if isinstance(outer, bytes) else json.dumps(outer).encode()
    return len(text).to_bytes(8, "little") + text + body


@given(
    profile=st.sampled_from(PRIVACY_PROFILES),
    quantization=st.sampled_from(Quantization),
    slices=st.integers(1, 5),
    both=st.booleans(),
    more=st.fixed_dictionaries(
        {
            "model": st.none() | st.integers(1, 1 << 30),
            "in_reply_to": st.none() | st.binary(min_size=16, max_size=16).map(bytes.hex),
            "variant": st.integers(0, 3),
        }
    ),
)
@few_examples
def test_a_bundle_comes_back_as_it_was_packed(profile, quantization, slices, both, more):
    streams = {stream: make_latents(slices, profile, seed) for seed, stream in enumerate(Stream) if both or seed == 0}
    header = make_header(
        profile=profile,
        quantization=quantization,
        slice_indices=tuple(range(7, 7 + slices)),
        shapes={stream: latents.shapes for stream, latents in streams.items()},
        **more,
    )
    data = pack(header, streams)
    back, latents = unpack(data)
    assert back == header
    assert read_header(data) == header
    assert latents.keys() == streams.keys()
    tolerance = {Quantization.F32: 0.0, Quantization.F16: 2e-3, Quantization.I8: 0.03, Quantization.I4: 2.5}[
        quantization
    ]
    for stream, original in streams.items():
        for scale, values in original.items():
            assert latents[stream][scale].dtype == torch.float32
            torch.testing.assert_close(latents[stream][scale], values, atol=tolerance, rtol=0)


def test_fewer_bits_take_fewer_bytes():
    latents = Latents({"s4": torch.randn(4, 128, 16, 16), "b": torch.randn(4, 256, 8, 8)})
    sizes = {}
    for quantization in Quantization:
        header = make_header(
            quantization=quantization, slice_indices=(0, 1, 2, 3), shapes={Stream.IMAGE: latents.shapes}
        )
        sizes[quantization] = len(pack(header, {Stream.IMAGE: latents}))
    assert sizes[Quantization.I4] < 0.14 * sizes[Quantization.F32]
    assert sizes[Quantization.I8] < 0.26 * sizes[Quantization.F32]
    assert sizes[Quantization.F16] < 0.51 * sizes[Quantization.F32]


@given(data=st.binary(max_size=300))
@few_examples
def test_arbitrary_bytes_are_a_bundle_error(data):
    with pytest.raises(BundleError):
        unpack(data)


@given(cut=st.integers(0, len(PACKED) - 1))
@settings(max_examples=60, deadline=None)
def test_a_bundle_cut_anywhere_is_a_bundle_error(cut):
    with pytest.raises(BundleError):
        unpack(PACKED[:cut])


@given(position=st.integers(0, len(PACKED) - 1), value=st.integers(0, 255), header_only=st.booleans())
@settings(max_examples=300, deadline=None)
def test_a_corrupted_byte_is_a_bundle_error_or_other_valid_content_but_no_other_exception(position, value, header_only):
    if header_only:
        position %= 8 + int.from_bytes(PACKED[:8], "little")
    corrupted = bytearray(PACKED)
    corrupted[position] = value
    try:
        _, streams = unpack(bytes(corrupted))
    except BundleError:
        return
    for latents in streams.values():
        assert latents.shapes == make_latents().shapes
        assert all(torch.isfinite(values).all() for _, values in latents.items())


@given(extra=st.binary(min_size=1, max_size=20))
@few_examples
def test_trailing_bytes_are_refused(extra):
    with pytest.raises(BundleError):
        unpack(PACKED + extra)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(field=st.sampled_from(sorted(document_of(PACKED))), value=json_values)
@settings(max_examples=200, deadline=None)
def test_any_json_in_any_field_gives_a_bundle_error_or_a_valid_header(field, value):
    try:
        header = read_header(with_document(document_of(PACKED) | {field: value}))
    except BundleError:
        return
    dataclasses.replace(header)  # checks every field again


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", "ppcmi-bundle/1"),
        ("task", "../phantom@1"),
        ("task", "phantom"),
        ("codec", "C" * 32),
        ("profile", "everything"),
        ("mode", "none"),
        ("quantization", "f64"),
        ("nonce", "00" * 15),
        ("nonce", "00" * 17),
        ("nonce", " " + "00" * 15 + "0"),
        ("link_check", ""),
        ("inner_check", "short"),
        ("case", "DOE^JOHN"),
        ("case", "0" * 31),
        ("case", "0" * 33),
        ("slice_indices", []),
        ("slice_indices", [3, 3]),
        ("slice_indices", [-1, 4]),
        ("slice_indices", [3.0, 4]),
        ("slice_indices", [True, 4]),
        ("slice_indices", list(range(4097))),
        ("streams", []),
        ("streams", ["image", "image"]),
        ("streams", ["video"]),
        ("shapes", {"s4": [16, 4, 4]}),
        ("shapes", {"b": [32, 2, 2], "s4": [16, 4, 4]}),
        ("shapes", {"s4": [16, 4, 0], "b": [32, 2, 2]}),
        ("shapes", {"s4": [16, 4, 1 << 40], "b": [32, 2, 2]}),
        ("in_reply_to", "0"),
        ("model", 0),
        ("model", True),
        ("model", "1"),
        ("variant", -1),
        ("variant", None),
        ("patient", "DOE^JOHN"),
    ],
)
def test_a_wrong_or_unknown_field_is_refused(field, value):
    with pytest.raises(BundleError):
        unpack(with_document(document_of(PACKED) | {field: value}))


@pytest.mark.parametrize("field", sorted(document_of(PACKED)))
def test_a_missing_field_is_refused(field):
    document = document_of(PACKED)
    del document[field]
    with pytest.raises(BundleError):
        unpack(with_document(document))


TENSORS = safetensors.torch.load(PACKED)


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"image.s4": TENSORS["image.s4"]},
        TENSORS | {"image.s3": torch.zeros(2, 512)},
        TENSORS | {"mask.b": torch.zeros(2, 128)},
        TENSORS | {"image.b": TENSORS["image.b"].half()},
        TENSORS | {"image.b": TENSORS["image.b"][:1]},
        TENSORS | {"image.b": TENSORS["image.b"].view(2, 32, 2, 2)},
        TENSORS | {"image.b": torch.full((2, 128), float("nan"))},
    ],
    ids=["none", "one missing", "another scale", "another stream", "type", "slices", "shape", "not a number"],
)
def test_other_tensors_than_the_header_tells_of_are_refused(tensors):
    with pytest.raises(BundleError):
        unpack(with_document(document_of(PACKED), tensors))


@pytest.mark.parametrize(
    "data",
    [
        with_outer(b"[" * 60000),
        with_outer(b"{" + b" " * (64 << 10) + b"}"),
        with_outer({"__metadata__": {"ppcmi": "{}", "more": ""}}),
        with_outer({"__metadata__": {"ppcmi": 1}}),
        with_outer({"__metadata__": []}),
        with_outer({}),
        with_outer([]),
        with_outer(b'{"__metadata__": {"ppcmi": "{}"}, "__metadata__": {"ppcmi": "{}"}}'),
        with_outer({"__metadata__": {"ppcmi": json.dumps(document_of(PACKED))}, "image.s4": 1, "image.b": 2}),
        with_outer({"__metadata__": {"ppcmi": json.dumps(document_of(PACKED))}, "image.s4": {}, "image.b": {}}),
        (1 << 63).to_bytes(8, "little") + b"{}",
    ],
)
def test_a_hostile_outer_header_is_refused(data):
    with pytest.raises(BundleError):
        unpack(data)


def test_offsets_that_overlap_or_run_past_the_end_are_refused():
    length = int.from_bytes(PACKED[:8], "little")
    for offsets in ([0, 1 << 50], [0, 2048], [-8, 2040], [1024, 3064], [1032, 3080]):
        outer = json.loads(PACKED[8 : 8 + length])
        assert outer["image.s4"]["data_offsets"] == [1024, 3072]
        outer["image.s4"]["data_offsets"] = offsets
        with pytest.raises(BundleError):
            unpack(with_outer(outer, PACKED[8 + length :]))


def test_a_field_twice_in_the_header_is_refused():
    text = json.dumps(document_of(PACKED))
    with pytest.raises(BundleError):
        unpack(with_document(text[:-1] + ', "variant": 0}'))


def test_limits_of_bytes_and_slices_hold():
    with pytest.raises(BundleError, match="larger than allowed"):
        unpack(PACKED, BundleLimits(bytes=len(PACKED) - 1))
    with pytest.raises(BundleError, match="more slices"):
        unpack(PACKED, BundleLimits(slices=1))
    assert unpack(PACKED, BundleLimits(bytes=len(PACKED), slices=2))[0] == make_header()


def test_declared_sizes_allocate_nothing():
    document = document_of(PACKED) | {
        "slice_indices": list(range(4000)),
        "shapes": {"s4": [1024, 128, 128], "b": [1024, 128, 128]},
    }
    outer = {"__metadata__": {"ppcmi": json.dumps(document)}}
    for name in ("image.s4", "image.b"):
        outer[name] = {
            "dtype": "F32",
            "shape": [4000, 1024 * 128 * 128],
            "data_offsets": [0, 4 * 4000 * 1024 * 128 * 128],
        }
    data = with_outer(outer)
    tracemalloc.start()
    with pytest.raises(BundleError):
        unpack(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


def test_packing_refuses_latents_that_are_not_those_of_the_header():
    for streams in (
        {Stream.MASK: make_latents()},
        {Stream.IMAGE: make_latents(), Stream.MASK: make_latents()},
        {Stream.IMAGE: make_latents(3)},
        {Stream.IMAGE: make_latents(2, Profile.MINIMAL)},
    ):
        with pytest.raises(BundleError, match="disagree"):
            pack(make_header(), streams)


def test_error_texts_hold_nothing_of_the_header():
    for field in ("task", "case", "codec", "nonce"):
        with pytest.raises(BundleError) as caught:
            unpack(with_document(document_of(PACKED) | {field: "DOE^JOHN"}))
        assert "DOE" not in str(caught.value)

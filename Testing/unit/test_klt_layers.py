"""What each layer of the KLT does, and what it does not."""

import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import hadamard

from ppcmi.klt.derivation import KeyStream, context_of
from ppcmi.klt.hadamard import WalshHadamard
from ppcmi.klt.inner import InnerLayer
from ppcmi.klt.link import WORK_VALUES, LinkLayer
from ppcmi.klt.published import PublishedLayer
from ppcmi.latents import Latents
from ppcmi.scales import Stream

KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))
NONCE, OTHER_NONCE = bytes(range(16)), bytes(range(1, 17))
TASK = "phantom@1"

few_examples = settings(max_examples=15, deadline=None)
shapes = st.tuples(st.integers(1, 5), st.integers(1, 24), st.integers(1, 7), st.integers(1, 7))


class InnerWithNonce(InnerLayer):
    """The inner layer with the others' signature, so that all three go through the same tests."""

    def apply(self, latents, stream, nonce=b""):
        return super().apply(latents, stream)

    def invert(self, latents, stream, nonce=b""):
        return super().invert(latents, stream)


EVERY_LAYER = [InnerWithNonce, LinkLayer, PublishedLayer]
every_layer = pytest.mark.parametrize("layer_class", EVERY_LAYER)


def random_latents(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Latents({"b": torch.randn(shape, generator=generator) * 3 + 1})


def correlation(first, second):
    return abs(np.corrcoef(first["b"].flatten().numpy(), second["b"].flatten().numpy())[0, 1])


@every_layer
@given(shape=shapes, seed=st.integers(0, 1000))
@few_examples
def test_inverting_gives_the_latents_back_to_float32_rounding(layer_class, shape, seed):
    latents = random_latents(shape, seed)
    layer = layer_class(KEY, TASK)
    protected = layer.apply(latents, Stream.IMAGE, NONCE)
    assert protected["b"].shape == latents["b"].shape
    torch.testing.assert_close(layer.invert(protected, Stream.IMAGE, NONCE)["b"], latents["b"], atol=1e-4, rtol=1e-4)


@every_layer
@given(shape=shapes)
@few_examples
def test_distances_between_slices_of_the_same_place_are_kept(layer_class, shape):
    layer = layer_class(KEY, TASK)
    first, second = random_latents(shape, 1), random_latents(shape, 2)
    protected = [layer.apply(latents, Stream.IMAGE, NONCE)["b"] for latents in (first, second)]
    before = (first["b"] - second["b"]).flatten(1).norm(dim=1)
    torch.testing.assert_close((protected[0] - protected[1]).flatten(1).norm(dim=1), before, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layer_class", [InnerWithNonce, LinkLayer])
def test_inner_and_link_layer_are_orthogonal_matrices(layer_class):
    basis = Latents({"b": torch.eye(48).view(48, 1, 4, 3, 4)[:, 0]})
    layer = layer_class(KEY, TASK)
    # Each unit vector in a bundle of its own: a slice's mixing depends on its place in the bundle.
    rows = [layer.apply(basis.select(slice(i, i + 1)), Stream.IMAGE, NONCE)["b"].flatten() for i in range(48)]
    matrix = torch.stack(rows)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(48), atol=1e-5, rtol=0)


def test_the_link_layer_is_the_written_down_rounds():
    latents = random_latents((3, 6, 4, 2))  # N = 48: three blocks of 16
    expected = latents["b"].flatten(1).double().numpy()
    transform = np.kron(np.eye(3), hadamard(16)) / 4
    for r in range(3):
        contexts = [
            context_of(TASK, "mask", "b", purpose=f"link {purpose}", nonce=NONCE, round_=r)
            for purpose in ("permutation", "signs")
        ]
        permutation = KeyStream(KEY, contexts[0]).permutation(48)
        signs = KeyStream(KEY, contexts[1]).signs(3 * 48).reshape(3, 48)
        expected = (signs * expected[:, permutation]) @ transform.T
    result = LinkLayer(KEY, TASK).apply(latents, Stream.MASK, NONCE)["b"].flatten(1).numpy()
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_inner_and_published_layer_are_the_written_down_products():
    latents = random_latents((2, 5, 3, 4))
    values = latents["b"].double().numpy()

    def numbers(purpose):
        return KeyStream(KEY, context_of(TASK, "image", "b", purpose=purpose))

    q = numbers("inner orthogonal").orthogonal(5)
    inner = InnerLayer(KEY, TASK).apply(latents, Stream.IMAGE)["b"].numpy()
    np.testing.assert_allclose(inner, np.einsum("cd,nchw->ndhw", q, values), atol=1e-5)

    q, bias = numbers("published orthogonal").orthogonal(5), numbers("published bias").normals(5)
    permutation = np.eye(5)[numbers("published permutation").permutation(5)]
    published = PublishedLayer(KEY, TASK).apply(latents, Stream.IMAGE)["b"].numpy()
    expected = np.einsum("ij,njhw->nihw", permutation @ q.T, values) + bias[:, None, None]
    np.testing.assert_allclose(published, expected, atol=1e-5)


@given(bits=st.integers(0, 13), blocks=st.sampled_from([1, 3, 5]), rows=st.integers(1, 4))
@few_examples
def test_the_fast_transform_is_its_own_inverse_and_keeps_norms(bits, blocks, rows):
    size = blocks << bits
    values = torch.randn(rows, size, generator=torch.Generator().manual_seed(bits))
    transform = WalshHadamard(rows, size, values.device)
    once = transform(values).clone()
    torch.testing.assert_close(once.norm(dim=1), values.norm(dim=1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(transform(once), values, rtol=1e-4, atol=1e-5)


def test_slices_worked_on_in_several_parts_come_out_as_in_one():
    slices = 2 * WORK_VALUES // 16384 + 3
    latents = random_latents((slices, 256, 8, 8))
    layer = LinkLayer(KEY, TASK)
    protected = layer.apply(latents, Stream.IMAGE, NONCE)
    few = layer.apply(latents.select(slice(0, 5)), Stream.IMAGE, NONCE)
    torch.testing.assert_close(few["b"], protected["b"][:5])
    torch.testing.assert_close(layer.invert(protected, Stream.IMAGE, NONCE)["b"], latents["b"], atol=1e-4, rtol=1e-4)


def test_the_same_slice_twice_in_a_bundle_gives_unrelated_values():
    one = random_latents((1, 32, 8, 8))["b"]
    protected = LinkLayer(KEY, TASK).apply(Latents({"b": torch.cat([one, one])}), Stream.IMAGE, NONCE)
    assert correlation(protected.select(slice(0, 1)), protected.select(slice(1, 2))) < 0.1


@pytest.mark.parametrize(
    ("layer_class", "what"),
    [(layer, what) for layer in EVERY_LAYER for what in ("key", "task", "stream", "scale")] + [(LinkLayer, "nonce")],
)
def test_another_key_task_stream_scale_or_nonce_gives_an_unrelated_transform(layer_class, what):
    values = torch.randn((2, 128, 8, 8), generator=torch.Generator().manual_seed(3))

    def protected(key=KEY, task=TASK, stream=Stream.IMAGE, scale="b", nonce=NONCE):
        # The biases of the published layer are no function of the latents, so they are left out of the correlation.
        layer, zeros = layer_class(key, task), Latents({scale: torch.zeros_like(values)})
        result = layer.apply(Latents({scale: values}), stream, nonce)[scale]
        return Latents({"b": result - layer.apply(zeros, stream, nonce)[scale]})

    other = {"key": OTHER_KEY, "task": "phantom@2", "stream": Stream.MASK, "scale": "s4", "nonce": OTHER_NONCE}
    assert correlation(protected(), protected()) > 0.99
    assert correlation(protected(), protected(**{what: other[what]})) < 0.05


@every_layer
def test_a_wrong_key_gives_noise(layer_class):
    latents = random_latents((2, 128, 8, 8))
    protected = layer_class(KEY, TASK).apply(latents, Stream.IMAGE, NONCE)
    wrong = layer_class(OTHER_KEY, TASK).invert(protected, Stream.IMAGE, NONCE)
    assert correlation(latents, wrong) < 0.2


def slices_with_anatomy():
    """Latents whose norm shows a bright disc, as encoded images do."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 16), torch.linspace(-1, 1, 16), indexing="ij")
    brightness = 0.2 + (x**2 + y**2 < 0.4).float()
    return Latents({"s4": brightness * torch.randn((4, 128, 16, 16), generator=torch.Generator().manual_seed(5)).abs()})


def norm_map_correlation(plain, protected):
    maps = [latents["s4"].norm(dim=1).flatten().numpy() for latents in (plain, protected)]
    return abs(np.corrcoef(*maps)[0, 1])


def test_the_link_layer_leaves_no_map_of_norms():
    plain = slices_with_anatomy()
    for layer in (LinkLayer(KEY, TASK), LinkLayer(OTHER_KEY, TASK)):
        assert norm_map_correlation(plain, layer.apply(plain, Stream.IMAGE, NONCE)) < 0.1


def test_the_inner_layer_alone_leaves_the_map_of_norms_as_it_is():
    plain = slices_with_anatomy()
    assert norm_map_correlation(plain, InnerLayer(KEY, TASK).apply(plain, Stream.IMAGE)) > 0.999


def test_link_mixed_values_are_near_gaussian_whatever_the_slice_was():
    spike = torch.zeros(1, 128, 16, 16)
    spike[0, 3, 4, 5] = 100.0
    for plain in (slices_with_anatomy(), Latents({"s4": spike})):
        values = LinkLayer(KEY, TASK).apply(plain, Stream.IMAGE, NONCE)["s4"]
        largest = values.flatten(1).abs().amax(dim=1) / values.flatten(1).std(dim=1)
        assert largest.max() < 6


@every_layer
def test_key_checks_tell_keys_tasks_and_nonces_apart(layer_class):
    check = layer_class(KEY, TASK).check(NONCE)
    assert check == layer_class(KEY, TASK).check(NONCE)
    assert len(check) == 16
    others = [
        layer_class(OTHER_KEY, TASK).check(NONCE),
        layer_class(KEY, "phantom@2").check(NONCE),
        layer_class(KEY, TASK).check(OTHER_NONCE),
    ]
    assert len({check, *others}) == 4


def test_layers_have_key_checks_of_their_own():
    assert len({layer(KEY, TASK).check(NONCE) for layer in (InnerLayer, LinkLayer, PublishedLayer)}) == 3


def test_no_slices_and_half_precision_go_through():
    layer = LinkLayer(KEY, TASK)
    assert layer.apply(Latents({"b": torch.zeros(0, 8, 2, 2)}), Stream.IMAGE, NONCE)["b"].shape == (0, 8, 2, 2)
    half = random_latents((2, 8, 2, 2)).map(lambda _, values: values.half())
    assert layer.apply(half, Stream.IMAGE, NONCE)["b"].dtype == torch.float32


def test_autocast_around_the_layers_costs_no_precision():
    latents = random_latents((2, 64, 8, 8))
    layer, inner = LinkLayer(KEY, TASK), InnerLayer(KEY, TASK)
    expected = layer.apply(inner.apply(latents, Stream.IMAGE), Stream.IMAGE, NONCE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = layer.apply(inner.apply(latents, Stream.IMAGE), Stream.IMAGE, NONCE)
    torch.testing.assert_close(result["b"], expected["b"])


@pytest.mark.parametrize("nonce", [b"", bytes(15), os.urandom(17)], ids=["none", "short", "long"])
def test_the_link_layer_refuses_a_nonce_of_another_length(nonce):
    with pytest.raises(ValueError, match="16 bytes"):
        LinkLayer(KEY, TASK).apply(random_latents((1, 2, 2, 2)), Stream.IMAGE, nonce)


@every_layer
def test_a_key_of_another_length_is_refused(layer_class):
    with pytest.raises(ValueError, match="32 bytes"):
        layer_class(bytes(16), TASK)

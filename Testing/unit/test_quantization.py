"""Quantization keeps its error bounds, also after the link layer, and refuses what it cannot hold."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ppcmi.errors import BundleError
from ppcmi.klt.link import LinkLayer
from ppcmi.latent_tensors import dequantize, quantize
from ppcmi.latents import Latents
from ppcmi.quantization import GAUSSIAN_LEVELS, Quantization, tensor_layout
from ppcmi.scales import Stream

few_examples = settings(max_examples=30, deadline=None)
finite = st.floats(-(2.0**100), 2.0**100, width=32)
slices = arrays(
    "float32", st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)), elements=finite
)
every_quantization = pytest.mark.parametrize("quantization", list(Quantization))


def there_and_back(latents, quantization):
    return dequantize(quantize(latents, quantization), latents.shapes, quantization)


@given(values=slices)
@few_examples
def test_f32_changes_nothing(values):
    latents = Latents({"b": torch.from_numpy(values)})
    assert torch.equal(there_and_back(latents, Quantization.F32)["b"], latents["b"])


@given(values=slices)
@few_examples
def test_f16_keeps_eleven_bits(values):
    latents = Latents({"b": torch.from_numpy(values).clamp(-60000, 60000)})
    torch.testing.assert_close(there_and_back(latents, Quantization.F16)["b"], latents["b"], rtol=2**-11, atol=2**-25)


@given(values=slices)
@few_examples
def test_i8_errs_by_at_most_half_a_step_of_each_slice(values):
    latents = Latents({"b": torch.from_numpy(values)})
    error = (there_and_back(latents, Quantization.I8)["b"] - latents["b"]).abs().flatten(1).amax(dim=1)
    steps = latents["b"].abs().flatten(1).amax(dim=1) / 127
    assert (error <= 0.5001 * steps + 1e-37).all()


def test_i8_after_mixing_errs_by_about_one_percent_even_for_a_spiky_slice():
    values = torch.randn((3, 128, 16, 16), generator=torch.Generator().manual_seed(0)).relu() ** 3
    values[0, 0, 0, 0] = 1000.0  # alone, this value would leave the others a handful of steps
    latents = Latents({"s4": values})
    link = LinkLayer(bytes(32), "phantom@1")
    mixed = link.apply(latents, Stream.IMAGE, bytes(16))
    result = link.invert(there_and_back(mixed, Quantization.I8), Stream.IMAGE, bytes(16))
    error = (result["s4"] - values).flatten(1).norm(dim=1) / values.flatten(1).norm(dim=1)
    assert error.max() < 0.015
    unmixed = (there_and_back(latents, Quantization.I8)["s4"] - values).flatten(1).norm(dim=1)
    assert unmixed[0] > 5 * (result["s4"] - values)[0].norm()


@pytest.mark.parametrize("quantization", [Quantization.I8, Quantization.I4])
def test_a_slice_of_zeros_stays_one(quantization):
    zeros = Latents({"b": torch.zeros(1, 2, 2, 2)})
    assert torch.equal(there_and_back(zeros, quantization)["b"], zeros["b"])


def test_i8_has_a_factor_for_every_slice_and_scale():
    latents = Latents({"s4": torch.ones(3, 4, 2, 2), "b": 2 * torch.ones(3, 4, 1, 1)})
    tensors = quantize(latents, Quantization.I8)
    torch.testing.assert_close(tensors["s4.scale"], torch.full((3,), 1 / 127))
    torch.testing.assert_close(tensors["b.scale"], torch.full((3,), 2 / 127))


@pytest.mark.parametrize("count", [1, 2, 7, 8])
def test_i4_takes_the_nearest_of_sixteen_levels_and_packs_two_values_in_a_byte(count):
    values = torch.randn((3, count, 1, 1), generator=torch.Generator().manual_seed(count))
    tensors = quantize(Latents({"b": values}), Quantization.I4)
    assert tensors["b"].shape == (3, (count + 1) // 2)
    factors = values.flatten(1).square().mean(dim=1).sqrt()
    torch.testing.assert_close(tensors["b.scale"], factors)
    levels = torch.tensor(GAUSSIAN_LEVELS) * factors[:, None]
    nearest = levels.gather(1, (values.flatten(1)[..., None] - levels[:, None]).abs().argmin(dim=2))
    torch.testing.assert_close(there_and_back(Latents({"b": values}), Quantization.I4)["b"].flatten(1), nearest)


def as_i4_by_its_definition(flat):
    """Packed numbers and factors of rows: root mean square, nearest level, the first of a pair in the low bits."""
    factors = flat.double().square().mean(dim=1).sqrt().float()
    levels = torch.tensor(GAUSSIAN_LEVELS)
    normalized = flat / torch.where(factors > 0, factors, 1.0)[:, None]
    numbers = torch.bucketize(normalized, (levels[1:] + levels[:-1]) / 2)
    numbers = torch.nn.functional.pad(numbers, (0, flat.shape[1] % 2))
    return (numbers[:, 0::2] + 16 * numbers[:, 1::2]).to(torch.uint8), factors


@given(values=slices)
@few_examples
def test_i4_is_bit_for_bit_what_its_definition_says(values):
    tensors = quantize(Latents({"b": torch.from_numpy(values)}), Quantization.I4)
    packed, factors = as_i4_by_its_definition(torch.from_numpy(values).flatten(1))
    assert torch.equal(tensors["b.scale"], factors)
    assert torch.equal(tensors["b"], packed)


@pytest.mark.parametrize("values", [511, 512])
def test_every_byte_of_i4_is_two_levels_the_low_bits_first(values):
    tensors = {"b": torch.arange(256, dtype=torch.uint8)[None], "b.scale": torch.tensor([2.0])}
    opened = dequantize(tensors, {"b": (values, 1, 1)}, Quantization.I4)["b"].flatten()
    pairs = [2 * GAUSSIAN_LEVELS[number] for byte in range(256) for number in (byte % 16, byte // 16)]
    assert torch.equal(opened, torch.tensor(pairs[:values]))


def test_i4_after_mixing_errs_by_a_tenth_even_for_a_spiky_slice():
    values = torch.randn((3, 128, 16, 16), generator=torch.Generator().manual_seed(0)).relu() ** 3
    values[0, 0, 0, 0] = 1000.0
    link = LinkLayer(bytes(32), "phantom@1")
    mixed = link.apply(Latents({"s4": values}), Stream.IMAGE, bytes(16))
    result = link.invert(there_and_back(mixed, Quantization.I4), Stream.IMAGE, bytes(16))
    error = (result["s4"] - values).flatten(1).norm(dim=1) / values.flatten(1).norm(dim=1)
    assert error.max() < 0.1  # the bound of any code of four bits for a Gaussian is 0.0625


@every_quantization
def test_tensors_have_the_layout_that_is_told_beforehand(quantization):
    latents = Latents({"s4": torch.ones(3, 4, 2, 2), "b": torch.ones(3, 4, 1, 1)})
    names = {torch.float32: "F32", torch.float16: "F16", torch.int8: "I8", torch.uint8: "U8"}
    described = {
        name: (names[values.dtype], tuple(values.shape)) for name, values in quantize(latents, quantization).items()
    }
    assert described == tensor_layout(latents.shapes, 3, quantization)


@every_quantization
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused_both_ways(quantization, value):
    latents = Latents({"b": torch.full((1, 2, 1, 1), value)})
    with pytest.raises(BundleError, match="not finite"):
        quantize(latents, quantization)
    values = torch.zeros((1, 1), dtype=torch.uint8) if quantization is Quantization.I4 else torch.full((1, 2), value)
    tensors = {"b": values, "b.scale": torch.tensor([value])}
    with pytest.raises(BundleError):
        dequantize(tensors, {"b": (2, 1, 1)}, quantization)


def test_values_beyond_f16_and_negative_factors_are_refused():
    with pytest.raises(BundleError, match="f16"):
        quantize(Latents({"b": torch.full((1, 1, 1, 1), 1e6)}), Quantization.F16)
    tensors = {"b": torch.ones(1, 2, dtype=torch.int8), "b.scale": torch.tensor([-1.0])}
    with pytest.raises(BundleError, match="negative"):
        dequantize(tensors, {"b": (2, 1, 1)}, Quantization.I8)

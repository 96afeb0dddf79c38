"""The default mask encoder: linear, orthonormal, and faithful to small structures."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ppcmi.codec.mask_autoencoder import MaskEncoder, block_basis, foreground
from ppcmi.scales import SCALE_STRIDES, SCALES
from support.shapes import make_masks


@pytest.fixture(scope="module")
def encoder() -> MaskEncoder:
    encoder = MaskEncoder(2)
    encoder.fit(foreground(make_masks(40, seed=1), 3))
    return encoder


@pytest.mark.parametrize("scale", SCALES)
def test_each_basis_is_orthonormal(encoder, scale):
    rows = encoder.basis(scale).flatten(1)
    rows = rows[rows.any(dim=1)]
    assert torch.allclose(rows @ rows.T, torch.eye(len(rows)), atol=1e-5)


@given(st.floats(0, 1), st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_the_encoding_of_an_average_is_the_average_of_encodings(share, seed):
    encoder = MaskEncoder(1)
    encoder.fit(foreground(make_masks(10, seed=2).clamp(max=1), 2))
    first, second = foreground(make_masks(2, seed=seed).clamp(max=1), 2)
    mixed = encoder((share * first + (1 - share) * second)[None])
    for scale, values in mixed.items():
        parts = share * encoder(first[None])[scale] + (1 - share) * encoder(second[None])[scale]
        assert torch.allclose(values, parts, atol=1e-5)


@pytest.mark.parametrize("scale", SCALES)
def test_one_scale_alone_rebuilds_masks_it_has_not_seen(encoder, scale):
    masks = foreground(make_masks(20, seed=99), 3)
    rebuilt = encoder.soft_masks(encoder(masks), [scale]) > 0.5
    overlap = (rebuilt & (masks > 0.5)).sum(dim=(0, 2, 3)).double()
    dice = 2 * overlap / (rebuilt.sum(dim=(0, 2, 3)) + masks.sum(dim=(0, 2, 3)))
    assert dice.min() > 0.93


def test_an_empty_mask_has_latents_of_zero(encoder):
    latents = encoder(torch.zeros(1, 2, 64, 64))
    assert all(not values.any() for _, values in latents.items())


def test_a_basis_of_few_masks_still_has_smooth_directions_for_others():
    basis = block_basis(foreground(make_masks(1, seed=5).clamp(max=1), 2), SCALE_STRIDES["b"], 256)
    ramp = torch.linspace(0, 1, 32).expand(32, 32)
    coefficients = torch.einsum("cuv,uv->c", basis[:, 0], ramp)
    rebuilt = torch.einsum("c,cuv->uv", coefficients, basis[:, 0])
    assert (rebuilt - ramp).abs().mean() < 0.05

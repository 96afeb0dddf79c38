"""Fisher information leakage: what noise buys, and that a keyed mixing buys nothing."""

import math

import pytest
import torch

from ppcmi.audit.dfil import diagonal_fisher_leakage, lowest_error
from ppcmi.klt.inner import InnerLayer
from ppcmi.klt.link import LinkLayer
from ppcmi.scales import Profile, Stream
from support.audit import small_subjects, untrained_codec

CODEC = untrained_codec(1)
SLICES = small_subjects(8).victims.slices[:3]


def leakage(noise: float, profile: Profile = Profile.COARSE, probes: int = 3, **changes) -> torch.Tensor:
    seed = torch.Generator().manual_seed(1)
    return diagonal_fisher_leakage(CODEC, SLICES, profile, noise, seed, probes=probes, **changes)


def test_without_noise_it_is_infinite_and_no_error_is_certain():
    assert leakage(0.0).tolist() == [math.inf] * len(SLICES)
    assert lowest_error(leakage(0.0)).tolist() == [0.0] * len(SLICES)


def test_it_is_the_trace_of_the_jacobian():
    inputs = SLICES[:1, :, :32, :32]
    standardization = CODEC.standardization(Stream.IMAGE)

    def encode(values):
        return standardization.apply_to(CODEC.networks.encode_images(values))["b"].flatten()

    jacobian = torch.autograd.functional.jacobian(encode, inputs).flatten(1)
    sigma = 0.5 * float(CODEC.encode_images(inputs)["b"].std())
    exact = float(jacobian.square().sum()) / (inputs.numel() * sigma**2)
    estimate = diagonal_fisher_leakage(CODEC, inputs, Profile.MINIMAL, 0.5, torch.Generator().manual_seed(1), probes=60)
    assert float(estimate[0]) == pytest.approx(exact, rel=0.2)


def test_twice_the_noise_leaks_a_quarter():
    assert torch.allclose(leakage(0.2) / 4, leakage(0.4))


def test_fewer_scales_leak_less():
    minimal, coarse, full = (leakage(0.5, profile) for profile in (Profile.MINIMAL, Profile.COARSE, Profile.FULL))
    assert (minimal < coarse).all()
    assert (coarse < full).all()


def test_a_keyed_mixing_changes_nothing():
    inner, link = InnerLayer(b"i" * 32, "tiny"), LinkLayer(b"l" * 32, "tiny")
    plain = leakage(0.5)
    assert torch.allclose(leakage(0.5, mixing=lambda z: inner.apply(z, Stream.IMAGE)), plain, rtol=1e-4)
    assert torch.allclose(leakage(0.5, mixing=lambda z: link.apply(z, Stream.IMAGE, b"n" * 16)), plain, rtol=1e-4)

"""The benchmark's training with differential privacy: the server's own network, noise by patient."""

import pytest
import torch

from benchmarks.private_training import PrivacyConfig, train_privately
from ppcmi.latents import Latents
from ppcmi.scales import Profile
from ppcmi_server.umn.config import UmnConfig
from ppcmi_server.umn.dataset import LatentDataset

MODEL = UmnConfig(profile=Profile.MINIMAL)


@pytest.fixture(scope="module")
def dataset():
    """Twelve slices whose masks are the images, turned."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(12, 256, 1, 1, generator=generator)
    zeros = torch.zeros(12, dtype=torch.int64)
    return LatentDataset(Latents({"b": images}), Latents({"b": -images}), ("codec",), zeros, torch.arange(12), zeros)


def error(dataset, epsilon, steps, patient):
    config = PrivacyConfig(epsilon, steps=steps, drawn=3, slices=2)
    umn = train_privately(dataset, patient, MODEL, config, seed=1)
    return float((umn.map(dataset.images, "codec")["b"] - dataset.masks["b"]).square().mean())


def test_more_noise_learns_less_and_the_same_seed_gives_the_same_network(dataset):
    patient = torch.arange(12) // 2
    little_privacy, much_privacy = (error(dataset, epsilon, 8, patient) for epsilon in (1e5, 0.5))
    assert little_privacy < much_privacy
    assert error(dataset, 0.5, 1, patient) == error(dataset, 0.5, 1, patient)

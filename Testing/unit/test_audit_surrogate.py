"""The attackers' own codecs: one like the site's, and one through which the suite must be able to see."""

import pytest
import torch

from ppcmi.audit.surrogate import train_surrogates
from ppcmi.codec.codec import Codec
from ppcmi.fitting import FitConfig
from support.codecs import quick_slice_set, tiny_task

BRIEF = FitConfig(epochs=1, batch_size=8, minimum_steps=8)


@pytest.fixture(scope="module")
def own_cases():
    return quick_slice_set(cases=10, seed=3)


def test_against_a_minimized_codec_the_attacker_minimizes_its_own(own_cases):
    made = train_surrogates(own_cases, Codec(tiny_task(), "minimized"), BRIEF, seed=1)
    assert (made.keeps_images.preset, made.alike.preset) == ("autoencoder", "minimized")
    encoder = "network.image_encoder."
    shared = {name: v for name, v in made.keeps_images.state_dict().items() if name.startswith(encoder)}
    assert shared
    assert all(torch.equal(made.alike.state_dict()[name], values) for name, values in shared.items())


@pytest.mark.parametrize("preset", ["autoencoder", "paper"])
def test_against_any_other_codec_one_is_enough(own_cases, preset):
    made = train_surrogates(own_cases, Codec(tiny_task(), preset), BRIEF, seed=1)
    assert made.alike is made.keeps_images
    assert made.alike.preset == "autoencoder"

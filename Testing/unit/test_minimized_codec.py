"""The minimized preset sends little of the image, in few channels, and keeps what the mask needs."""

from dataclasses import replace

import pytest
import torch

from ppcmi.codec.codec import Codec
from ppcmi.codec.minimized import Minimizer, ServerStandIn
from ppcmi.codec.training import train_codec
from ppcmi.fitting import FitConfig
from ppcmi.scales import MINIMIZED_CHANNELS, SCALES, Profile, scale_shapes
from support.codecs import quick_config, quick_slice_set, tiny_task

CASES = quick_slice_set(cases=6, seed=1)
CONFIG = quick_config(epochs=1)


@pytest.fixture(scope="module")
def minimized() -> Codec:
    brief = FitConfig(epochs=2, batch_size=16, learning_rate=1e-3, minimum_steps=24)
    return train_codec(CASES, tiny_task(), replace(CONFIG, preset="minimized", minimizer=brief))


@pytest.fixture(scope="module")
def latents(minimized):
    return minimized.encode_images(quick_slice_set(cases=2, seed=50).slices)


def test_image_latents_have_few_channels_that_all_say_something_and_mask_latents_the_usual_ones(minimized, latents):
    assert latents.shapes == scale_shapes((64, 64), channels=MINIMIZED_CHANNELS)
    assert all(0.5 < float(values.std(dim=(0, 2, 3)).mean()) < 2 for _, values in latents.items())
    assert minimized.encode_masks(CASES.known_labels).shapes == scale_shapes((64, 64))


def test_but_for_the_minimizer_and_the_image_decoders_it_is_the_autoencoder(minimized):
    autoencoder = train_codec(CASES, tiny_task(), CONFIG).state_dict()
    learned = ("network.image_decoders.", "standardizations.image.")
    kept = {name: values for name, values in autoencoder.items() if not name.startswith(learned)}
    assert len(kept) > 100
    assert all(torch.equal(minimized.state_dict()[name], values) for name, values in kept.items())


def test_masks_are_kept_as_well_as_by_the_autoencoder(minimized):
    assert set(minimized.report["quality"]["mask_dice"]) == {"full", "coarse", "minimal"}
    assert min(minimized.report["quality"]["mask_dice"]["coarse"].values()) > 0.85


def test_it_survives_its_file(minimized, latents):
    again = Codec.from_bytes(minimized.to_bytes())
    assert again.preset == "minimized"
    assert again.fingerprint == minimized.fingerprint
    slices = quick_slice_set(cases=2, seed=50).slices
    assert all(torch.equal(again.encode_images(slices)[scale], latents[scale]) for scale in SCALES)


def test_every_profile_can_be_reconstructed_from_its_own_scales_alone(minimized, latents):
    for profile in (Profile.FULL, Profile.COARSE, Profile.MINIMAL):
        assert minimized.reconstruct_images(latents.of(profile), profile).shape == (16, 1, 64, 64)


def test_the_stand_in_predicts_mask_latents_of_every_profile_from_its_own_scales_alone():
    slices = torch.rand(3, 1, 64, 64)
    sent = Minimizer()(Codec(tiny_task(), "autoencoder").encode_images(slices).map(lambda _, v: v.clone()))
    for profile in (Profile.FULL, Profile.COARSE, Profile.MINIMAL):
        stand_in = ServerStandIn(profile.scales).eval()
        assert stand_in(sent.of(profile)).shapes == scale_shapes((64, 64), profile.scales)

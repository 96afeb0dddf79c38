"""A codec is trained, judged, stored and read back; the published one as well as the default."""

import json
from dataclasses import replace

import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from ppcmi.codec.codec import Codec
from ppcmi.codec.learned_cases import learned_from
from ppcmi.codec.quality import (
    CodecQuality,
    case_dice,
    lost_structures,
    measure_codec,
    peak_signal_to_noise,
    require_good_masks,
)
from ppcmi.codec.quality import structural_similarity as our_similarity
from ppcmi.codec.training import train_codec
from ppcmi.errors import CancelledError, CodecError, TaskError
from ppcmi.scales import SCALES, Profile, scale_shapes
from support.codecs import quick_config, quick_slice_set, tiny_task


@pytest.fixture(scope="module")
def trained() -> Codec:
    return train_codec(quick_slice_set(cases=8, seed=1), tiny_task(), quick_config())


def test_latents_have_the_published_shapes_and_are_standardized(trained):
    cases = quick_slice_set(cases=3, seed=50)
    latents = trained.encode_images(cases.slices)
    assert latents.shapes == scale_shapes((64, 64))
    assert all(0.2 < float(values.std()) < 5 for _, values in latents.items())


def test_scales_that_stay_are_not_needed_for_those_that_leave(trained):
    slices = quick_slice_set(cases=1, seed=50).slices
    everything = trained.encode_images(slices)
    leaving = trained.encode_images(slices, Profile.COARSE.scales)
    assert tuple(leaving) == ("s4", "b")
    assert all(torch.equal(values, everything[scale]) for scale, values in leaving.items())


@pytest.mark.parametrize("profile", [Profile.FULL, Profile.COARSE, Profile.MINIMAL])
def test_a_trained_codec_carries_masks_in_every_profile(trained, profile):
    assert min(trained.report["quality"]["mask_dice"][profile.value].values()) > 0.85


def test_decoding_needs_only_the_scales_that_left(trained):
    cases = quick_slice_set(cases=1, seed=51)
    everything = trained.encode_masks(cases.labels)
    only = trained.decode_masks(everything.of(Profile.COARSE), cases.slices, Profile.COARSE)
    assert torch.equal(only, trained.decode_masks(everything, cases.slices, Profile.COARSE))
    assert torch.allclose(only.sum(dim=1), torch.ones(()), atol=1e-4)


def test_a_codec_survives_its_file_and_keeps_its_fingerprint(trained, tmp_path):
    trained.save(tmp_path / "codec.safetensors")
    again = Codec.load(tmp_path / "codec.safetensors")
    slices = quick_slice_set(cases=1, seed=52).slices
    assert again.fingerprint == trained.fingerprint
    assert again.report == json.loads(json.dumps(trained.report))
    for scale in SCALES:
        assert torch.equal(again.encode_images(slices)[scale], trained.encode_images(slices)[scale])


def test_what_a_codec_learned_from_stays_in_the_file_at_the_site(trained, tmp_path):
    path = tmp_path / "codec.safetensors"
    trained.save(path, ["0123456789abcdef"])
    assert learned_from(path) == {"0123456789abcdef"}
    assert b"0123456789abcdef" in path.read_bytes()
    published = Codec.load(path).to_bytes()
    assert b"0123456789abcdef" not in published
    assert Codec.from_bytes(published).fingerprint == trained.fingerprint


def test_one_changed_weight_changes_the_fingerprint(trained):
    other = Codec.from_bytes(trained.to_bytes())
    with torch.no_grad():
        other.local.output.bias[0] += 1
    assert other.fingerprint != trained.fingerprint


@pytest.mark.parametrize("cut", [0, 7, 100, 5000, -1])
def test_a_cut_off_codec_file_is_refused(trained, cut):
    with pytest.raises(CodecError):
        Codec.from_bytes(trained.to_bytes()[:cut])


def test_training_is_reproducible_from_its_seed():
    cases = quick_slice_set(cases=4, seed=2)
    config = quick_config(epochs=1)
    assert train_codec(cases, tiny_task(), config).fingerprint == train_codec(cases, tiny_task(), config).fingerprint


def test_a_cancel_ends_the_training():
    def cancel(report):
        raise CancelledError("Cancelled.")

    with pytest.raises(CancelledError):
        train_codec(quick_slice_set(cases=3, seed=3), tiny_task(), quick_config(), report=cancel)


def test_the_published_codec_works_in_full_and_refuses_to_send_less():
    codec = train_codec(quick_slice_set(cases=4, seed=4), tiny_task(), quick_config(preset="paper", epochs=1))
    cases = quick_slice_set(cases=1, seed=53)
    latents = codec.encode_masks(cases.labels)
    assert codec.decode_masks(latents, cases.slices, Profile.PAPER).shape == (len(cases), 3, 64, 64)
    with pytest.raises(TaskError):
        codec.decode_masks(latents, cases.slices, Profile.COARSE)


def test_a_codec_that_loses_a_structure_is_refused_by_name():
    quality = CodecQuality(
        3, {}, {}, {"full": {"Organ": 0.97, "Vessel": 0.41}, "coarse": {"Organ": 0.9, "Vessel": 0.9}}
    )
    with pytest.raises(CodecError, match="Vessel"):
        require_good_masks(quality, Profile.FULL)
    require_good_masks(quality, Profile.COARSE)  # what another profile loses is no reason
    assert lost_structures(quality) == {Profile.FULL: ("Vessel", 0.41)}


def test_a_codec_is_refused_while_no_held_out_case_has_a_structure(trained):
    cases = quick_slice_set(cases=2, seed=51)
    without = replace(cases, labels=cases.known_labels * (cases.known_labels != 2))
    quality = measure_codec(trained, without)
    first, second = (label.name for label in trained.task.labels)
    for dice in quality.mask_dice.values():
        assert dice[first] > 0.85
        assert dice[second] is None
    with pytest.raises(CodecError, match=second):
        require_good_masks(quality, Profile.COARSE)


def test_psnr_and_ssim_agree_with_scikit_image():
    generator = torch.Generator().manual_seed(0)
    first = torch.rand(1, 1, 64, 64, generator=generator)
    second = (first + 0.1 * torch.randn(first.shape, generator=generator)).clamp(0, 1)
    a, b = first[0, 0].numpy(), second[0, 0].numpy()
    expected = structural_similarity(
        a, b, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )[1][5:-5, 5:-5].mean()
    assert peak_signal_to_noise(first, second) == pytest.approx(peak_signal_noise_ratio(a, b, data_range=1.0), rel=1e-5)
    assert our_similarity(first, second) == pytest.approx(expected, abs=1e-4)


def test_dice_of_a_structure_that_is_in_neither_is_not_counted():
    empty = torch.zeros(2, 8, 8, dtype=torch.uint8)
    some = empty.clone()
    some[0, :4] = 1
    assert case_dice(empty, empty, 2) == [None]
    assert case_dice(some, some, 2) == [1.0]
    assert case_dice(empty, some, 2) == [0.0]

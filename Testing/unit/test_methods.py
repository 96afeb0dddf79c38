"""A task names its method; without one it is what it always was."""

import json

import pytest
import torch

from ppcmi.codec.training import train_codec
from ppcmi.cohort_export import usual_profile
from ppcmi.errors import BundleError, TaskError
from ppcmi.latents import Latents
from ppcmi.methods.rules import only_profile, rules_of
from ppcmi.modes import has_inner_layer, mode_named
from ppcmi.quantization import Quantization
from ppcmi.scales import Profile, Stream, scale_shapes
from ppcmi.task import parse_task, task_to_json
from ppcmi.task_profile import Membership
from ppcmi.what_leaves import Sending, consent_text, export_of_slices
from ppcmi_server.umn.config import usual_config, usual_preset
from ppcmi_server.umn.model import TrainedUmn, build_network
from support.bundles import CASE, CODEC, make_channel
from support.codecs import quick_config, quick_slice_set, tiny_task
from support.descriptions import describe_umn

PRIVACY_SF = json.dumps(json.loads(task_to_json(tiny_task())) | {"method": "privacy-sf"})


def test_a_task_without_a_method_is_the_text_it_was_before_there_were_methods():
    text = task_to_json(tiny_task())
    assert "method" not in text
    assert parse_task(text).method == "ppcmi"
    assert parse_task(text) == tiny_task()


def test_a_method_survives_the_tasks_file_and_an_unknown_one_is_refused():
    task = parse_task(PRIVACY_SF)
    assert task.method == "privacy-sf"
    assert parse_task(task_to_json(task)) == task
    with pytest.raises(TaskError, match="method is one of ppcmi, privacy-sf"):
        parse_task(PRIVACY_SF.replace("privacy-sf", "magic"))


def test_only_the_products_mode_has_an_inner_key_and_only_other_methods_go_without_protection():
    assert [has_inner_layer(mode) for mode in ("two-layer", "paper", "plain")] == [True, False, False]
    assert "plain" not in rules_of("ppcmi").modes
    assert rules_of("privacy-sf").modes == ("plain",)
    chosen = [only_profile(*of) for of in (("ppcmi", "two-layer"), ("ppcmi", "paper"), ("mixup", "plain"))]
    assert chosen == [None, Profile.PAPER, Profile.MIXUP]
    with pytest.raises(ValueError, match="no mode"):
        mode_named("none")


def test_plain_latents_arrive_as_they_were_and_only_from_whom_the_link_key_names():
    latents = Latents({"b": torch.randn(2, 8, 2, 2, generator=torch.Generator().manual_seed(1))})
    bundle = make_channel(mode="plain").seal(
        {Stream.IMAGE: latents}, codec=CODEC, profile=Profile.MINIMAL, quantization=Quantization.F32, case=CASE,
        slice_indices=(0, 1),
    )  # fmt: skip
    _, streams = make_channel(mode="plain").open(bundle)
    assert torch.equal(streams[Stream.IMAGE]["b"], latents["b"])
    with pytest.raises(BundleError, match="another task or mode"):
        make_channel().open(bundle)
    with pytest.raises(Exception, match="another link key"):
        make_channel(key=b"x" * 32, mode="plain").open(bundle)


def test_whoever_sends_in_plain_mode_reads_that_nothing_protects_it():
    sending = Sending(Profile.MINIMAL, mode="plain", quantization=Quantization.I4.fit_for("plain"))
    assert sending.quantization is Quantization.I8
    text = consent_text(export_of_slices([4], parse_task(PRIVACY_SF), sending, variants=0))
    assert "do not use it with patients' data" in text
    assert "no plain latents" not in text


def test_the_codec_of_privacy_sf_sends_the_bottleneck_alone_and_has_no_skips():
    cases = quick_slice_set(cases=5, seed=4)
    codec = train_codec(cases, parse_task(PRIVACY_SF), quick_config("privacy-sf", epochs=2))
    latents = codec.encode_images(cases.slices[:3])
    assert list(latents) == ["b"]
    assert latents["b"].shape == (3, 256, 2, 2)
    assert usual_profile(Membership("consortium", "plain", founder=True), codec) is Profile.MINIMAL
    assert not codec.works_with(Profile.COARSE)
    assert list(codec.report["quality"]["mask_dice"]) == ["minimal"]
    again = type(codec).from_bytes(codec.to_bytes())
    assert again.fingerprint == codec.fingerprint
    decoded = again.decode_masks(codec.encode_masks(cases.known_labels[:3]), cases.slices[:3], Profile.MINIMAL)
    blind = again.decode_masks(codec.encode_masks(cases.known_labels[:3]), 0 * cases.slices[:3], Profile.MINIMAL)
    assert decoded.shape == (3, 3, 64, 64)
    assert torch.equal(decoded, blind)  # it sees the server's answer and nothing of the image


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (256, 256)])
def test_the_mapping_network_of_privacy_sf_fits_maps_of_any_size_and_augments_what_is_encoded(size):
    config = usual_config(usual_preset("privacy-sf"), Profile.MINIMAL)
    assert config.preset == "privacy-sf"
    assert config.mixup > 0
    assert config.noise > 0
    shapes = scale_shapes(size, Profile.MINIMAL.scales)
    description = describe_umn(config.preset, Profile.MINIMAL, size, ("c",))
    images = Latents({"b": torch.rand(2, *shapes["b"])})
    assert TrainedUmn(description, build_network(description)).map(images, "c").shapes == shapes


def test_the_usual_networks_of_a_task_without_a_method_stay_the_default():
    assert usual_preset("ppcmi") == "default"
    assert usual_config("default", Profile.COARSE).mixup == 0.3
    assert usual_config("paper", Profile.PAPER).mixup == 0

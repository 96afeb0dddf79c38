"""The site's decoder: never worse than the site alone, and as good as the server where the server is better."""

import json

import pytest
import safetensors.torch
import torch

from ppcmi.codec.codec import Codec
from ppcmi.codec.learned_cases import learned_from
from ppcmi.codec.local_network import build_local_network
from ppcmi.codec.presets import read_metadata
from ppcmi.codec.quality import mean_dice
from ppcmi.codec.refinement import (
    USUAL_WEIGHT,
    RefinementConfig,
    SiteDecoder,
    choose_share,
    choose_weight,
    fit_share,
    leave_alone,
    refine_local_network,
)
from ppcmi.codec.training import predict_locally, train_codec, train_local_network
from ppcmi.errors import CodecError
from ppcmi.fitting import FitConfig
from ppcmi.scales import Profile
from support.codecs import quick_config, quick_slice_set, tiny_task

QUICK = RefinementConfig(local=FitConfig(epochs=2, batch_size=8, learning_rate=1e-3))


@pytest.fixture(scope="module")
def codec() -> Codec:
    return train_codec(quick_slice_set(cases=8, seed=1), tiny_task(), quick_config())


def test_a_perfect_server_gets_a_large_share_and_raises_the_dice(codec):
    validation = quick_slice_set(cases=4, seed=60)
    decoder = SiteDecoder(codec)
    torch.nn.init.zeros_(decoder.local.output.weight)  # a site that sees background everywhere
    with torch.no_grad():
        decoder.local.output.bias.copy_(torch.tensor([8.0, 0.0, 0.0]))
    truth = iter(validation.each_case())
    refinement = choose_share(
        decoder, validation, lambda _: codec.encode_masks(next(truth).known_labels).of(Profile.COARSE), Profile.COARSE
    )
    assert refinement.weight > 0.5
    assert refinement.dice_by_weight[1.0] > refinement.dice_by_weight[0.0] + 0.3


def test_a_useless_server_gets_a_small_share(codec):
    labelled, validation = quick_slice_set(cases=8, seed=1), quick_slice_set(cases=8, seed=61)

    def useless(latents):
        return latents.map(lambda _, values: 3 * torch.randn(values.shape, generator=torch.Generator().manual_seed(0)))

    decoder = refine_local_network(codec, labelled, QUICK)
    refinement = fit_share(decoder, validation, useless, Profile.COARSE)
    assert refinement.weight < USUAL_WEIGHT
    answers = useless(codec.encode_masks(validation.labels).of(Profile.COARSE))
    together = decoder.decode(answers, validation.slices, Profile.COARSE).argmax(dim=1)
    alone = decoder.alone(validation.slices).argmax(dim=1)
    assert mean_dice(together, validation, 3) >= mean_dice(alone, validation, 3) - 0.02


def test_without_validation_cases_the_usual_weight_stays(codec):
    decoder = SiteDecoder(codec)
    refinement = fit_share(decoder, None, lambda z: z, Profile.COARSE)
    assert refinement.weight == decoder.weight(Profile.COARSE) == USUAL_WEIGHT


def test_a_codec_of_its_own_and_no_validation_cases_leave_the_site_as_it_is_alone(codec):
    labelled, task = quick_slice_set(cases=2, seed=3), codec.task
    decoder, refinement = leave_alone(codec, labelled, Profile.COARSE, QUICK)
    assert refinement.weight == decoder.weight(Profile.COARSE) == 0.0
    with torch.random.fork_rng():
        torch.manual_seed(QUICK.seed)
        network = build_local_network(task.slicing.channels, task.classes, task.slicing.size)
    train_local_network(network, labelled, QUICK.local, torch.Generator().manual_seed(QUICK.seed))
    assert torch.equal(decoder.alone(labelled.slices), predict_locally(network, labelled.slices))


def test_few_validation_cases_move_the_weight_less_than_many():
    dice = {0.0: 0.5, 0.4: 0.6, 1.0: 0.9}
    assert USUAL_WEIGHT < choose_weight(dice, 1) < choose_weight(dice, 20) < 1.0


def test_the_server_has_a_share_only_as_far_as_validation_cases_show_a_use_of_it():
    def chosen(*gains):
        return choose_weight(
            {share / 20: 0.8 + (gains[share] if share < len(gains) else -0.1) for share in range(21)}, 1
        )

    assert chosen(0.0, 0.01, 0.01, 0.01) == 0.15  # not the usual share, which is worse than none
    assert chosen(0.0) == 0.0
    assert chosen(*[0.0] * 21) == 0.0  # nothing leaves for nothing
    assert chosen(*[0.0004] * 21) == 0.0
    assert chosen(0.0, *[0.001] * 20) == USUAL_WEIGHT


def test_a_decoder_survives_its_file_but_not_another_codec(codec, tmp_path):
    decoder = SiteDecoder(codec, {"coarse": 0.25})
    with torch.no_grad():
        decoder.local.output.bias += 0.5
    decoder.save(tmp_path / "decoder.safetensors")
    again = SiteDecoder.load(tmp_path / "decoder.safetensors", codec)
    slices = quick_slice_set(cases=1, seed=62).slices
    assert again.weight(Profile.COARSE) == 0.25
    assert torch.equal(again.alone(slices), decoder.alone(slices))
    with pytest.raises(CodecError, match="another codec"):
        SiteDecoder.load(tmp_path / "decoder.safetensors", Codec(tiny_task(), "autoencoder"))


def test_a_decoder_keeps_which_cases_it_learned_from_and_one_of_before_keeps_none(codec, tmp_path):
    path = tmp_path / "decoder.safetensors"
    assert learned_from(path) == frozenset()
    SiteDecoder(codec, learned_from=["0123", "4567"]).save(path)
    assert SiteDecoder.load(path, codec).learned_from == learned_from(path) == {"0123", "4567"}
    data = path.read_bytes()
    before = json.loads(read_metadata(data)["ppcmi"])
    del before["learned_from"]
    path.write_bytes(safetensors.torch.save(safetensors.torch.load(data), {"ppcmi": json.dumps(before)}))
    assert SiteDecoder.load(path, codec).learned_from == learned_from(path) == frozenset()
    path.write_bytes(b"no decoder")
    assert learned_from(path) == frozenset()


def test_the_weights_of_a_decoder_lie_as_the_slices_do_also_when_it_was_read(codec, tmp_path):
    made = SiteDecoder(codec)
    made.save(tmp_path / "decoder.safetensors")
    for decoder in (made, SiteDecoder.load(tmp_path / "decoder.safetensors", codec)):
        kernels = [weights for weights in decoder.local.parameters() if weights.ndim == 4]
        assert kernels
        assert all(weights.is_contiguous(memory_format=torch.channels_last) for weights in kernels)

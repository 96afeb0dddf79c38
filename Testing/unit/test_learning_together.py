"""Members learn together: each round starts from the mean of all networks, and validation cases have the last word."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ppcmi.codec.codec import Codec
from ppcmi.codec.quality import mean_dice
from ppcmi.codec.refinement import (
    USUAL_WEIGHT,
    USUAL_WEIGHT_TOGETHER,
    RefinementConfig,
    SiteDecoder,
    refine_local_network,
)
from ppcmi.codec.together import learn_together
from ppcmi.codec.trained_network import TrainedNetwork, mean_weights
from ppcmi.codec.training import train_codec
from ppcmi.errors import CodecError
from ppcmi.fitting import FitConfig
from support.codecs import quick_config, quick_slice_set, tiny_task

QUICK = RefinementConfig(local=FitConfig(epochs=2, batch_size=8, learning_rate=1e-3))


class Others:
    """Other members, whose networks are what they are; keeps what this site shared."""

    def __init__(self, *networks: TrainedNetwork) -> None:
        self.known = list(networks)
        self.shared: list[TrainedNetwork] = []
        self.spoilers: list[TrainedNetwork] = []

    def networks(self) -> Sequence[TrainedNetwork]:
        return self.known

    def share(self, network: TrainedNetwork) -> None:
        self.shared.append(network)

    def left_out(self, network: TrainedNetwork) -> None:
        self.spoilers.append(network)


@pytest.fixture(scope="module")
def codec() -> Codec:
    return train_codec(quick_slice_set(cases=8, seed=1), tiny_task(), quick_config())


def _biased(codec: Codec, *by: float, cases: int = 1) -> TrainedNetwork:
    """The codec's network with the logits of its three classes moved."""
    network = TrainedNetwork.of(codec.local, codec, cases, last=True)
    moved = network.weights["output.bias"] + torch.tensor(by)
    return TrainedNetwork(network.codec, cases, True, {**network.weights, "output.bias": moved})


def _background(codec: Codec, cases: int = 1) -> TrainedNetwork:
    """A network that sees background everywhere."""
    network = TrainedNetwork.of(codec.local, codec, cases, last=True)
    weights = dict(network.weights)
    weights["output.weight"] = torch.zeros_like(weights["output.weight"])
    weights["output.bias"] = torch.tensor([50.0, -50.0, -50.0])
    return TrainedNetwork(network.codec, cases, True, weights)


def _random(codec: Codec, cases: int) -> TrainedNetwork:
    """A network that knows nothing."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        strange = Codec(tiny_task(), "autoencoder")
    return TrainedNetwork.of(strange.local, codec, cases, last=True)


def test_alone_one_round_is_the_usual_refinement(codec):
    labelled = quick_slice_set(cases=2, seed=3)
    decoder, together = learn_together(codec, labelled, None, Others(), QUICK)
    usual = refine_local_network(codec, labelled, QUICK)
    assert not together.others
    assert together.uses == "own"
    assert decoder.usual_weight == USUAL_WEIGHT
    for name, values in usual.local.state_dict().items():
        assert torch.equal(decoder.local.state_dict()[name], values), name


def test_a_round_starts_from_the_mean_of_what_others_share(codec):
    labelled = quick_slice_set(cases=2, seed=3)
    still = RefinementConfig(local=FitConfig(epochs=1, batch_size=8, learning_rate=0.0))
    others = Others(_biased(codec, 0.2, 0.2, 0.2), _biased(codec, 0.4, 0.4, 0.4))
    decoder, _ = learn_together(codec, labelled, None, others, still)
    start = codec.local.state_dict()["output.bias"]
    assert torch.allclose(others.shared[0].weights["output.bias"], start + 0.3, atol=1e-6)
    assert decoder.usual_weight == USUAL_WEIGHT_TOGETHER


def test_each_round_shares_and_only_the_last_says_so(codec):
    others, told = Others(), []
    config = RefinementConfig(rounds=3, local=FitConfig(epochs=7, batch_size=8))
    learn_together(codec, quick_slice_set(cases=2, seed=3), None, others, config, report=told.append)
    assert [network.last for network in others.shared] == [False, False, True]
    finished = [one for one in told if one.share == 1]
    assert [(one.epoch, one.epochs) for one in finished] == [(epoch, 7) for epoch in range(1, 8)]  # one curve
    assert [(one.round_number, one.rounds) for one in finished] == [(n, 3) for n in (1, 1, 2, 2, 2, 3, 3)]


@pytest.mark.parametrize("validated", [True, False])
@pytest.mark.parametrize(("spoilt", "cases"), [(_background, 6), (_background, 1_000_000), (_random, 6)])
def test_a_member_that_spoils_the_mean_is_left_out_from_the_middle_on(codec, spoilt, cases, validated):
    labelled, unseen = quick_slice_set(cases=6, seed=3), quick_slice_set(cases=4, seed=60)
    good, bad = TrainedNetwork.of(codec.local, codec, 6, last=True), spoilt(codec, cases)
    others = Others(bad, good)
    config = RefinementConfig(rounds=4, local=FitConfig(epochs=8, batch_size=8, learning_rate=1e-3))
    decoder, together = learn_together(codec, labelled, unseen if validated else None, others, config)
    assert len(others.spoilers) == 3  # before the last two rounds, and at the end
    assert all(network is bad for network in others.spoilers)
    assert list(together.others) == [good]
    before = mean_dice(SiteDecoder(codec).alone(unseen.slices).argmax(dim=1), unseen, 3)
    assert mean_dice(decoder.alone(unseen.slices).argmax(dim=1), unseen, 3) > before - 0.05


def test_early_means_that_are_worse_are_what_the_rounds_repair(codec):
    """Nobody is left out before the middle: sites that were kept apart then would never come together."""
    labelled, unseen = quick_slice_set(cases=6, seed=3), quick_slice_set(cases=4, seed=60)
    others = Others(_random(codec, cases=6))
    config = RefinementConfig(rounds=2, local=FitConfig(epochs=4, batch_size=8, learning_rate=1e-3))
    learn_together(codec, labelled, unseen, others, config)
    assert len(others.spoilers) == 2  # before the second round, and at the end


def test_where_others_spoilt_all_that_a_site_learned_it_uses_the_consortium_s_network(codec):
    labelled, unseen = quick_slice_set(cases=2, seed=3), quick_slice_set(cases=4, seed=60)
    still = RefinementConfig(local=FitConfig(epochs=1, batch_size=8, learning_rate=0.0))
    others = Others(_background(codec))
    decoder, together = learn_together(codec, labelled, unseen, others, still)
    assert together.uses == "consortium"
    assert torch.equal(decoder.alone(unseen.slices), SiteDecoder(codec).alone(unseen.slices))
    assert [network.mixes for network in others.shared] == [True, False]  # what it shared is not for others' means


def test_the_mean_is_used_where_nothing_can_judge_and_where_the_site_s_own_is_not_clearly_better(codec):
    good = TrainedNetwork.of(codec.local, codec, 400, last=True)
    labelled, validation = quick_slice_set(cases=2, seed=3), quick_slice_set(cases=4, seed=60)
    _, unjudged = learn_together(codec, labelled, None, Others(good), QUICK)
    assert unjudged.uses == "mean"
    assert (unjudged.dice_own, unjudged.dice_mean) == (None, None)
    _, judged = learn_together(codec, labelled, validation, Others(good), QUICK)
    assert judged.dice_own is not None
    assert judged.dice_mean is not None
    assert (judged.uses in ("mean", "continued")) == (judged.dice_own <= judged.dice_mean + 0.01)


def test_a_site_s_own_network_is_used_where_its_validation_cases_speak_for_it(codec):
    labelled, validation = quick_slice_set(cases=8, seed=1), quick_slice_set(cases=4, seed=60)
    config = RefinementConfig(local=FitConfig(epochs=6, batch_size=8, learning_rate=2e-3))
    worse = _biased(codec, 2.0, 0.0, 0.0, cases=24)  # sees too little, not so little that it would be left out
    others = Others(worse)
    decoder, together = learn_together(codec, labelled, validation, others, config)
    assert together.dice_own is not None
    assert together.dice_mean is not None
    assert together.dice_own > together.dice_mean + 0.01
    assert together.uses == "own"
    own = mean_dice(decoder.alone(validation.slices).argmax(dim=1), validation, 3)
    assert own == pytest.approx(together.dice_own)
    assert not others.shared[-1].mixes


def test_a_site_that_gets_better_by_itself_goes_on_from_the_mean_and_shares_nothing_of_that():
    short = train_codec(quick_slice_set(cases=8, seed=1), tiny_task(), quick_config(epochs=3))
    labelled, validation = quick_slice_set(cases=8, seed=1), quick_slice_set(cases=4, seed=60)
    config = RefinementConfig(local=FitConfig(epochs=4, batch_size=8, learning_rate=1e-3))
    others, told = Others(_biased(short, 0.0, 0.0, 0.0)), []
    decoder, together = learn_together(short, labelled, validation, others, config, report=told.append)
    assert together.uses == "continued"
    assert together.dice_mean is not None
    assert together.dice_continued is not None
    assert together.dice_continued > together.dice_mean + 0.005
    kept = mean_dice(decoder.alone(validation.slices).argmax(dim=1), validation, 3)
    assert kept == pytest.approx(together.dice_continued)
    (shared,) = others.shared
    assert shared.mixes
    assert not torch.equal(shared.weights["output.bias"], decoder.local.state_dict()["output.bias"])
    assert [one.epoch for one in told if one.share == 1] == [1, 2, 3, 4, 1, 2]


def test_what_is_no_better_than_the_mean_gives_way_to_it(codec):
    labelled, validation = quick_slice_set(cases=2, seed=3), quick_slice_set(cases=4, seed=60)
    still = RefinementConfig(local=FitConfig(epochs=1, batch_size=8, learning_rate=0.0))
    decoder, together = learn_together(codec, labelled, validation, Others(_biased(codec, 0.0, 0.0, 0.0)), still)
    assert together.uses == "mean"
    assert together.dice_continued is not None
    kept = mean_dice(decoder.alone(validation.slices).argmax(dim=1), validation, 3)
    assert kept == pytest.approx(together.dice_mean)


@given(cases=st.lists(st.integers(1, 10_000), min_size=1, max_size=4))
def test_a_mean_counts_each_network_by_its_cases_up_to_three_times_the_median(cases):
    networks = [
        TrainedNetwork("0" * 32, count, True, {"w": torch.full((3,), float(number)), "n": torch.tensor(7 + number)})
        for number, count in enumerate(cases)
    ]
    counted = [min(count, 3 * sorted(cases)[(len(cases) - 1) // 2]) for count in cases]
    expected = sum(number * count for number, count in enumerate(counted)) / sum(counted)
    mean = mean_weights(networks)
    assert torch.allclose(mean["w"], torch.full((3,), expected))
    assert mean["n"].dtype == torch.int64


def test_a_network_survives_its_file(codec, tmp_path):
    network = TrainedNetwork.of(codec.local, codec, 12, last=False)
    network.save(tmp_path / "network.safetensors")
    again = TrainedNetwork.load(tmp_path / "network.safetensors", codec)
    assert (again.codec, again.cases, again.last) == (codec.fingerprint, 12, False)
    assert all(torch.equal(again.weights[name], values) for name, values in network.weights.items())


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda w: {**w, "output.bias": w["output.bias"] * float("nan")}, "form"),
        (lambda w: {**w, "output.weight": w["output.weight"] + 1e30}, "form"),
        (lambda w: {**w, "output.bias": w["output.bias"][:1]}, "form"),
        (lambda w: {**w, "output.bias": w["output.bias"].half()}, "form"),
        (lambda w: {name: values for name, values in w.items() if name != "output.bias"}, "form"),
        (lambda w: {**w, "extra": torch.zeros(1)}, "form"),
        (lambda w: {k: v - 1e6 if k.endswith("running_var") else v for k, v in w.items()}, "form"),
    ],
)
def test_weights_that_cannot_be_a_network_s_are_refused(codec, spoil, sentence):
    network = TrainedNetwork.of(codec.local, codec, 1, last=True)
    spoilt = TrainedNetwork(network.codec, 1, True, spoil(dict(network.weights)))
    with pytest.raises(CodecError, match=sentence):
        TrainedNetwork.from_bytes(spoilt.to_bytes(), codec)


@pytest.mark.parametrize("cases", [0, -3, 10**9, True, 1.5, "many"])
def test_a_number_of_cases_that_is_none_is_refused(codec, cases):
    network = TrainedNetwork.of(codec.local, codec, 1, last=True)
    content = TrainedNetwork(network.codec, cases, True, network.weights).to_bytes()
    with pytest.raises(CodecError, match="damaged"):
        TrainedNetwork.from_bytes(content, codec)


def test_what_is_cut_off_or_of_another_codec_is_refused(codec):
    content = TrainedNetwork.of(codec.local, codec, 1, last=True).to_bytes()
    for cut in (0, 7, 100, len(content) - 1):
        with pytest.raises(CodecError, match="damaged"):
            TrainedNetwork.from_bytes(content[:cut], codec)
    with pytest.raises(CodecError, match="another codec"):
        TrainedNetwork.from_bytes(content, Codec(tiny_task(), "autoencoder"))

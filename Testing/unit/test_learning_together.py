"""Members learn together: each round starts from the mean of all networks, and validation cases have the last word."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ppcmi.codec.codec import Codec
from ppcmi.codec.refinement import RefinementConfig, SiteDecoder, refine_local_network
from ppcmi.codec.together import learn_together, settle
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

    def networks(self) -> Sequence[TrainedNetwork]:
        return self.known

    def share(self, network: TrainedNetwork) -> None:
        self.shared.append(network)


@pytest.fixture(scope="module")
def codec() -> Codec:
    return train_codec(quick_slice_set(cases=8, seed=1), tiny_task(), quick_config())


def _moved(codec: Codec, by: float, cases: int = 1) -> TrainedNetwork:
    """The codec's network with every trained weight moved."""
    network = TrainedNetwork.of(codec.local, codec, cases, last=True)
    moved = {k: v + by if v.is_floating_point() else v for k, v in network.weights.items()}
    return TrainedNetwork(network.codec, cases, True, moved)


def _background(codec: Codec, cases: int = 1) -> TrainedNetwork:
    """A network that sees background everywhere."""
    network = TrainedNetwork.of(codec.local, codec, cases, last=True)
    weights = dict(network.weights)
    weights["output.weight"] = torch.zeros_like(weights["output.weight"])
    weights["output.bias"] = torch.tensor([50.0, -50.0, -50.0])
    return TrainedNetwork(network.codec, cases, True, weights)


def test_alone_one_round_is_the_usual_refinement(codec):
    labelled = quick_slice_set(cases=2, seed=3)
    decoder, together = learn_together(codec, labelled, None, Others(), QUICK)
    usual = refine_local_network(codec, labelled, QUICK)
    assert together.members == 0
    assert not together.uses_mean
    for name, values in usual.local.state_dict().items():
        assert torch.equal(decoder.local.state_dict()[name], values), name


def test_a_round_starts_from_the_mean_of_what_others_share(codec):
    labelled = quick_slice_set(cases=2, seed=3)
    still = RefinementConfig(local=FitConfig(epochs=1, batch_size=8, learning_rate=0.0))
    others = Others(_moved(codec, 0.2), _moved(codec, 0.4))
    learn_together(codec, labelled, None, others, still)
    start = codec.local.state_dict()["output.bias"]
    assert torch.allclose(others.shared[0].weights["output.bias"], start + 0.3, atol=1e-6)


def test_each_round_shares_and_only_the_last_says_so(codec):
    others, told = Others(), []
    config = RefinementConfig(rounds=3, local=FitConfig(epochs=6, batch_size=8))
    learn_together(codec, quick_slice_set(cases=2, seed=3), None, others, config, report=told.append)
    assert [network.last for network in others.shared] == [False, False, True]
    finished = [(one.epoch, one.epochs) for one in told if one.share == 1]
    assert finished == [(epoch, 6) for epoch in range(1, 7)]  # one training, as a reader of its curve sees it


def test_a_member_that_spoils_the_mean_is_not_followed_where_validation_cases_show_it(codec):
    decoder, validation = SiteDecoder(codec), quick_slice_set(cases=4, seed=60)
    own = TrainedNetwork.of(codec.local, codec, 4, last=True)
    together = settle(decoder, own, [_background(codec, cases=400)], validation)
    assert together.members == 1
    assert not together.uses_mean
    assert together.dice_own is not None
    assert together.dice_mean is not None
    assert together.dice_own > together.dice_mean
    assert torch.equal(decoder.local.state_dict()["output.bias"], own.weights["output.bias"])


def test_the_mean_is_used_where_it_is_better_and_where_nothing_can_judge(codec):
    good, bad = TrainedNetwork.of(codec.local, codec, 400, last=True), _background(codec)
    decoder, validation = SiteDecoder(codec), quick_slice_set(cases=4, seed=60)
    assert settle(decoder, bad, [good], validation).uses_mean
    unjudged = settle(decoder, bad, [good], None)
    assert unjudged.uses_mean
    assert unjudged.dice_own is None
    assert unjudged.dice_mean is None


@given(cases=st.lists(st.integers(1, 10_000), min_size=1, max_size=4))
def test_a_mean_counts_each_network_by_its_cases(cases):
    networks = [
        TrainedNetwork("0" * 32, count, True, {"w": torch.full((3,), float(number)), "n": torch.tensor(7 + number)})
        for number, count in enumerate(cases)
    ]
    expected = sum(number * count for number, count in enumerate(cases)) / sum(cases)
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

"""A site's network learns together with those of the consortium's other members: in rounds, each from the mean of all.

Between two rounds only networks travel, and only among members (:mod:`ppcmi.shared_networks`). Sites need not keep
step: a round starts from the newest networks that there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from ppcmi.codec.codec import Codec
from ppcmi.codec.quality import mean_dice
from ppcmi.codec.refinement import RefinementConfig, SiteDecoder
from ppcmi.codec.slice_set import SliceSet
from ppcmi.codec.trained_network import TrainedNetwork, mean_weights
from ppcmi.codec.training import predict_locally, train_local_network
from ppcmi.fitting import FitReport, Report, ignore_report


class Members(Protocol):
    """The consortium's other members."""

    def networks(self) -> Sequence[TrainedNetwork]:
        """The newest network of each that shares one."""

    def share(self, network: TrainedNetwork) -> None:
        """Give them this site's, in place of an earlier one."""


@dataclass(frozen=True)
class Together:
    """What came of learning together.

    :param own: the network as this site's last round left it.
    :param members: how many other members' networks the mean has.
    :param dice_own: of the site's own network on its validation cases, None without any.
    :param dice_mean: of the mean of all on the same.
    :param uses_mean: whether the site's decoder has the mean.
    """

    own: TrainedNetwork
    members: int
    dice_own: float | None
    dice_mean: float | None
    uses_mean: bool


def learn_together(
    codec: Codec,
    labelled: SliceSet,
    validation: SliceSet | None,
    members: Members,
    config: RefinementConfig,
    *,
    own: TrainedNetwork | None = None,
    report: Report = ignore_report,
) -> tuple[SiteDecoder, Together]:
    """Train the site's network in ``config.rounds`` rounds and choose what the site uses.

    With validation cases it is the mean, unless the site's own network is better on them; without any it is the mean.

    :param own: as the site's last training left it; None starts from the members' or the consortium's network.
    :raises PpcmiError: what ``members`` raises.
    """
    generator = torch.Generator().manual_seed(config.seed)
    decoder = SiteDecoder(codec)
    runs = config.local.rounds(config.rounds)
    for number, run in enumerate(runs):
        known = _with(own, members.networks())
        if known:
            decoder.local.load_state_dict(mean_weights(known))
        train_local_network(decoder.local, labelled, run, generator, report=_in_round(report, number, len(runs)))
        own = TrainedNetwork.of(decoder.local, codec, labelled.cases, last=run is runs[-1])
        members.share(own)
    last = TrainedNetwork.of(decoder.local, codec, labelled.cases, last=True)
    return decoder, settle(decoder, last, members.networks(), validation)


def settle(
    decoder: SiteDecoder, own: TrainedNetwork, others: Sequence[TrainedNetwork], validation: SliceSet | None
) -> Together:
    """Give ``decoder`` the mean of all networks or the site's own, whichever the validation cases speak for."""
    decoder.local.load_state_dict(own.weights)
    if not others:
        return Together(own, 0, None, None, uses_mean=False)
    judged = validation is not None and validation.cases > 0
    dice_own = _dice(decoder, validation) if validation is not None and judged else None
    decoder.local.load_state_dict(mean_weights([own, *others]))
    dice_mean = _dice(decoder, validation) if validation is not None and judged else None
    uses_mean = dice_own is None or dice_mean is None or dice_mean >= dice_own
    if not uses_mean:
        decoder.local.load_state_dict(own.weights)
    return Together(own, len(others), dice_own, dice_mean, uses_mean)


def _with(own: TrainedNetwork | None, others: Sequence[TrainedNetwork]) -> list[TrainedNetwork]:
    return [*others] if own is None else [own, *others]


def _dice(decoder: SiteDecoder, validation: SliceSet) -> float:
    labels = predict_locally(decoder.local, validation.slices).argmax(dim=1)
    return mean_dice(labels, validation, decoder.codec.task.classes)


def _in_round(report: Report, number: int, rounds: int) -> Report:
    """A report whose epochs count through all rounds."""

    def tell(one: FitReport) -> None:
        report(replace(one, epoch=number * one.epochs + one.epoch, epochs=rounds * one.epochs))

    return tell

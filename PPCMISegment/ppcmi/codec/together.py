"""A site's network learns together with those of the consortium's other members: in rounds, each from the mean of all.

Between two rounds only networks travel, and only among members (:mod:`ppcmi.shared_networks`). Sites need not keep
step: a round starts from the newest networks that there are. A network that spoils the mean, by a mistake or on
purpose, is left out as far as this site's own cases show it; what they cannot show, such as a structure that is drawn
wrongly elsewhere, nothing here finds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from ppcmi.codec.codec import Codec
from ppcmi.codec.quality import mean_dice
from ppcmi.codec.refinement import USUAL_WEIGHT, USUAL_WEIGHT_TOGETHER, RefinementConfig, SiteDecoder
from ppcmi.codec.slice_set import SliceSet
from ppcmi.codec.trained_network import TrainedNetwork, Weights, mean_weights
from ppcmi.codec.training import predict_locally, train_local_network
from ppcmi.fitting import FitConfig, FitReport, Report, ignore_report

LARGEST_DROP = 0.2
"""A mean whose Dice on the site's cases is further below what the site has is spoilt; early means fall far less."""

MARGIN_OF_ONE_CASE = 0.02
"""By so much a site's own network must be better than the mean on one validation case; on n, by this over root n."""


class Members(Protocol):
    """The consortium's other members."""

    def networks(self) -> Sequence[TrainedNetwork]:
        """The newest network of each that shares one."""

    def share(self, network: TrainedNetwork) -> None:
        """Give them this site's, in place of an earlier one."""

    def left_out(self, network: TrainedNetwork) -> None:
        """One of :meth:`networks` spoilt the mean and was not used."""


@dataclass(frozen=True)
class Together:
    """What came of learning together.

    :param others: the other members' networks that the mean has.
    :param dice_own: of the site's own network on its validation cases, None without any.
    :param dice_mean: of the mean of all on the same.
    :param uses_mean: whether the site's decoder has the mean.
    """

    others: Sequence[TrainedNetwork]
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
    report: Report = ignore_report,
) -> tuple[SiteDecoder, Together]:
    """Train the site's network in ``config.rounds`` rounds and choose what the site uses.

    The first round starts from the others' networks, or the consortium's, never from one that this site trained
    before: so its validation cases are unknown to it, and a case that was taken away is not in it. With validation
    cases the site uses the mean, unless its own network is better on them; without any it uses the mean.

    :raises PpcmiError: what ``members`` raises.
    """
    validation = validation if validation is not None and validation.cases else None
    judge = _Judge(codec, validation or labelled)
    generator = torch.Generator().manual_seed(config.seed)
    decoder = SiteDecoder(codec)
    own: TrainedNetwork | None = None
    runs = config.local.rounds(config.rounds)
    for number, run in enumerate(runs):
        present = codec.local.state_dict() if own is None else own.weights
        known = [] if own is None else [own]
        used = judge.without_spoilers(present, known, members)
        decoder.local.load_state_dict(mean_weights([*known, *used]) if used else present)
        train_local_network(decoder.local, labelled, run, generator, report=_in_round(report, runs, number))
        own = TrainedNetwork.of(decoder.local, codec, labelled.cases, last=number == len(runs) - 1)
        members.share(own)
    last = TrainedNetwork.of(decoder.local, codec, labelled.cases, last=True)
    used = judge.without_spoilers(last.weights, [last], members)
    return decoder, _settle(decoder, last, used, validation, judge)


def _settle(
    decoder: SiteDecoder,
    own: TrainedNetwork,
    others: Sequence[TrainedNetwork],
    validation: SliceSet | None,
    judge: _Judge,
) -> Together:
    """Give ``decoder`` the mean of all networks or the site's own, whichever the validation cases speak for."""
    decoder.usual_weight = USUAL_WEIGHT_TOGETHER if others else USUAL_WEIGHT
    decoder.local.load_state_dict(own.weights)
    if not others:
        return Together((), None, None, uses_mean=False)
    mean = mean_weights([own, *others])
    dice_own = dice_mean = None
    uses_mean = True
    if validation is not None:
        dice_own, dice_mean = judge.dice(own.weights), judge.dice(mean)
        uses_mean = dice_own <= dice_mean + MARGIN_OF_ONE_CASE / math.sqrt(validation.cases)
    if uses_mean:
        decoder.local.load_state_dict(mean)
    return Together(others, dice_own, dice_mean, uses_mean)


class _Judge:
    """Says by a site's own cases what networks are worth: those that it set apart, or else those it learns from."""

    def __init__(self, codec: Codec, cases: SliceSet) -> None:
        self._cases, self._classes = cases, codec.task.classes
        self._decoder = SiteDecoder(codec)

    def dice(self, weights: Weights) -> float:
        """Mean Dice of a network with these weights."""
        self._decoder.local.load_state_dict(weights)
        labels = predict_locally(self._decoder.local, self._cases.slices).argmax(dim=1)
        return mean_dice(labels, self._cases, self._classes)

    def without_spoilers(
        self, present: Weights, known: Sequence[TrainedNetwork], members: Members
    ) -> list[TrainedNetwork]:
        """The members' networks whose mean with ``known`` is not far below ``present``, what the site has."""
        others = list(members.networks())
        if not others:
            return others
        least = self.dice(present) - LARGEST_DROP
        if self.dice(mean_weights([*known, *others])) >= least:
            return others
        used = [other for other in others if self.dice(mean_weights([*known, other])) >= least]
        if used and self.dice(mean_weights([*known, *used])) < least:
            used = []
        for other in others:
            if not any(other is one for one in used):
                members.left_out(other)
        return used


def _in_round(report: Report, runs: Sequence[FitConfig], number: int) -> Report:
    """A report whose epochs count through all rounds."""
    before, total = sum(run.epochs for run in runs[:number]), sum(run.epochs for run in runs)

    def tell(one: FitReport) -> None:
        report(replace(one, epoch=before + one.epoch, epochs=total))

    return tell

"""A site's network learns together with those of the consortium's other members: in rounds, each from the mean of all.

Between two rounds only networks travel, and only among members (:mod:`ppcmi.shared_networks`). Sites need not keep
step: a round starts from the newest networks that there are. A network that spoils the mean, by a mistake or on
purpose, is left out as far as this site's own cases show it; what they cannot show, such as a structure that is drawn
wrongly elsewhere, nothing here finds. A site whose data differ from the others' goes on from the mean by itself, where
its validation cases say that this is better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch

from ppcmi.codec.codec import Codec
from ppcmi.codec.quality import mean_dice
from ppcmi.codec.refinement import USUAL_WEIGHT_TOGETHER, RefinementConfig, SiteDecoder
from ppcmi.codec.slice_set import SliceSet
from ppcmi.codec.trained_network import TrainedNetwork, Weights, mean_weights
from ppcmi.codec.training import predict_locally, train_local_network
from ppcmi.fitting import FitConfig, FitReport, Report, ignore_report

LARGEST_DROP = 0.2
"""From the middle of the rounds on, a mean whose Dice is further below what the site has counts as spoilt."""

PART_ON_ITS_OWN = 0.5
"""As long as this part of the rounds a site with validation cases goes on from the mean of the last one."""

MARGIN_OF_ONE_CASE = 0.02
"""By so much a site's own network must be better than the mean on one validation case; on n, by this over root n.

What went on from the mean differs less from it and stays at the site: on n by this over n."""


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

    :param uses: what the site's decoder has: the mean, a network that went on from it at this site, the site's own
        network, or the consortium's, if this training made both worse.
    :param others: the other members' networks that the mean has.
    :param dice_own: of the site's own network on its validation cases, None without any.
    :param dice_mean: of the mean of all on the same.
    :param dice_continued: of the network that went on from the mean, None if none did.
    """

    uses: Literal["mean", "continued", "own", "consortium"]
    others: Sequence[TrainedNetwork]
    dice_own: float | None = None
    dice_mean: float | None = None
    dice_continued: float | None = None


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
    cases the site uses the mean, or what it makes of the mean by itself, whichever is better on them, unless its own
    network is clearly better than the mean, which it then tells the others with its network; without any it uses the
    mean. What it makes of the mean is not shared.

    :raises PpcmiError: what ``members`` raises.
    """
    validation = validation if validation is not None and validation.cases else None
    judge = _Judge(codec, validation or labelled)
    generator = torch.Generator().manual_seed(config.seed)
    decoder = SiteDecoder(codec)
    own: list[TrainedNetwork] = []  # of the round before, once there was one
    met = False
    runs = config.local.rounds(config.rounds)
    for number, run in enumerate(runs):
        others, known = members.networks(), own
        met = met or bool(others)
        if 2 * number >= len(runs) > 1:
            known, others = judge.without_spoilers(known, others, members)
        start = [*known, *others]
        decoder.local.load_state_dict(mean_weights(start) if start else codec.local.state_dict())
        train_local_network(decoder.local, labelled, run, generator, report=_in_round(report, runs, number))
        own = [TrainedNetwork.of(decoder.local, codec, labelled.cases, last=number == len(runs) - 1)]
        members.share(own[0])
    (last,) = own
    others = members.networks()
    if not others and not met:
        return decoder, Together("own", ())
    _, used = judge.without_spoilers(own, others, members)
    together = _settle(decoder, last, used, validation, judge)
    if together.uses != "mean":
        members.share(replace(last, mixes=False))
    elif together.dice_mean is not None:
        train_local_network(decoder.local, labelled, config.local.scaled(PART_ON_ITS_OWN), generator, report=report)
        together = _choose_continued(decoder, mean_weights([last, *used]), together, together.dice_mean, judge)
    return decoder, together


def _choose_continued(
    decoder: SiteDecoder, mean: Weights, together: Together, dice_mean: float, judge: _Judge
) -> Together:
    """Leave ``decoder`` as it went on from the mean where that is better, else give it the mean again."""
    dice = judge.dice(decoder.local.state_dict())
    if dice > dice_mean + MARGIN_OF_ONE_CASE / judge.cases:
        return replace(together, uses="continued", dice_continued=dice)
    decoder.local.load_state_dict(mean)
    return replace(together, dice_continued=dice)


def _settle(
    decoder: SiteDecoder,
    own: TrainedNetwork,
    others: Sequence[TrainedNetwork],
    validation: SliceSet | None,
    judge: _Judge,
) -> Together:
    """Give ``decoder`` the mean of all networks or the site's own, whichever the validation cases speak for; or the
    consortium's, if what others shared has spoilt both."""
    decoder.usual_weight = USUAL_WEIGHT_TOGETHER
    mean = mean_weights([own, *others])
    margin = MARGIN_OF_ONE_CASE / math.sqrt(judge.cases)
    dice_own, dice_mean = judge.dice(own.weights), judge.dice(mean)
    uses_mean = bool(others) and (validation is None or dice_own <= dice_mean + margin)
    consortium = decoder.codec.local.state_dict()
    if judge.dice(consortium) > (dice_mean if uses_mean else dice_own) + margin:
        decoder.local.load_state_dict(consortium)
        return Together("consortium", others)
    decoder.local.load_state_dict(mean if uses_mean else own.weights)
    if validation is None or not others:
        return Together("mean" if uses_mean else "own", others)
    return Together("mean" if uses_mean else "own", others, dice_own, dice_mean)


class _Judge:
    """Says by a site's own cases what networks are worth: those that it set apart, or else those it learns from."""

    def __init__(self, codec: Codec, cases: SliceSet) -> None:
        self._slices, self._classes = cases, codec.task.classes
        self.cases = cases.cases
        self._decoder = SiteDecoder(codec)

    def dice(self, weights: Weights) -> float:
        """Mean Dice of a network with these weights."""
        self._decoder.local.load_state_dict(weights)
        labels = predict_locally(self._decoder.local, self._slices.slices).argmax(dim=1)
        return mean_dice(labels, self._slices, self._classes)

    def without_spoilers(
        self, own: Sequence[TrainedNetwork], others: Sequence[TrainedNetwork], members: Members
    ) -> tuple[list[TrainedNetwork], list[TrainedNetwork]]:
        """What is left of the site's own network and of ``others`` where those are left out that spoil a mean.

        :param own: of the round before, or none; earlier rounds may have spoilt it, too.
        """
        best = max(
            self.dice(weights) for weights in (self._decoder.codec.local.state_dict(), *(n.weights for n in own))
        )
        sound = [network for network in own if self._serves([network], best)]
        if self._serves([*sound, *others], best):
            return sound, list(others)
        used = [other for other in others if self._serves([*sound, other], best)]
        if not self._serves([*sound, *used], best):
            used = []
        for other in others:
            if not any(other is one for one in used):
                members.left_out(other)
        return sound, used

    def _serves(self, networks: Sequence[TrainedNetwork], best: float) -> bool:
        return not networks or self.dice(mean_weights(networks)) >= best - LARGEST_DROP


def _in_round(report: Report, runs: Sequence[FitConfig], number: int) -> Report:
    """A report that says which round it is of, and whose epochs count through all rounds."""
    before, total = sum(run.epochs for run in runs[:number]), sum(run.epochs for run in runs)

    def tell(one: FitReport) -> None:
        report(replace(one, epoch=before + one.epoch, epochs=total, round_number=number + 1, rounds=len(runs)))

    return tell

"""The statistics of membership attacks: from the losses of many models to one score for each model and patient.

LiRA (Carlini et al. 2022, arXiv 2112.03570): models trained with and without a record have losses of two distributions,
here Gaussians of the logarithm of the mean squared error of each scale. A patient's score is the mean log likelihood
ratio of the slices. With the few models that an audit can train, variances are common to all records, and how much
lower a record's loss is for being trained on is drawn towards what it is for all records, by as much as its own
estimate is unsure (empirical Bayes). Each model is the target once, all others are its shadows; the halves of patients
that they are trained on are drawn independently, so that nothing about the shadows tells of the target.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_VARIANCE = 1e-8


@dataclass(frozen=True, eq=False)
class Evidence:
    """What an attacker measured.

    :param losses: ``(models, slices, scales)`` float64, logarithms of mean squared errors.
    :param member: ``(models, patients)`` bool, whose cases a model was trained on.
    :param patient: ``(slices,)`` int64 below the number of patients.
    """

    losses: Tensor
    member: Tensor
    patient: Tensor

    @property
    def models(self) -> int:
        """How many."""
        return len(self.losses)

    def of_patients(self, values: Tensor) -> Tensor:
        """``(slices,)`` to the means of each patient, ``(patients,)``."""
        patients = self.member.shape[1]
        sums = torch.zeros(patients, dtype=values.dtype).index_add(0, self.patient, values)
        return sums / torch.bincount(self.patient, minlength=patients).clamp_min(1)


def online_scores(evidence: Evidence, target: int) -> Tensor:
    """``(patients,)``: the mean log likelihood ratio of "the target was trained on it" to "it was not"."""
    shadows = _Shadows(evidence, target)
    outside, benefit, variance = shadows.story()
    x = evidence.losses[target] - outside
    ratio = (x.square() - (x + benefit).square()) / (2 * variance)
    return evidence.of_patients(ratio.sum(dim=1))


def offline_scores(evidence: Evidence, target: int) -> Tensor:
    """``(patients,)``: how far the target's loss is below what shadows without the patient have, in deviations."""
    shadows = _Shadows(evidence, target)
    mean, count = shadows.mean(trained_on=False)
    deviation = (shadows.variance * (1 + 1 / count.clamp_min(1))).sqrt()
    return evidence.of_patients(((mean - evidence.losses[target]) / deviation).mean(dim=1))


def loss_scores(evidence: Evidence, target: int) -> Tensor:
    """``(patients,)``: the loss alone, small for members (Yeom et al. 2018)."""
    return evidence.of_patients(-evidence.losses[target].mean(dim=1))


class _Shadows:
    """All models but the target, and on which side of each slice they are."""

    def __init__(self, evidence: Evidence, target: int) -> None:
        others = torch.arange(evidence.models) != target
        self.losses = evidence.losses[others]
        self.inside = evidence.member[others][:, evidence.patient].unsqueeze(2).to(self.losses.dtype)

    def mean(self, *, trained_on: bool) -> tuple[Tensor, Tensor]:
        """Of one side: means ``(slices, scales)`` and how many models they are of ``(slices, 1)``."""
        chosen = self.inside if trained_on else 1 - self.inside
        count = chosen.sum(dim=0)
        everyone = (self.losses * chosen).sum(dim=(0, 1)) / chosen.sum(dim=(0, 1)).clamp_min(1)
        # A record that no shadow has on this side gets what the others have.
        return torch.where(count > 0, (self.losses * chosen).sum(dim=0) / count.clamp_min(1), everyone), count

    @property
    def variance(self) -> Tensor:
        """``(scales,)``: of a model's loss about the mean of its side."""
        squares, freedom = torch.zeros(()), torch.zeros(())
        for trained_on in (True, False):
            mean, count = self.mean(trained_on=trained_on)
            chosen = self.inside if trained_on else 1 - self.inside
            squares = squares + ((self.losses - mean).square() * chosen).sum(dim=(0, 1))
            freedom = freedom + (count - 1).clamp_min(0).sum(dim=0)
        return (squares / freedom.clamp_min(1)).clamp_min(LEAST_VARIANCE)

    def story(self) -> tuple[Tensor, Tensor, Tensor]:
        """The loss without training on a record, what training takes off it, and a new loss's variance."""
        (inside, inside_count), (outside, outside_count) = self.mean(trained_on=True), self.mean(trained_on=False)
        variance = self.variance
        both = ((inside_count > 0) & (outside_count > 0)).to(inside.dtype)
        own = outside - inside
        unsure = variance * (1 / inside_count.clamp_min(1) + 1 / outside_count.clamp_min(1))
        records = both.sum().clamp_min(1)
        common = (own * both).sum(dim=0) / records
        spread = (((own - common).square() - unsure) * both).sum(dim=0) / records
        trust = both * spread.clamp_min(0) / (spread.clamp_min(0) + unsure)
        benefit = common + trust * (own - common)
        level = (self.losses + benefit * self.inside).mean(dim=0)
        return level, benefit, variance * (1 + 1 / len(self.losses))

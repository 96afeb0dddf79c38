"""How well scores between queries and a gallery find what belongs together: the measures of re-identification.

Top-1 and mAP ask, for each query, where what belongs to it stands in the gallery; F1, AUC and the true positive rate at
1 % false positives ask of any pair whether it belongs together (SECURITY, 2.1, A9). F1 is at the best threshold, as the
Mixup paper reports it. Chance is the same measure of random scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppcmi.audit.metrics import interval
from ppcmi.audit.proportions import area_under_curve, best_f1, bootstrap, negatives_needed, rate_at

FALSE_POSITIVE_RATE = 0.01
CHANCE_DRAWS = 10

PairMeasure = Callable[[NDArray[np.bool_], NDArray[np.float64]], float]
"""Of the truth and the score of every pair."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Scores ``(queries, gallery)`` and what is true of each pair.

    :param relevant: whether the two belong together.
    :param counted: whether the pair is looked at; not a case with itself.
    :param patient: ``(queries,)`` int64.
    """

    scores: Tensor
    relevant: Tensor
    counted: Tensor
    patient: Tensor

    def rows(self, index: Tensor) -> Comparison:
        """Some of the queries."""
        return Comparison(self.scores[index], self.relevant[index], self.counted[index], self.patient[index])

    def pairs(self) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Truth and score of every counted pair."""
        return self.relevant[self.counted].numpy(), self.scores[self.counted].double().numpy()

    def by_chance(self, seed: int) -> Comparison:
        """The same with random scores."""
        generator = torch.Generator().manual_seed(seed)
        scores = torch.rand(self.scores.shape, generator=generator)
        return Comparison(scores, self.relevant, self.counted, self.patient)


@dataclass(frozen=True)
class Score:
    """One measure with its 95 % interval by patient and what chance gives."""

    measure: str
    value: float
    low: float
    high: float
    chance: float
    note: str = ""


def top_1(comparison: Comparison) -> Tensor:
    """``(queries,)``: 1 where the best match belongs to the query, else 0."""
    best = comparison.scores.masked_fill(~comparison.counted, -math.inf).argmax(dim=1, keepdim=True)
    return comparison.relevant.gather(1, best)[:, 0].double()


def average_precision(comparison: Comparison) -> Tensor:
    """``(queries,)``: the mean, over what belongs to a query, of the precision at its rank; their mean is the mAP."""
    scores = comparison.scores.masked_fill(~comparison.counted, -math.inf)
    order = scores.argsort(dim=1, descending=True)
    relevant = (comparison.relevant & comparison.counted).gather(1, order).double()
    precision = relevant.cumsum(dim=1) / torch.arange(1, scores.shape[1] + 1)
    return (precision * relevant).sum(dim=1) / relevant.sum(dim=1)


TOP_1 = "top-1"
OF_QUERIES: Mapping[str, Callable[[Comparison], Tensor]] = {TOP_1: top_1, "mAP": average_precision}
OF_PAIRS: Mapping[str, PairMeasure] = {"F1": best_f1, "AUC": area_under_curve}


def chances_of(comparison: Comparison, seed: int) -> dict[str, float]:
    """What random scores reach by each measure; the same for all scores of the same pairs."""
    others = [comparison.by_chance(seed + draw) for draw in range(CHANCE_DRAWS)]
    of_queries = {name: float(torch.cat([of(other) for other in others]).mean()) for name, of in OF_QUERIES.items()}
    return of_queries | {"F1": float(np.mean([best_f1(*other.pairs()) for other in others])), "AUC": 0.5}


def scores_of(comparison: Comparison, chances: Mapping[str, float], seed: int) -> Iterator[Score]:
    """Every measure, with ``chances`` as :func:`chances_of` gives them for these pairs."""
    for name, values_of in OF_QUERIES.items():
        yield Score(name, *interval(values_of(comparison), comparison.patient, seed), chances[name])
    for name, measure in OF_PAIRS.items():

        def resampled(index: Tensor, measure: PairMeasure = measure) -> float:
            return measure(*comparison.rows(index).pairs())

        low, high = bootstrap(resampled, comparison.patient, seed)
        yield Score(name, measure(*comparison.pairs()), low, high, chances[name])
    yield _rate(comparison)


def _rate(comparison: Comparison) -> Score:
    """TPR at 1 % FPR over all pairs."""
    truth, scores = comparison.pairs()
    rate = rate_at(FALSE_POSITIVE_RATE, scores[truth], scores[~truth], len(torch.unique(comparison.patient)))
    needed = negatives_needed(FALSE_POSITIVE_RATE)
    note = "" if rate.measurable else f"not measurable: {int((~truth).sum())} other pairs, {needed} are needed"
    return Score(f"TPR at {FALSE_POSITIVE_RATE:.0%} FPR", rate.value, rate.low, rate.high, FALSE_POSITIVE_RATE, note)

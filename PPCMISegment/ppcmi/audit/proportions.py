"""Scores of yes and no: proportions with honest bounds, areas under curves, and intervals of what is no mean.

A true positive rate at a fixed false positive rate says more about a worst case than an AUC (Carlini et al. 2022, arXiv
2112.03570), but needs many true negatives: ten false positives at least, 1,000 negatives for a rate of 1 % (SECURITY,
2.2). With fewer it is not measurable, and what is reported is that: NaN, anywhere between 0 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import beta, rankdata
from torch import Tensor

CONFIDENCE = 0.95
FEWEST_FALSE_POSITIVES = 10
RESAMPLES = 200

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Rate:
    """A true positive rate at a false positive rate, with its bounds; NaN, 0 and 1 where it is not measurable."""

    value: float
    low: float
    high: float

    @property
    def measurable(self) -> bool:
        """Whether there were enough negatives."""
        return not math.isnan(self.value)


def clopper_pearson(successes: float, trials: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Exact bounds of a proportion (Clopper and Pearson, Biometrika 26, 1934); 0 and 1 without a trial."""
    outside = (1 - confidence) / 2
    low = float(beta.ppf(outside, successes, trials - successes + 1)) if successes > 0 else 0.0
    high = float(beta.ppf(1 - outside, successes + 1, trials - successes)) if successes < trials else 1.0
    return low, high


def negatives_needed(false_positive_rate: float) -> int:
    """How many true negatives a rate at ``false_positive_rate`` needs to be measurable."""
    return math.ceil(FEWEST_FALSE_POSITIVES / false_positive_rate - 1e-9)


def rate_at(
    false_positive_rate: float, positives: Scores, negatives: Scores, independent_positives: int | None = None
) -> Rate:
    """The share of ``positives`` above the score that at most ``false_positive_rate`` of ``negatives`` exceed.

    :param independent_positives: how many there are where several scores are of one patient; for the bounds.
    """
    if not len(positives) or len(negatives) < negatives_needed(false_positive_rate):
        return Rate(math.nan, 0.0, 1.0)
    allowed = math.floor(false_positive_rate * len(negatives) + 1e-9)
    threshold = np.sort(negatives)[::-1][allowed]
    value = float((positives > threshold).mean())
    trials = independent_positives or len(positives)
    return Rate(value, *clopper_pearson(value * trials, trials))


def area_under_curve(truth: NDArray[np.bool_], scores: Scores) -> float:
    """AUC as the Mann-Whitney statistic, ties counting half; NaN if one side is empty.

    It is scikit-learn's to the last bits, at a hundredth of its time for few scores: a bootstrap asks for hundreds.
    """
    positives = int(truth.sum())
    negatives = len(truth) - positives
    if not positives or not negatives:
        return math.nan
    ranks = rankdata(scores)[truth].sum() - positives * (positives + 1) / 2
    return float(ranks / (positives * negatives))


def best_f1(truth: NDArray[np.bool_], scores: Scores) -> float:
    """F1 at the threshold that makes it largest; NaN without a positive."""
    order = np.argsort(-scores, kind="stable")
    found = truth[order].cumsum()
    whole = np.append(np.diff(scores[order]) != 0, True)  # a threshold takes all of a tie
    f1 = 2 * found / (np.arange(1, len(found) + 1) + found[-1])
    return float(f1[whole].max()) if found[-1] else math.nan


def bootstrap(
    statistic: Callable[[Tensor], float], patient: Tensor, seed: int, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """95 % interval of a statistic by resampling patients with replacement.

    :param statistic: of the items at an index ``(m,)`` int64, in which items may come several times; NaN if it is not
        defined for them, which leaves that resample out.
    :param patient: ``(n,)`` int64, whose item it is.
    """
    generator = torch.Generator().manual_seed(seed)
    items = [torch.nonzero(patient == one)[:, 0] for one in torch.unique(patient).tolist()]
    values = []
    for _ in range(resamples):
        drawn = torch.randint(len(items), (len(items),), generator=generator).tolist()
        values.append(statistic(torch.cat([items[one] for one in drawn])))
    kept = [value for value in values if not math.isnan(value)]
    if not kept:
        return math.nan, math.nan
    low, high = np.quantile(kept, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)

"""From probabilities on slices to scores of patients: restored to the volume's voxels, averaged, with an interval.

A patient's score is the mean over the patient's cases and structures; a row's number the mean over patients, its
interval a bootstrap over patients, its p a two-sided Wilcoxon signed-rank test against another row, same patients.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import wilcoxon

from benchmarks.bench.splits import HeldOut
from ppcmi.audit.metrics import interval
from ppcmi.metrics import score_case
from ppcmi.slicing import restore_labels
from ppcmi.task import Task
from ppcmi.validation import METRICS

CaseRow = Mapping[str, float | str | None]
"""One case: its site, its patient's number, and each metric, None where it is not defined."""

FEWEST_PATIENTS = 6
"""Below it no difference can be significant at 0.05 in a two-sided signed-rank test."""


@dataclass(frozen=True)
class Estimate:
    """Mean over ``patients`` with the bounds of its 95 % interval."""

    mean: float
    low: float
    high: float
    patients: int


def score_held_out(held_out: HeldOut, probabilities: torch.Tensor, task: Task, site: str) -> list[CaseRow]:
    """Scores of each case.

    :param probabilities: ``(n, K + 1, h, w)`` for all slices of ``held_out``.
    """
    rows: list[CaseRow] = []
    for case, (grid, truth) in enumerate(zip(held_out.grids, held_out.truths, strict=True)):
        predicted = restore_labels(probabilities[held_out.slices.case == case].float().cpu().numpy(), grid)
        scores = score_case(predicted, truth, task)
        means = {metric: _mean([getattr(score, metric) for score in scores]) for metric in METRICS}
        rows.append({"site": site, "case": held_out.numbers[case], "patient": held_out.patients[case], **means})
    return rows


def mean_dice(rows: Sequence[CaseRow]) -> float:
    """Over cases."""
    return _mean([_number(row["dice"]) for row in rows]) or 0.0


def by_patient(rows: Sequence[CaseRow], metric: str) -> dict[int, float]:
    """Each patient's mean, where the metric is defined."""
    values: dict[int, list[float]] = {}
    for row in rows:
        if row[metric] is not None:
            values.setdefault(int(_number(row["patient"])), []).append(_number(row[metric]))
    return {patient: float(np.mean(found)) for patient, found in sorted(values.items())}


def by_site(rows: Sequence[CaseRow], metric: str) -> dict[str, float]:
    """Each site's mean over patients."""
    sites = sorted({str(row["site"]) for row in rows})
    found = {site: by_patient([row for row in rows if row["site"] == site], metric) for site in sites}
    return {site: float(np.mean(list(values.values()))) for site, values in found.items() if values}


def estimate(rows: Sequence[CaseRow], metric: str, seed: int = 1) -> Estimate | None:
    """The metric's mean over patients; None where no patient has a value."""
    scores = by_patient(rows, metric)
    if not scores:
        return None
    patients, values = torch.tensor(list(scores)), torch.tensor(list(scores.values()), dtype=torch.float64)
    return Estimate(*interval(values, patients, seed), len(values))


def paired_p(rows: Sequence[CaseRow], others: Sequence[CaseRow], metric: str = "dice") -> float | None:
    """That both rows score the same patients alike; None where too few patients can say."""
    mine, theirs = by_patient(rows, metric), by_patient(others, metric)
    patients = sorted(mine.keys() & theirs.keys())
    differences = np.array([mine[patient] - theirs[patient] for patient in patients])
    if len(patients) < FEWEST_PATIENTS or not differences.any():
        return None
    return float(wilcoxon(differences).pvalue)


def _mean(values: Sequence[float]) -> float | None:
    defined = [value for value in values if math.isfinite(value)]
    return float(np.mean(defined)) if defined else None


def _number(value: float | str | None) -> float:
    return math.nan if value is None else float(value)

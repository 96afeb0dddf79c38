"""From probabilities on slices to scores of patients: restored to the volume's voxels, averaged, with an interval.

A patient's score is the mean over the patient's cases and structures; a row's number the mean over patients, its
interval a bootstrap over patients, its p a two-sided Wilcoxon signed-rank test against another row, same patients.

A structure that is missed has no surface to measure a distance from, nor has one that is found where there is none.
Left out, a system would score the better the more it misses: there HD95 and ASD are the diagonal of the case's image,
the largest distance that two of its voxels have. What neither the truth nor the prediction has is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.stats import wilcoxon

from benchmarks.bench.splits import HeldOut
from ppcmi.audit.metrics import interval
from ppcmi.metrics import LabelScore, score_case
from ppcmi.slicing import restore_labels
from ppcmi.task import Task
from ppcmi.validation import METRICS
from ppcmi.volume import Geometry, Volume

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
        scores = scored(predicted, truth, task)
        means = {metric: _mean([getattr(score, metric) for score in scores]) for metric in METRICS}
        rows.append({"site": site, "case": held_out.numbers[case], "patient": held_out.patients[case], **means})
    return rows


def scored(predicted: Volume, truth: Volume, task: Task) -> list[LabelScore]:
    """A case's scores of every label, with penalties for distances that there are not."""
    return [_with_penalty(score, truth.geometry) for score in score_case(predicted, truth, task)]


def _with_penalty(score: LabelScore, geometry: Geometry) -> LabelScore:
    """With the image's diagonal for distances where only one of truth and prediction has the structure."""
    if score.dice != 0 or math.isfinite(score.hd95_mm):  # Dice is not a number where neither has it
        return score
    diagonal = diagonal_mm(geometry)
    return replace(score, hd95_mm=diagonal, asd_mm=diagonal)


def diagonal_mm(geometry: Geometry) -> float:
    """The largest distance of two voxels' centers, in millimetres."""
    k, j, i = (count - 1 for count in geometry.shape)
    diagonals = np.array([(i, j, k), (i, j, -k), (i, -j, k), (i, -j, -k)]) @ geometry.ijk_to_ras[:3, :3].T
    return float(np.linalg.norm(diagonals, axis=1).max())


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
    """That both rows score the same patients alike; None where too few patients can say, or the other row says nothing.

    :param others: the reference. It says nothing where it has the same value, or the same Dice, for every patient: what
        was never found, for one, has Dice 0 everywhere and distances that are the images' diagonals.
    """
    mine, theirs = by_patient(rows, metric), by_patient(others, metric)
    patients = sorted(mine.keys() & theirs.keys())
    differences = np.array([mine[patient] - theirs[patient] for patient in patients])
    if len(patients) < FEWEST_PATIENTS or not differences.any():
        return None
    overlap = by_patient(others, "dice")
    if any(len({found.get(patient) for patient in patients}) == 1 for found in (theirs, overlap)):
        return None
    return float(wilcoxon(differences).pvalue)


def _mean(values: Sequence[float]) -> float | None:
    defined = [value for value in values if math.isfinite(value)]
    return float(np.mean(defined)) if defined else None


def _number(value: float | str | None) -> float:
    return math.nan if value is None else float(value)

"""Score a model on the site's own held-out cases, beside the site working alone, and report numbers only.

The server cannot decode a mask, so only sites can say how good a model is. What leaves is a mean for each label and
metric, and how many cases it is of.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ppcmi.data_folders import CaseFiles
from ppcmi.errors import GeometryError, ReadError, SiteError
from ppcmi.metrics import LabelScore, score_case
from ppcmi.pipeline import PrivateLink, Progress, segment
from ppcmi.slicing import VolumeSlices, labels_in_plane
from ppcmi.task_labels import read_labelled_case
from ppcmi.volume import Volume

METRICS = tuple(f.name for f in fields(LabelScore) if f.name != "label")
"""Dice, IoU, sensitivity, specificity, and surface distances in millimetres."""

Means = Mapping[str, Mapping[str, float]]
"""Mean over cases by label name and metric; NaN where no case has a value."""


@dataclass(frozen=True)
class CaseScores:
    """One case's scores with the server and, where the site has its own decoder, without."""

    case: str
    private: tuple[LabelScore, ...]
    alone: tuple[LabelScore, ...] | None


@dataclass(frozen=True)
class ValidationProgress:
    """``done`` of ``total`` cases; within the one at work ``slices`` tells how far it is."""

    case: str
    done: int
    total: int
    slices: Progress | None = None
    scores: CaseScores | None = None


@dataclass(frozen=True)
class Validation:
    """Scores of all cases; ``skipped`` could not be read. Case names are for the site's eyes only."""

    model: int
    cases: tuple[CaseScores, ...]
    skipped: Mapping[str, ReadError | GeometryError]

    @property
    def private(self) -> Means:
        """Means with the server."""
        return mean_scores([case.private for case in self.cases])

    @property
    def alone(self) -> Means:
        """Means of the site working alone; empty if it has no decoder of its own."""
        return mean_scores([case.alone for case in self.cases if case.alone is not None])

    def numbers(self) -> dict[str, Any]:
        """What is reported to the server; undefined values are left out."""
        return {"cases": len(self.cases), "labels": _defined(self.private), "alone": _defined(self.alone)}


def validate(cases: Sequence[CaseFiles], link: PrivateLink) -> Generator[ValidationProgress, None, Validation]:
    """Segment every labelled case privately, and alone, and score both.

    :raises SiteError: if no case has labels, or none could be read.
    """
    labelled = [case for case in cases if case.label is not None]
    if not labelled:
        raise SiteError("None of the chosen cases has labels, so there is nothing to score.")
    scored: list[CaseScores] = []
    skipped: dict[str, ReadError | GeometryError] = {}
    for done, case in enumerate(labelled):
        try:
            volume, truth = read_labelled_case(case, link.task)
            steps = segment(volume, link)
            while True:
                try:
                    yield ValidationProgress(case.name, done, len(labelled), next(steps))
                except StopIteration as end:
                    private = score_case(end.value.labels, truth, link.task)
                    break
            alone = segment_alone(volume, link)
            local = None if alone is None else tuple(score_case(alone, truth, link.task))
        except (ReadError, GeometryError) as error:
            skipped[case.name] = error
            yield ValidationProgress(case.name, done + 1, len(labelled))
            continue
        scored.append(CaseScores(case.name, tuple(private), local))
        yield ValidationProgress(case.name, done + 1, len(labelled), scores=scored[-1])
    if not scored:
        raise SiteError("None of the chosen cases could be read, so there is nothing to score.")
    return Validation(link.model, tuple(scored), skipped)


def segment_alone(volume: Volume, link: PrivateLink) -> Volume | None:
    """Labels from the site's own network without any server, or None if it has none."""
    if link.decoder is None:
        return None
    slices = VolumeSlices(volume, link.task)
    parts: list[NDArray[np.uint8]] = []
    for start in range(0, len(slices), link.slices_per_bundle):
        batch = torch.from_numpy(slices[start : start + link.slices_per_bundle])
        parts.append(labels_in_plane(link.decoder.alone(batch).cpu().numpy(), slices.grid))
    return Volume(slices.grid.to_voxels(np.concatenate(parts)), volume.geometry)


def mean_scores(cases: Sequence[Sequence[LabelScore]]) -> dict[str, dict[str, float]]:
    """Mean over cases by label and metric, without undefined values."""
    values: dict[str, dict[str, list[float]]] = {}
    for scores in cases:
        for score in scores:
            by_metric = values.setdefault(score.label, {metric: [] for metric in METRICS})
            for metric in METRICS:
                value = float(getattr(score, metric))
                if math.isfinite(value):
                    by_metric[metric].append(value)
    return {
        label: {metric: float(np.mean(found)) if found else math.nan for metric, found in by_metric.items()}
        for label, by_metric in values.items()
    }


def _defined(means: Means) -> dict[str, dict[str, float]]:
    return {
        label: {metric: value for metric, value in by_metric.items() if math.isfinite(value)}
        for label, by_metric in means.items()
    }

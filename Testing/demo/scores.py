"""Scores of the held-out cases, read back from the files that were written, and results.json."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import SimpleITK
import torch

from ppcmi import __version__
from ppcmi.batch_manifest import MANIFEST
from ppcmi.metrics import LabelScore
from ppcmi.task import Task


@dataclass(frozen=True)
class ScoredCase:
    """One held-out case: by private collaboration and by its site alone."""

    name: str
    site: str
    slices: int
    private: tuple[LabelScore, ...]
    alone: tuple[LabelScore, ...]

    @property
    def dice(self) -> float:
        """Mean over structures, private collaboration."""
        return mean_dice(self.private)

    @property
    def dice_alone(self) -> float:
        """Mean over structures, the site alone."""
        return mean_dice(self.alone)


def mean_dice(scores: Iterable[LabelScore]) -> float:
    """Mean over the structures that are there."""
    return fmean(score.dice for score in scores if not math.isnan(score.dice))


def manifest_records(folder: Path) -> list[Mapping[str, Any]]:
    """What ``ppcmi segment`` noted of the cases that it finished."""
    lines = (folder / MANIFEST).read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record["outcome"] == "done"]


def dice_rows(cases: Sequence[ScoredCase], task: Task) -> list[dict[str, Any]]:
    """A row a site and one for all: Dice by structure and their mean, together and alone."""
    rows = []
    for site in [*sorted({case.site for case in cases}), None]:
        chosen = [case for case in cases if site in (case.site, None)]
        row: dict[str, Any] = {"site": site or "all", "cases": len(chosen)}
        for way in ("alone", "private"):
            scores = [score for case in chosen for score in getattr(case, way)]
            by_label = {label.name: _mean(s.dice for s in scores if s.label == label.name) for label in task.labels}
            row[way] = {"mean": _mean(mean_dice(getattr(case, way)) for case in chosen), "labels": by_label}
        rows.append(row)
    return rows


def results_document(
    task: Task,
    cases: Sequence[ScoredCase],
    records: Sequence[Mapping[str, Any]],
    seconds: Mapping[str, float],
    *,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything that was measured, ready for JSON."""
    slices = sum(case.slices for case in cases)
    stages: dict[str, float] = {}
    for record in records:
        for stage, value in record["seconds"].items():
            stages[stage] = stages.get(stage, 0.0) + value
    return {
        "task": task.identity,
        "settings": dict(settings),
        "dice": dice_rows(cases, task),
        "cases": [_case_document(case) for case in cases],
        "bytes_per_slice": {
            "sent": sum(record["bytes_sent"] for record in records) / slices,
            "received": sum(record["bytes_received"] for record in records) / slices,
        },
        "seconds": {stage: round(value, 2) for stage, value in seconds.items()},
        "seconds_per_slice_of_segmenting": {stage: value / slices for stage, value in stages.items()},
        "versions": {
            "ppcmi": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "SimpleITK": SimpleITK.Version.VersionString(),
        },
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The Dice table as text."""
    labels = list(rows[0]["private"]["labels"])
    header = ["site", "cases", "alone", "together", *(f"{label} alone / together" for label in labels)]
    lines = [header]
    for row in rows:
        alone, private = row["alone"], row["private"]
        pairs = [f"{alone['labels'][label]:.3f} / {private['labels'][label]:.3f}" for label in labels]
        lines.append([row["site"], str(row["cases"]), f"{alone['mean']:.3f}", f"{private['mean']:.3f}", *pairs])
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)) for line in lines)


def _case_document(case: ScoredCase) -> dict[str, Any]:
    return {
        "case": case.name,
        "site": case.site,
        "slices": case.slices,
        "private": [_numbers(score) for score in case.private],
        "alone": [_numbers(score) for score in case.alone],
    }


def _numbers(score: LabelScore) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value for key, value in asdict(score).items()
    }


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return fmean(known) if known else float("nan")

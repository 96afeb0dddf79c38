"""The sites of the data folders that the benchmarks measure on, and the slices of their cases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks.federation import Site
from ppcmi.codec.slice_set import read_slice_set
from ppcmi.data_folders import CaseFiles, find_cases
from ppcmi.task import Task

SITES = ("A", "B", "C")
TASKS = {"hippocampus_mr": "hippocampus-mr", "fetal_head_us": "fetal-head-us"}
"""The task of each data folder, by their names."""

SMALLEST_PAPER_SLICE = 256
"""Rows and columns of the slices that the published networks are made for."""


def load_site(data: Path, task: Task, name: str, labelled: int | None, column: str = "site") -> Site:
    """A site's slices by fold.

    :param labelled: labelled cases to train on, None for all.
    :param column: of split.csv, with the cases' sites.
    """
    cases = [case for case in find_cases(data) if site_of(case, column) == name]

    def fold(which: str) -> list[CaseFiles]:
        return [case for case in cases if case.fold == which]

    train = fold("train")[:labelled] if labelled else fold("train")
    # With few labels there are none to spare for validation; the usual weight must do.
    validation = None if labelled else read_slice_set(fold("val"), task)
    return Site(name, read_slice_set(train, task), validation, read_slice_set(fold("test"), task))


def site_of(case: CaseFiles, column: str) -> str | None:
    """The site that a column of split.csv names."""
    return case.site if column == "site" else case.attributes[column]


def at_published_size(task: Task) -> Task:
    """The task with slices that the published networks take: one channel, 256 x 256, scaled up where they were less."""
    factor = max(1.0, SMALLEST_PAPER_SLICE / min(task.slicing.size))
    spacing = task.slicing.spacing_mm
    slicing = replace(
        task.slicing,
        size=(round(task.slicing.size[0] * factor), round(task.slicing.size[1] * factor)),
        spacing_mm=None if spacing is None else (spacing[0] / factor, spacing[1] / factor),
        neighbors=0,
    )
    return replace(task, slicing=slicing)

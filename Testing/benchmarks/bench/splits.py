"""Cases of a data folder shared out to sites: by a column of its table, or evenly by patient.

Patients never lie in two folds or at two sites. Nothing here leaves the process: a case is known by its number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.federation import Site
from benchmarks.results import REPOSITORY
from benchmarks.sites import SITES, TASKS, site_of
from ppcmi.codec.slice_set import SliceSet, read_slice_set
from ppcmi.data_folders import CaseFiles, find_cases
from ppcmi.slicing import SliceGrid, slice_grid
from ppcmi.task import Task, load_task
from ppcmi.task_labels import read_labelled_case
from ppcmi.volume import Volume

Numbered = tuple[int, int, CaseFiles]
"""A case with its number and its patient's."""

PATIENT_COLUMNS: Mapping[str, str] = {"hippocampus_mr": "subject_group", "fetal_head_us": "exam"}


@dataclass(frozen=True)
class Split:
    """How cases become sites.

    :param column: of split.csv with the sites' names, or "" to share out evenly.
    :param sites: how many, where they are shared out evenly.
    :param labelled: training cases a site, None for the budget's.
    """

    column: str = "site"
    sites: int = 3
    labelled: int | None = None

    @property
    def name(self) -> str:
        """Short and unique."""
        where = self.column or f"{self.sites}-sites"
        return where if self.labelled is None else f"{where}-{self.labelled}-labelled"


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Cases to score on their volumes' own voxels; ``patients`` and ``numbers`` stand for names, which stay away."""

    slices: SliceSet
    grids: tuple[SliceGrid, ...]
    truths: tuple[Volume, ...]
    patients: tuple[int, ...]
    numbers: tuple[int, ...]

    def first(self, cases: int) -> HeldOut:
        """Only the first cases."""
        kept = range(min(cases, len(self.grids)))
        return HeldOut(
            self.slices.of_cases(kept), self.grids[:cases], self.truths[:cases], self.patients[:cases],
            self.numbers[:cases],
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class BenchSite:
    """One site's cases; ``validation`` is None where labels are few: there are none to spare."""

    name: str
    train: SliceSet
    validation: HeldOut | None
    test: HeldOut

    @property
    def site(self) -> Site:
        """As the rest of the benchmarks knows it."""
        return Site(self.name, self.train, self.validation.slices if self.validation else None, self.test.slices)


class DataSet:
    """A data folder with its task.

    :param limits: most cases a site by fold, as far as they are limited.
    """

    def __init__(self, folder: Path, limits: Mapping[str, int | None]) -> None:
        self.name = folder.name
        self.task = load_task(REPOSITORY / "Resources" / "Tasks" / f"{TASKS[folder.name]}.json")
        self.limits = limits
        cases = find_cases(folder)
        column = PATIENT_COLUMNS[folder.name]
        names = sorted({case.attributes[column] for case in cases})
        numbered = [(number, names.index(case.attributes[column]), case) for number, case in enumerate(cases)]
        # However cases are shared out, the same ones are scored, so that rows can be compared patient by patient.
        test = _evenly_drawn([one for one in numbered if one[2].fold == "test"])
        scored = len(test) if (most := limits["test"]) is None else len(SITES) * most
        self._numbered = [one for one in numbered if one[2].fold != "test"] + sorted(
            test[:scored], key=lambda one: one[0]
        )

    def sites(self, split: Split, task: Task) -> list[BenchSite]:
        """Read and slice all sites' cases by ``task``'s geometry."""
        return [self._site(name, members, split, task) for name, members in sorted(self._shared_out(split).items())]

    def _shared_out(self, split: Split) -> dict[str, list[Numbered]]:
        shared: dict[str, list[Numbered]] = {}
        turn: dict[str, dict[int, int]] = {}
        for number, patient, case in self._numbered:
            if split.column:
                site = site_of(case, split.column)
            else:
                of_fold = turn.setdefault(case.fold or "", {})
                site = chr(ord("A") + of_fold.setdefault(patient, len(of_fold)) % split.sites)
            shared.setdefault(site or "", []).append((number, patient, case))
        return shared

    def _site(self, name: str, cases: Sequence[Numbered], split: Split, task: Task) -> BenchSite:
        def fold(which: str) -> list[Numbered]:
            return [one for one in cases if one[2].fold == which]

        # The folds are shared out among the sites; the limits are of three sites.
        share = 1.0 if split.column else len(SITES) / split.sites
        most = {which: None if limit is None else max(1, round(limit * share)) for which, limit in self.limits.items()}
        train = fold("train")[: split.labelled or most["train"]]
        validation = None if split.labelled else _held_out(fold("val")[: most["val"]], task)
        return BenchSite(
            name, read_slice_set([case for *_, case in train], task), validation, _held_out(fold("test"), task)
        )


def _evenly_drawn(cases: Sequence[Numbered]) -> list[Numbered]:
    """The same cases in an order whose beginning has every site, by either column, and as many patients as it can."""
    turns: dict[object, int] = {}

    def turn(*kind: object) -> int:
        turns[kind] = turns.get(kind, 0) + 1
        return turns[kind]

    ranked = [(turn("patient", p), turn(case.site, case.attributes.get("site_shifted")), n) for n, p, case in cases]
    return [one for _, one in sorted(zip(ranked, cases, strict=True), key=lambda pair: pair[0])]


def _held_out(cases: Sequence[Numbered], task: Task) -> HeldOut:
    read = [read_labelled_case(case, task) for *_, case in cases]
    return HeldOut(
        read_slice_set([case for *_, case in cases], task),
        tuple(slice_grid(image.geometry, task.slicing) for image, _ in read),
        tuple(truth for _, truth in read),
        tuple(patient for _, patient, _ in cases),
        tuple(number for number, *_ in cases),
    )


def thinned(cases: SliceSet, most: int | None) -> SliceSet:
    """At most so many slices, evenly drawn."""
    if most is None or len(cases) <= most:
        return cases
    index = torch.linspace(0, len(cases) - 1, most).round().long()
    case = torch.unique(cases.case[index], return_inverse=True)[1]
    return SliceSet(cases.slices[index], cases.known_labels[index], case)

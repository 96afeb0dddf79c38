"""The site's own cases in three parts, by patient, before anything is trained or drawn (SECURITY, section 2).

*Victims* are attacked. *Outside* are images of the same kind that the attacker has: another site's, or published ones.
*Collected* are other cases of the attacked site, which left it as the victims did; their images are unknown to the
attacker but for some that leaked. No patient is in two of the three, or an attacker would be told what it should find.

Example::

    subjects = read_subjects(find_cases(folder), task, patient_column=None, seed=1)
    subjects.victims.slices, subjects.victim_patient
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ppcmi.codec.slice_set import SliceSet, evenly_spaced, read_usable_cases
from ppcmi.data_folders import CaseFiles
from ppcmi.errors import AuditError
from ppcmi.task import Task

PATIENT_COLUMNS = ("patient", "subject", "subject_group", "exam")
"""Columns of split.csv that name a case's patient, the first that there is counts."""

SHARES = (0.3, 0.4, 0.3)
"""Of the patients: victims, outside, collected."""

FEWEST_PATIENTS = 6
SLICES_A_CASE = 32
HELD_OUT_FOLDS = ("test", "val")
"""Folds that codecs are not trained on unless somebody asks for it; attacked first, in this order."""

MOST_VALUES, FEWEST_SHARING = 10, 2
"""An attribute has at most so many values, each of so many patients at least; else it may name somebody."""


@dataclass(frozen=True, eq=False)
class Subjects:
    """Cases of patients that are in one part only; every case has labels.

    :param victim_patient, outside_patient, collected_patient: ``(cases,)`` int64; cases of one patient share a number.
    :param held_out: whether every victim is of a fold of :data:`HELD_OUT_FOLDS`.
    :param attributes: for A12, by name: a value of each of the victims' cases, then of those collected; '' is unknown.
    """

    victims: SliceSet
    outside: SliceSet
    collected: SliceSet
    victim_patient: Tensor
    outside_patient: Tensor
    collected_patient: Tensor
    held_out: bool = False
    attributes: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def cases(self) -> int:
        """How many cases they are of."""
        return self.victims.cases + self.outside.cases + self.collected.cases

    @property
    def patients(self) -> int:
        """How many patients they are of."""
        return len({*self.victim_patient.tolist(), *self.outside_patient.tolist(), *self.collected_patient.tolist()})

    @property
    def slice_patient(self) -> Tensor:
        """``(slices,)`` int64: the patient of each of the victims' slices, for intervals."""
        return self.victim_patient[self.victims.case]


def split_subjects(
    cases: SliceSet,
    patient: Sequence[str],
    seed: int,
    victims: int | None = None,
    *,
    folds: Sequence[str | None] = (),
    attributes: Mapping[str, Sequence[str]] | None = None,
) -> Subjects:
    """Split cases by patient at random.

    :param patient: the patient of each case, by any name.
    :param victims: how many patients are attacked; None takes their share of :data:`SHARES`.
    :param folds: of each case, if there are any: patients of :data:`HELD_OUT_FOLDS` are attacked first.
    :param attributes: by name, a value of each case.
    :raises AuditError: if cases have no labels, or there are too few patients.
    """
    if cases.labels is None:
        raise AuditError("A privacy check needs labelled cases: it sets what attackers see beside the Dice.")
    if len(patient) != cases.cases:
        raise ValueError("every case needs a patient")
    names = sorted(set(patient))
    if len(names) < FEWEST_PATIENTS:
        raise AuditError(f"A privacy check needs cases of at least {FEWEST_PATIENTS} patients; add some.")
    number = {name: index for index, name in enumerate(names)}
    of_case = torch.tensor([number[name] for name in patient])
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
    rank = _ranks(of_case, folds or [None] * cases.cases, len(names))
    order = order[torch.argsort(rank[order], stable=True)]
    attacked = max(2, round(SHARES[0] * len(names))) if victims is None else min(max(1, victims), len(names) - 4)
    outside = max(2, round(SHARES[1] / (SHARES[1] + SHARES[2]) * (len(names) - attacked)))
    parts = torch.tensor_split(order, (attacked, attacked + outside))
    chosen = [torch.nonzero(torch.isin(of_case, part))[:, 0] for part in parts]
    one, two, three = (cases.of_cases(part.tolist()) for part in chosen)
    whose = [of_case[part] for part in chosen]
    left = torch.cat((chosen[0], chosen[2])).tolist()
    return Subjects(
        one, two, three, whose[0], whose[1], whose[2],
        held_out=bool((rank[whose[0]] < len(HELD_OUT_FOLDS)).all()),
        attributes={name: [values[case] for case in left] for name, values in (attributes or {}).items()},
    )  # fmt: skip


def read_subjects(
    cases: Sequence[CaseFiles],
    task: Task,
    patient_column: str | None,
    seed: int,
    progress: Callable[[int], None] = lambda done: None,
    *,
    left_out: Callable[[str], None],
    slices_a_case: int = SLICES_A_CASE,
) -> Subjects:
    """Read a data folder's cases and split them by patient; a case that cannot be used is left out.

    :param patient_column: of split.csv; None takes the first of :data:`PATIENT_COLUMNS` that it has, and without any
        every case is a patient of its own.
    :param left_out: called with a sentence on each such case; see :func:`ppcmi.codec.slice_set.read_usable_cases`.
    :param slices_a_case: of a case with more, so many are taken, evenly spaced.
    :raises AuditError: if the column does not exist, cases have no labels, or there are too few patients.
    :raises CasesFailedError: if no case can be used.
    """
    patients_of(cases, patient_column)  # that the column exists is known before minutes of reading
    usable = read_usable_cases(cases, task, progress, left_out=left_out, slices_a_case=slices_a_case)
    return split_subjects(
        usable.slices,
        patients_of(usable.cases, patient_column),
        seed,
        folds=[case.fold for case in usable.cases],
        attributes=attributes_of(usable.cases, patient_column),
    )


def patients_of(cases: Sequence[CaseFiles], column: str | None) -> list[str]:
    """A name for the patient of each case, good for comparing only; a case without an entry is a patient of its own.

    :raises AuditError: if no case has the column.
    """
    columns = {key for case in cases for key in case.attributes}
    if column is not None and column not in columns:
        raise AuditError("The table split.csv has no column of the name given for patients; name one that it has.")
    chosen = column or next((name for name in PATIENT_COLUMNS if name in columns), None)
    entries = [case.attributes.get(chosen, "") if chosen else "" for case in cases]
    return [f"entry {entry}" if entry else f"case {index}" for index, entry in enumerate(entries)]


def attributes_of(cases: Sequence[CaseFiles], patient_column: str | None) -> dict[str, list[str]]:
    """Columns of split.csv that say something of patients and name none, with a value of each case; '' is unknown.

    Left out are those that name patients, and those with many values or with values that a single patient has.
    """
    patient, naming = patients_of(cases, patient_column), {*PATIENT_COLUMNS, patient_column}
    columns = dict.fromkeys(key for case in cases for key in case.attributes if key not in naming)
    found = {}
    for column in columns:
        values = [case.attributes.get(column, "") for case in cases]
        owners: dict[str, set[str]] = {}
        for value, owner in zip(values, patient, strict=True):
            if value:
                owners.setdefault(value, set()).add(owner)
        shared = all(len(whose) >= FEWEST_SHARING for whose in owners.values())
        if shared and 2 <= len(owners) <= MOST_VALUES:
            found[column] = values
    return found


def thin(cases: SliceSet, slices_a_case: int) -> SliceSet:
    """At most so many slices of each case, in order, by :func:`~ppcmi.codec.slice_set.evenly_spaced`."""
    of_case = [torch.nonzero(cases.case == case)[:, 0] for case in range(cases.cases)]
    index = torch.cat([own[evenly_spaced(len(own), slices_a_case)] for own in of_case])
    return SliceSet(cases.slices[index], None if cases.labels is None else cases.labels[index], cases.case[index])


def _ranks(of_case: Tensor, folds: Sequence[str | None], patients: int) -> Tensor:
    """``(patients,)`` int64: 0 and on for patients whose cases all are of held-out folds, the largest for others."""
    rank = [HELD_OUT_FOLDS.index(fold) if fold in HELD_OUT_FOLDS else len(HELD_OUT_FOLDS) for fold in folds]
    return torch.zeros(patients, dtype=torch.int64).scatter_reduce(0, of_case, torch.tensor(rank), "amax")

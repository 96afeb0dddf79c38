"""Slices of many cases in memory, as training wants them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ppcmi.data_folders import CaseFiles
from ppcmi.errors import CasesFailedError, GeometryError, ReadError, TrainingError
from ppcmi.files import cause_of
from ppcmi.reading import read_image
from ppcmi.slicing import slice_labels, slice_volume
from ppcmi.sources import only_source
from ppcmi.task import Task
from ppcmi.task_labels import read_labelled_case
from ppcmi.volume import Volume


@dataclass(frozen=True, eq=False)
class SliceSet:
    """Slices of some cases, in order.

    :param slices: ``(n, c, h, w)`` float32 in [0, 1].
    :param labels: ``(n, h, w)`` uint8; None if the cases have none.
    :param case: ``(n,)`` int64, 0 for the first case's slices, 1 for the second's, ...
    """

    slices: Tensor
    labels: Tensor | None
    case: Tensor

    def __len__(self) -> int:
        return len(self.slices)

    @property
    def cases(self) -> int:
        """Number of cases."""
        return int(self.case.max()) + 1 if len(self.case) else 0

    @property
    def known_labels(self) -> Tensor:
        """The labels.

        :raises TrainingError: if there are none.
        """
        if self.labels is None:
            raise TrainingError("These cases have no labels; add a segmentation to each.")
        return self.labels

    def of_cases(self, chosen: Sequence[int]) -> SliceSet:
        """Only some cases, numbered anew in the order given."""
        index = torch.cat([torch.nonzero(self.case == case)[:, 0] for case in chosen])
        case = torch.cat([torch.full_like(self.case[self.case == old], new) for new, old in enumerate(chosen)])
        return SliceSet(self.slices[index], None if self.labels is None else self.labels[index], case)

    def each_case(self) -> Iterator[SliceSet]:
        """One set for each case."""
        return (self.of_cases([case]) for case in range(self.cases))


def read_slice_set(
    cases: Sequence[CaseFiles], task: Task, progress: Callable[[int], None] = lambda done: None
) -> SliceSet:
    """Read and slice cases; with labels if every one of them has them.

    :param progress: called with the number of cases read.
    :raises ReadError: if there is no case, only some have labels, or one is of another modality than the task.
    """
    _require_alike(cases)
    read = []
    for done, case in enumerate(cases, start=1):
        read.append(_read_case(case, task))
        progress(done)
    return _one_set(read)


@dataclass(frozen=True, eq=False)
class UsableCases:
    """Those of a folder's cases that could be read, and their slices, in the same order."""

    cases: tuple[CaseFiles, ...]
    slices: SliceSet


def read_usable_cases(
    cases: Sequence[CaseFiles],
    task: Task,
    progress: Callable[[int], None] = lambda done: None,
    *,
    left_out: Callable[[str], None],
    slices_a_case: int | None = None,
) -> UsableCases:
    """As :func:`read_slice_set`, but a case that cannot be used is left out.

    :param slices_a_case: of a case with more, only so many are kept in memory, by :func:`evenly_spaced`.
    :param left_out: called with a sentence that names the case, and whether its image or its labels are the cause; for
        the site's eyes only.
    :raises ReadError: if there is no case, or only some have labels.
    :raises CasesFailedError: if none can be used.
    """
    _require_alike(cases)
    usable, read = [], []
    for done, case in enumerate(cases, start=1):
        try:
            read.append(_fewer(_read_case(case, task), slices_a_case))
        except (ReadError, GeometryError, OSError) as error:
            reason = f"The file cannot be read: {cause_of(error)}." if isinstance(error, OSError) else str(error)
            left_out(f"left out {case.name}, as its {_part_at_fault(case, task)} cannot be used: {reason}")
        else:
            usable.append(case)
        progress(done)
    if not usable:
        raise CasesFailedError("None of the chosen cases can be used.")
    return UsableCases(tuple(usable), _one_set(read))


def evenly_spaced(count: int, most: int) -> Tensor:
    """Indices of at most so many of ``count`` slices: the middles of equal parts, for a case's ends show little."""
    taken = min(count, most)
    return ((torch.arange(taken) + 0.5) * count / taken).long()


def _fewer(read: tuple[Tensor, Tensor | None], most: int | None) -> tuple[Tensor, Tensor | None]:
    stack, labels = read
    if most is None or len(stack) <= most:
        return read
    index = evenly_spaced(len(stack), most)
    return stack[index], None if labels is None else labels[index]


def _require_alike(cases: Sequence[CaseFiles]) -> None:
    if not cases:
        raise ReadError("No case was found; expected a folder with images/ and, for training, labels/.")
    labelled = [case.label is not None for case in cases]
    if any(labelled) and not all(labelled):
        raise ReadError("Some cases have labels and some have none; keep them in separate folders.")


def _read_case(case: CaseFiles, task: Task) -> tuple[Tensor, Tensor | None]:
    """A case's slices, and their labels if it has any."""
    if case.label is None:
        return torch.from_numpy(slice_volume(_read_image(case, task), task)[0]), None
    image, known = read_labelled_case(case, task)
    stack, grid = slice_volume(image, task)
    return torch.from_numpy(stack), torch.from_numpy(slice_labels(known, grid, task))


def _read_image(case: CaseFiles, task: Task) -> Volume:
    read = read_image(only_source(case.image))
    task.require_modality(read.modality)
    return read.volume


def _part_at_fault(case: CaseFiles, task: Task) -> str:
    """What of a case that cannot be used is the cause: what is wrong with an image is wrong without labels, too."""
    try:
        slice_volume(_read_image(case, task), task)
    except (ReadError, GeometryError, OSError):
        return "image"
    return "labels"


def _one_set(read: Sequence[tuple[Tensor, Tensor | None]]) -> SliceSet:
    labels = [known for _, known in read if known is not None]
    number = torch.from_numpy(np.repeat(np.arange(len(read)), [len(stack) for stack, _ in read]))
    return SliceSet(torch.cat([stack for stack, _ in read]), torch.cat(labels) if labels else None, number)


def join(first: SliceSet, second: SliceSet) -> SliceSet:
    """Both sets' cases, the second's numbered on; labels are kept if both have them."""
    both = first.labels is not None and second.labels is not None
    return SliceSet(
        torch.cat((first.slices, second.slices)),
        torch.cat((first.known_labels, second.known_labels)) if both else None,
        torch.cat((first.case, second.case + first.cases)),
    )


def hold_out(cases: SliceSet, share: float, generator: torch.Generator) -> tuple[SliceSet, SliceSet]:
    """Set apart a share of the cases, at least one.

    :returns: the cases to train on and the held-out ones.
    :raises TrainingError: if there are fewer than two cases.
    """
    if cases.cases < 2:
        raise TrainingError("Training needs at least two labelled cases: one to learn from and one to be judged on.")
    order = torch.randperm(cases.cases, generator=generator).tolist()
    count = max(1, round(share * cases.cases))
    return cases.of_cases(sorted(order[count:])), cases.of_cases(sorted(order[:count]))

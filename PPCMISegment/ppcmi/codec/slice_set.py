"""Slices of many cases in memory, as training wants them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ppcmi.data_folders import CaseFiles
from ppcmi.errors import ReadError, TrainingError
from ppcmi.reading import read_image
from ppcmi.slicing import slice_labels, slice_volume
from ppcmi.sources import only_source
from ppcmi.task import Task
from ppcmi.task_labels import read_labelled_case


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
    if not cases:
        raise ReadError("No case was found; expected a folder with images/ and, for training, labels/.")
    labelled = [case.label is not None for case in cases]
    if any(labelled) and not all(labelled):
        raise ReadError("Some cases have labels and some have none; keep them in separate folders.")
    slices, labels, counts = [], [], []
    for done, case in enumerate(cases, start=1):
        if case.label is None:
            read = read_image(only_source(case.image))
            task.require_modality(read.modality)
            image = read.volume
        else:
            image, known = read_labelled_case(case, task)
        stack, grid = slice_volume(image, task)
        slices.append(torch.from_numpy(stack))
        counts.append(len(stack))
        if case.label is not None:
            labels.append(torch.from_numpy(slice_labels(known, grid, task)))
        progress(done)
    number = torch.from_numpy(np.repeat(np.arange(len(cases)), counts))
    return SliceSet(torch.cat(slices), torch.cat(labels) if labels else None, number)


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

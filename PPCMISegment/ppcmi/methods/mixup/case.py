"""A case under Mixup-Privacy: an item is a patch mixed with one reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppcmi.codec.slice_set import SliceSet
from ppcmi.latents import Latents
from ppcmi.methods.mixup.mixing import (
    Mixture,
    draw_shares,
    latents_to_soft,
    mix,
    one_hot,
    soft_to_latents,
    unmix_naively,
)
from ppcmi.methods.mixup.patches import Box, PatchGrid
from ppcmi.methods.mixup.references import References, no_references
from ppcmi.methods.mixup.unmixing import UnmixingNetwork, unmix
from ppcmi.methods.shapes import REFERENCES_A_PATCH
from ppcmi.scales import Stream
from ppcmi.slicing import VolumeSlices, labels_in_plane, restore_probabilities
from ppcmi.task import Task
from ppcmi.volume import Volume


@dataclass(frozen=True, eq=False)
class Unmixing:
    """What a site takes a server's answers apart with.

    :param network: the learned unmixing, or None: the naive one.
    :param times: references that each patch is mixed with, one after the other.
    """

    references: References
    network: UnmixingNetwork | None
    times: int = REFERENCES_A_PATCH

    def apply(self, answer: Tensor, references: Tensor, share: Tensor) -> Tensor:
        """Soft answers ``(n, K, s, s, s)`` to probabilities of the targets' classes."""
        known = one_hot(references, answer.shape[1])
        if self.network is None:
            return unmix_naively(answer, known, share)
        return unmix(self.network, answer, known, share)


class PatchCase:
    """A volume that is segmented by mixed patches; a :class:`~ppcmi.methods.method.CaseAtWork`.

    :raises SiteError: if there are no references of another case.
    """

    def __init__(
        self, volume: Volume, task: Task, unmixing: Unmixing, generator: torch.Generator, *, with_probabilities: bool
    ) -> None:
        self._volume, self._unmixing, self._with_probabilities = volume, unmixing, with_probabilities
        slices = VolumeSlices(volume, task)
        self._grid = slices.grid
        stack = middle_channel(torch.from_numpy(slices[:]))
        self._patches = PatchGrid.over(as_shape(stack), task.patch, box_of(stack))
        self._mixture = mixed_with_several(self._patches.cut(stack), unmixing.references, unmixing.times, generator)
        self._times = len(self._mixture.share) // len(self._patches)
        self._found = torch.zeros(len(self._patches), task.classes, *(task.patch,) * 3)

    def __len__(self) -> int:
        return len(self._mixture.share)

    def protect(self, where: slice) -> Latents:
        """Mixtures."""
        return Latents({"x": self._mixture.pictures[where]})

    def recover(self, answer: Latents, where: slice) -> None:
        """Unmix, and add to what was found for each patch."""
        soft = latents_to_soft(answer["y"].float().cpu())
        found = self._unmixing.apply(soft, self._mixture.references[where], self._mixture.share[where])
        self._found.index_add_(0, torch.arange(where.start, where.stop) // self._times, found)

    def finish(self) -> tuple[Volume, NDArray[np.float32] | None]:
        """Labels, and probabilities if they were asked for."""
        probabilities = self._patches.blend(self._found / self._times).numpy()
        labels = Volume(self._grid.to_voxels(labels_in_plane(probabilities, self._grid)), self._volume.geometry)
        return labels, restore_probabilities(probabilities, self._grid) if self._with_probabilities else None


class LabelledPatches:
    """A labelled case that is exported as mixed patches; a :class:`~ppcmi.methods.method.LabelledCase`.

    Each variant is another mixture of the same patches. None is mixed with a patch of its own case, as that would put
    two places of one patient over each other and hide nobody.

    :raises SiteError: if there are no references of another case.
    """

    def __init__(self, pictures: Tensor, labels: Tensor, task: Task, references: References, seed: int) -> None:
        self._pictures, self._labels, self._references = pictures, labels, _of_others(references, pictures)
        self._classes, self._seed = task.classes, seed

    def __len__(self) -> int:
        return len(self._pictures)

    def protect(self, where: slice, variant: int) -> dict[Stream, Latents]:
        """Mixed pictures and mixed segmentations."""
        generator = torch.Generator().manual_seed(self._seed * 1009 + variant * 65_537 + where.start)
        targets = self._pictures[where]
        chosen = draw_references(len(targets), self._references, 1, generator)[:, 0]
        share = draw_shares(len(targets), generator)
        soft = mix(
            one_hot(self._labels[where], self._classes), one_hot(self._references.labels[chosen], self._classes), share
        )
        pictures = mix(targets, self._references.pictures[chosen], share)
        return {Stream.IMAGE: Latents({"x": pictures}), Stream.MASK: Latents({"y": soft_to_latents(soft)})}


def labelled_patches(cases: SliceSet, task: Task) -> list[tuple[Tensor, Tensor]]:
    """Pictures and labels ``(n, s, s, s)`` of each case's patches."""
    found = []
    for case in cases.each_case():
        stack = middle_channel(case.slices)
        grid = PatchGrid.over(as_shape(stack), task.patch, box_of(stack))
        found.append((grid.cut(stack), grid.cut(case.known_labels)))
    return found


def mixed_with_several(targets: Tensor, references: References, times: int, generator: torch.Generator) -> Mixture:
    """Every target mixed with ``times`` references, one after the other, of cases that none of the targets is of.

    :raises SiteError: if there are none.
    """
    references = _of_others(references, targets)
    chosen = draw_references(len(targets), references, times, generator)
    share = draw_shares(chosen.numel(), generator)
    again = targets.repeat_interleave(chosen.shape[1], dim=0)
    flat = chosen.flatten()
    return Mixture(mix(again, references.pictures[flat], share), references.labels[flat], share)


def draw_references(targets: int, references: References, times: int, generator: torch.Generator) -> Tensor:
    """Indices ``(targets, times)`` of references for each target, all different.

    There are fewer than ``times`` where there are not enough references.
    """
    order = torch.stack([torch.randperm(len(references), generator=generator) for _ in range(targets)])
    return order[:, :times]


def middle_channel(slices: Tensor) -> Tensor:
    """Slices ``(n, c, h, w)`` without their neighbors, ``(n, h, w)``."""
    return slices[:, slices.shape[1] // 2].contiguous()


def box_of(stack: Tensor) -> Box:
    """Where a stack is not zero: beyond the field of view there is nothing to send."""
    rows, columns = torch.nonzero(stack.amax(dim=(0, 2)) > 0)[:, 0], torch.nonzero(stack.amax(dim=(0, 1)) > 0)[:, 0]
    if not len(rows):
        return slice(0, len(stack)), slice(0, stack.shape[1]), slice(0, stack.shape[2])
    return slice(0, len(stack)), slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def as_shape(stack: Tensor) -> tuple[int, int, int]:
    """The shape of a stack."""
    slices, rows, columns = stack.shape
    return slices, rows, columns


def _of_others(references: References, pictures: Tensor) -> References:
    found = references.of_others(pictures)
    if not len(found):
        raise no_references()
    return found

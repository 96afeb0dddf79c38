"""Cubic patches of a stack of slices, and predictions on patches back to slices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ppcmi.methods.shapes import patch_starts

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class PatchGrid:
    """Where patches lie in a stack ``(slice, row, column)``.

    :param shape: of the stack.
    :param size: voxels a side of a patch; a stack that is smaller counts as continued with zeros.
    :param starts: first slice, row and column of each patch.
    """

    shape: tuple[int, int, int]
    size: int
    starts: tuple[tuple[int, int, int], ...]

    @classmethod
    def over(cls, shape: tuple[int, int, int], size: int, box: Box | None = None) -> PatchGrid:
        """Patches that overlap by half and cover ``box``, or the whole stack."""
        ranges = [slice(0, count) for count in shape] if box is None else box
        along = [patch_starts(one.start, one.stop, count, size) for one, count in zip(ranges, shape, strict=True)]
        return cls(shape, size, tuple((k, r, c) for k in along[0] for r in along[1] for c in along[2]))

    def __len__(self) -> int:
        return len(self.starts)

    def cut(self, stack: Tensor) -> Tensor:
        """Patches ``(n, size, size, size)`` of a stack."""
        grown = F.pad(stack, [pad for count in reversed(self.shape) for pad in (0, max(0, self.size - count))])
        return torch.stack([grown[place] for place in self._places()])

    def blend(self, patches: Tensor) -> Tensor:
        """Predictions ``(n, K, size, size, size)`` averaged over patches to ``(slice, K, row, column)``.

        A patch counts most in its middle. Where no patch lies class 0 is 1.
        """
        classes = patches.shape[1]
        grown = [max(self.size, count) for count in self.shape]
        total, weight = torch.zeros(classes, *grown), torch.zeros(grown)
        hill = _hill(self.size)
        for place, patch in zip(self._places(), patches, strict=True):
            total[(slice(None), *place)] += patch * hill
            weight[place] += hill
        total[0][weight == 0] = 1.0
        mean = total / weight.clamp_min(1e-6)
        mean[:, weight == 0] = total[:, weight == 0]
        slices, rows, columns = self.shape
        return mean[:, :slices, :rows, :columns].transpose(0, 1).contiguous()

    def _places(self) -> Iterator[Box]:
        for k, r, c in self.starts:
            yield slice(k, k + self.size), slice(r, r + self.size), slice(c, c + self.size)


def _hill(size: int) -> Tensor:
    """Weights of a patch's voxels: a product of sines, never zero."""
    line = torch.sin((torch.arange(size) + 0.5) * torch.pi / size) + 1e-3
    return line[:, None, None] * line[:, None] * line

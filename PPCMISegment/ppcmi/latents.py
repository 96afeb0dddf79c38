"""Latents: the scales of a stack of slices as tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ppcmi.scales import PATCH_SCALES, SCALES, Profile, Shape, Shapes

_NAMES = (*SCALES, *PATCH_SCALES)


@dataclass(frozen=True)
class Latents:
    """Float tensors ``(slice, channel, row, column)`` by scale name, finest scale first, all with the same slices.

    Example::

        coarse = latents.of(Profile.COARSE)
        half = latents.map(lambda scale, values: values.half())
    """

    scales: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        if not self.scales or any(name not in _NAMES for name in self.scales):
            raise ValueError(f"latents need scales among {_NAMES}, got {tuple(self.scales)}")
        if len({len(values) for values in self.scales.values()}) != 1:
            raise ValueError("every scale needs the same number of slices")
        object.__setattr__(self, "scales", {s: self.scales[s] for s in _NAMES if s in self.scales})

    def __len__(self) -> int:
        return len(next(iter(self.scales.values())))

    def __getitem__(self, scale: str) -> Tensor:
        return self.scales[scale]

    def __iter__(self) -> Iterator[str]:
        return iter(self.scales)

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """Scale names and values, finest first."""
        return iter(self.scales.items())

    @property
    def shapes(self) -> dict[str, Shape]:
        """Channels, rows and columns of each scale."""
        return {s: (v.shape[1], v.shape[2], v.shape[3]) for s, v in self.scales.items()}

    @property
    def finite(self) -> bool:
        """Whether every value is a finite number."""
        return all(is_finite(values) for values in self.scales.values())

    def of(self, profile: Profile) -> Latents:
        """Only the scales that leave the site under ``profile``; a scale that is absent is a ``KeyError``."""
        return self.only(profile.scales)

    def only(self, scales: Sequence[str]) -> Latents:
        """Some of the scales; one that is absent is a ``KeyError``."""
        return Latents({s: self.scales[s] for s in scales})

    def widened(self, shapes: Shapes) -> Latents:
        """With channels of zeros up to those of ``shapes``; what is wide enough stays as it is.

        :raises ValueError: if there are more channels than that.
        """
        missing = {s: shapes[s][0] - v.shape[1] for s, v in self.scales.items()}
        if min(missing.values()) < 0:
            raise ValueError("the latents have too many channels")
        return self.map(lambda s, v: F.pad(v, (0, 0, 0, 0, 0, missing[s])) if missing[s] else v)

    def map(self, function: Callable[[str, Tensor], Tensor]) -> Latents:
        """The same scales with ``function(scale, values)`` in place of the values."""
        return Latents({s: function(s, v) for s, v in self.scales.items()})

    def select(self, index: slice | Tensor) -> Latents:
        """Some of the slices."""
        return self.map(lambda _, values: values[index])

    def to(self, device: torch.device | str) -> Latents:
        """The same latents on another device."""
        return self.map(lambda _, values: values.to(device))


def concatenate(parts: Sequence[Latents]) -> Latents:
    """Latents of several stacks as one stack of slices, in order; of a single part the same memory."""
    return Latents({s: joined([part[s] for part in parts]) for s in parts[0]})


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Tensors one after the other along their first axis; a single one as it is, which ``torch.cat`` would copy."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def is_finite(values: Tensor) -> bool:
    """Whether every one of some values, at least one, is a finite number."""
    smallest, largest = torch.aminmax(values)  # both are NaN if a value is; a seventh of the time of torch.isfinite
    return bool(torch.isfinite(smallest) & torch.isfinite(largest))

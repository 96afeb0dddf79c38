"""Latents: the three scales of a stack of slices, and which of them leave the site.

For slices of ``h x w`` pixels ``s3`` is ``(n, 64, h/8, w/8)``, ``s4`` is ``(n, 128, h/16, w/16)`` and ``b`` is
``(n, 256, h/32, w/32)`` (PAPER: 114,688 values for a 256 x 256 slice). A privacy profile names the scales that leave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

SCALES = ("s3", "s4", "b")
"""Names of the scales, finest first."""

SCALE_CHANNELS: Mapping[str, int] = {"s3": 64, "s4": 128, "b": 256}
SCALE_STRIDES: Mapping[str, int] = {"s3": 8, "s4": 16, "b": 32}

Shape = tuple[int, int, int]
"""Channels, rows and columns of one scale of one slice."""


class Stream(StrEnum):
    """What latents describe; image and mask latents never share a transform."""

    IMAGE = "image"
    MASK = "mask"


class Profile(StrEnum):
    """Privacy profile: which scales leave the site (DESIGN, What protects what)."""

    PAPER = "paper"
    FULL = "full"
    COARSE = "coarse"
    MINIMAL = "minimal"

    @property
    def scales(self) -> tuple[str, ...]:
        """Names of the scales that leave, finest first."""
        return {Profile.COARSE: ("s4", "b"), Profile.MINIMAL: ("b",)}.get(self, SCALES)


def scale_shapes(slice_size: Sequence[int], scales: Sequence[str] = SCALES) -> dict[str, Shape]:
    """Shape of each scale for slices of ``slice_size = (rows, columns)``, both multiples of 32."""
    rows, columns = slice_size
    return {s: (SCALE_CHANNELS[s], rows // SCALE_STRIDES[s], columns // SCALE_STRIDES[s]) for s in scales}


@dataclass(frozen=True)
class Latents:
    """Float tensors ``(slice, channel, row, column)`` by scale name, finest scale first, all with the same slices.

    Example::

        coarse = latents.of(Profile.COARSE)
        half = latents.map(lambda scale, values: values.half())
    """

    scales: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        if not self.scales or any(name not in SCALES for name in self.scales):
            raise ValueError(f"latents need scales among {SCALES}, got {tuple(self.scales)}")
        if len({len(values) for values in self.scales.values()}) != 1:
            raise ValueError("every scale needs the same number of slices")
        object.__setattr__(self, "scales", {s: self.scales[s] for s in SCALES if s in self.scales})

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

    def of(self, profile: Profile) -> Latents:
        """Only the scales that leave the site under ``profile``; a scale that is absent is a ``KeyError``."""
        return Latents({s: self.scales[s] for s in profile.scales})

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
    """Latents of several stacks as one stack of slices, in order."""
    return Latents({s: torch.cat([part[s] for part in parts]) for s in parts[0]})

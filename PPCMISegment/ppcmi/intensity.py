"""Intensity rule of a task: voxels of any real dtype to float32 in [0, 1], over the whole volume at once.

A CT window is the task's own; percentiles are the volume's, so that MR and ultrasound scales, which differ by orders of
magnitude between scanners, end up alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppcmi.errors import ReadError
from ppcmi.task import Percentiles, Window

COUNTED_AT_ONCE = 1 << 20
"""Voxels; their numbers take eight bytes each meanwhile."""


def normalize(voxels: NDArray[Any], rule: Window | Percentiles) -> NDArray[np.float32]:
    """Voxels of any shape by ``rule`` to [0, 1], clipped; a constant volume gives zeros under percentiles.

    :raises ReadError: if a voxel is not a finite number.
    """
    return intensity_range(voxels, rule).scale(voxels)


@dataclass(frozen=True)
class IntensityRange:
    """What becomes 0 and what becomes 1; where both are the same, everything becomes 0."""

    lower: float
    upper: float

    def scale(self, voxels: NDArray[Any]) -> NDArray[np.float32]:
        """Voxels of any shape, or a part of them, to [0, 1], clipped."""
        scaled = np.empty(voxels.shape, dtype=np.float32)
        self.scale_into(scaled, voxels)
        return scaled

    def scale_into(self, target: NDArray[np.float32], voxels: NDArray[Any]) -> None:
        """:meth:`scale` to an array of the same shape; one that is used again takes a fifth of a new one's time."""
        if self.lower == self.upper:
            target[...] = 0.0
            return
        precision = np.result_type(voxels.dtype, np.float32)  # float32 holds int16 exactly, int32 needs float64
        scaled: NDArray[Any] = target if precision == np.float32 else np.empty(voxels.shape, dtype=precision)
        scaled[...] = voxels
        scaled -= np.asarray(self.lower, dtype=precision)
        scaled /= self.upper - self.lower
        np.clip(scaled, 0.0, 1.0, out=target)


def intensity_range(voxels: NDArray[Any], rule: Window | Percentiles) -> IntensityRange:
    """The range that ``rule`` says, for a whole volume.

    Where both percentiles are the same value though the volume is not constant (a small bright thing on nothing),
    minimum and maximum take their place.

    :raises ReadError: if a voxel is not a finite number.
    """
    require_finite(voxels)
    if isinstance(rule, Window):
        return IntensityRange(rule.lower, rule.upper)
    lower, upper = _percentiles(voxels, (rule.lower, rule.upper))
    if lower == upper:
        lower, upper = float(voxels.min()), float(voxels.max())
    return IntensityRange(lower, upper)


def _percentiles(voxels: NDArray[Any], percents: tuple[float, float]) -> tuple[float, ...]:
    """NumPy's percentiles (linear); of short integers by counting, which needs no second volume in memory."""
    if voxels.dtype.kind not in "iu" or voxels.dtype.itemsize > 2:
        return tuple(float(value) for value in np.percentile(voxels, percents))
    first = int(np.iinfo(voxels.dtype).min)
    counts = np.zeros(1 << (8 * voxels.dtype.itemsize), dtype=np.int64)
    flat = voxels.ravel(order="K")
    for start in range(0, flat.size, COUNTED_AT_ONCE):
        part = flat[start : start + COUNTED_AT_ONCE].astype(np.int64)
        part -= first
        counts += np.bincount(part, minlength=len(counts))
    up_to = np.cumsum(counts)

    def at(rank: int) -> float:
        return float(first + int(np.searchsorted(up_to, rank, side="right")))

    values = []
    for percent in percents:
        rank = percent / 100 * (flat.size - 1)
        below = int(rank)
        lower, upper = at(below), at(min(below + 1, flat.size - 1))
        values.append(lower + (upper - lower) * (rank - below))
    return tuple(values)


def require_finite(voxels: NDArray[Any]) -> None:
    """Check that every voxel is a finite real number.

    :raises ReadError: if one is not.
    """
    if not np.issubdtype(voxels.dtype, np.integer) and not np.isfinite(voxels).all():
        raise ReadError("The image has voxels that are no numbers (NaN or infinite); repair it at its source.")

"""Intensity rule of a task: voxels of any real dtype to float32 in [0, 1], over the whole volume at once.

A CT window is the task's own; percentiles are the volume's, so that MR and ultrasound scales, which differ by orders of
magnitude between scanners, end up alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppcmi.errors import ReadError
from ppcmi.task import Percentiles, Window


def normalize(voxels: NDArray[Any], rule: Window | Percentiles) -> NDArray[np.float32]:
    """Voxels of any shape by ``rule`` to [0, 1], clipped; a constant volume gives zeros under percentiles.

    Where both percentiles are the same value though the volume is not constant (a small bright thing on nothing),
    minimum and maximum take their place.

    :raises ReadError: if a voxel is not a finite number.
    """
    require_finite(voxels)
    if isinstance(rule, Window):
        lower, upper = rule.lower, rule.upper
    else:
        lower, upper = (float(value) for value in np.percentile(voxels, (rule.lower, rule.upper)))
        if lower == upper:
            lower, upper = float(voxels.min()), float(voxels.max())
        if lower == upper:
            return np.zeros(voxels.shape, dtype=np.float32)
    precision = np.result_type(voxels.dtype, np.float32)  # float32 holds int16 exactly, int32 needs float64
    scaled: NDArray[Any] = np.subtract(voxels, np.asarray(lower, dtype=precision), dtype=precision)
    scaled /= upper - lower
    np.clip(scaled, 0.0, 1.0, out=scaled)
    return scaled.astype(np.float32, copy=False)


def require_finite(voxels: NDArray[Any]) -> None:
    """Check that every voxel is a finite real number.

    :raises ReadError: if one is not.
    """
    if not np.issubdtype(voxels.dtype, np.integer) and not np.isfinite(voxels).all():
        raise ReadError("The image has voxels that are no numbers (NaN or infinite); repair it at its source.")

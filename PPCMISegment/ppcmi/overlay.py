"""Pictures of a segmentation: slices in gray with the structures' outlines in the task's colors.

Slices are shown as radiologists look at them (:func:`ppcmi.slicing.head_up`), in their physical proportions.
"""

from __future__ import annotations

from math import ceil

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, maximum_filter, zoom

from ppcmi.intensity import normalize
from ppcmi.slicing import head_up, slice_grid
from ppcmi.task import Task
from ppcmi.volume import Volume

OUTLINE = 1 / 130
"""Width of an outline to the picture's longer side; it is at least two pixels."""

Picture = NDArray[np.uint8]


def overlay_of(volume: Volume, labels: Volume, task: Task, side: int = 400) -> Picture:
    """The slice with the most of the task's structures, RGB ``(h, w, 3)``, its longer side of ``side`` pixels.

    Where no structure was found it is the middle slice, without outlines.

    :param labels: on the grid of ``volume``.
    """
    grid = slice_grid(volume.geometry, task.slicing)
    found = grid.from_voxels(labels.voxels)
    counts = np.count_nonzero(found, axis=(1, 2))
    index = int(counts.argmax()) if counts.any() else len(found) // 2
    gray = head_up(grid.from_voxels(normalize(volume.voxels, task.intensity))[index], task.slicing)
    down, across = (float(volume.geometry.spacing_mm[2 - axis]) for axis in grid.axes[1:])
    shown = head_up(found[index], task.slicing)
    return outlined(gray, shown, task, fit((gray.shape[0] * down, gray.shape[1] * across), side))


def outlined(gray: NDArray[np.float32], labels: NDArray[np.uint8], task: Task, size: tuple[int, int]) -> Picture:
    """A slice ``(h, w)`` in 0..1 and the outlines of its ``labels`` ``(h, w)``: RGB of ``size`` rows and columns."""
    smooth = np.clip(_resized(gray, size), 0, 1)
    pixels = np.repeat(np.rint(smooth * 255).astype(np.uint8)[..., None], 3, axis=2)
    # Where the picture is smaller than the slice, structures grow by what would fall between its pixels.
    reach = [max(1, ceil(given / wanted)) for wanted, given in zip(size, gray.shape, strict=True)]
    width = max(2, int(max(size) * OUTLINE))
    for label in task.labels:
        mask = _resized(maximum_filter(labels == label.value, size=reach), size) >= 0.5
        pixels[mask & ~binary_erosion(mask, iterations=width, border_value=1)] = label.color
    return pixels


def fit(size: tuple[float, float], side: int) -> tuple[int, int]:
    """Rows and columns in the proportions of ``size``, the larger of them ``side``."""
    factor = side / max(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _resized(values: NDArray[np.generic], size: tuple[int, int]) -> NDArray[np.float32]:
    factors = [wanted / given for wanted, given in zip(size, values.shape, strict=True)]
    resized: NDArray[np.float32] = zoom(values.astype(np.float32), factors, order=1, mode="nearest", grid_mode=True)
    return resized

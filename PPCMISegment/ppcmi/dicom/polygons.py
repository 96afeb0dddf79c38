"""Pixels inside closed contours: those whose center a contour encloses an odd number of times.

So a contour within another is a hole, and a keyhole, which runs in and out on one line, is one as well. Rules at
borders are half-open: of two areas with a common border each pixel belongs to exactly one.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def inside(contours: Iterable[NDArray[np.float64]], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels ``(rows, columns)`` inside contours.

    :param contours: each ``(n, 2)`` of columns and rows, in pixels, the center of the first pixel at 0.
    """
    crossings = np.zeros((shape[0], shape[1] + 1), dtype=np.int64)
    for contour in contours:
        _count_crossings(contour, crossings)
    odd: NDArray[np.bool_] = np.cumsum(crossings, axis=1)[:, :-1] % 2 == 1
    return odd


def _count_crossings(contour: NDArray[np.float64], crossings: NDArray[np.int64]) -> None:
    """Add 1 at the first pixel of a row that lies behind an edge, for each edge and each row that it crosses."""
    x0, y0 = contour.T
    x1, y1 = np.roll(contour, -1, axis=0).T
    rows, columns = crossings.shape
    first = np.ceil(np.minimum(y0, y1)).clip(0, rows).astype(np.int64)  # an edge has its upper end, not its lower one
    behind = np.ceil(np.maximum(y0, y1)).clip(0, rows).astype(np.int64)
    times = behind - first
    edge = np.repeat(np.arange(len(contour)), times)
    row = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(times) - times, times)
    slope = (x1[edge] - x0[edge]) / (y1[edge] - y0[edge])  # a level edge crosses no row
    x = x0[edge] + (row - y0[edge]) * slope
    np.add.at(crossings, (row, np.ceil(x).clip(0, columns - 1).astype(np.int64)), 1)

"""Slices that are no regular grid (a tilted gantry, uneven gaps) onto one, and results back onto the slices.

The slices are parallel and of one size; each lies somewhere along their normal, and is perhaps shifted sideways. The
regular grid has their pixels' size and directions, its third axis is the normal, and it covers all of them. Its gap is
the smallest of the slices', made a little smaller so that the first and the last slice lie on it, unless that made
more than :data:`FINEST` times as many slices as there were. Values are interpolated linearly, in plane and between the
two slices nearest along the normal, so that a linear function of space stays what it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppcmi.dicom.frames import DicomFrame, plane_geometry
from ppcmi.errors import GeometryError
from ppcmi.volume import Geometry, Volume

FINEST = 8
"""Most slices of the regular grid for each slice that was acquired."""

ON_A_PIXEL = 1e-3
"""Distance from a pixel or slice, as a part of it, below which nothing is interpolated; headers round positions."""

STRAIGHT = 0.01
"""Largest sideways shift from slice to slice of a regular grid, as a part of the gap (0.6 degrees)."""

ROUNDED, ROUNDED_MM, DISPLACED = 0.02, 0.06, 0.1
"""How far a slice may be from its place in a regular grid: this part of the gap or pixel, and this many millimetres
even if that is more, as positions are rounded, but never more than the last part of the gap or pixel."""


@dataclass(frozen=True, eq=False)
class Acquisition:
    """How slices lie in the regular grid that they were resampled to.

    :param slices: each slice's own place, shape ``(1, rows, columns)``.
    :param regular: the grid; its axes are parallel to the slices'.
    """

    slices: tuple[Geometry, ...]
    regular: Geometry

    @classmethod
    def of(cls, frames: tuple[DicomFrame, ...], shape: tuple[int, int]) -> Acquisition:
        """The regular grid for parallel frames of ``shape`` (rows, columns) in the order of their places.

        :raises GeometryError: if frames are shifted sideways by more than their own width.
        """
        first, normal = frames[0], frames[0].normal
        away = np.array([frame.position - first.position for frame in frames])
        heights = away @ normal
        extent, gap = float(heights[-1]), float(np.diff(heights).min())
        count = 1 + min(int(np.ceil(extent / gap - ON_A_PIXEL)), FINEST * len(frames))
        low, high = [], []
        for axis, size in ((0, shape[1]), (1, shape[0])):  # i, then j
            shifts = away @ first.directions[axis] / first.spacing_mm[1 - axis]
            low.append(int(np.floor(shifts.min() + ON_A_PIXEL)))
            high.append(int(np.ceil(shifts.max() - ON_A_PIXEL)))
            if high[-1] - low[-1] > size:
                raise GeometryError("The DICOM series' slices do not lie above each other; choose another series.")
        grid = (shape[0] + high[1] - low[1], shape[1] + high[0] - low[0])
        corner = plane_geometry(first, grid, normal * extent / (count - 1), count)
        matrix = np.array(corner.ijk_to_ras)
        matrix[:3, 3] += matrix[:3, 0] * low[0] + matrix[:3, 1] * low[1]
        planes = tuple(plane_geometry(frame, shape, normal) for frame in frames)
        return cls(planes, Geometry(corner.shape, matrix))

    def regular_volume(self, voxels: NDArray[Any]) -> Volume:
        """Voxels ``(n, rows, columns)`` of the slices on the regular grid, float32.

        Where no slice is, the volume has its smallest value.
        """
        places = self._places()
        count, rows, columns = self.regular.shape
        regular = np.full(self.regular.shape, voxels.min(), dtype=np.float32)
        for k in range(count):
            above = int(np.searchsorted(places[:, 2], k - ON_A_PIXEL).clip(0, len(places) - 1))
            total = np.zeros((rows, columns), dtype=np.float32)
            weights = np.zeros((rows, columns), dtype=np.float32)
            for index, weight in _neighbors(places[:, 2], k, above):
                i, j, _ = places[index]
                inside = np.outer(_covered(rows, j, voxels.shape[1]), _covered(columns, i, voxels.shape[2]))
                values = _shifted(_shifted(voxels[index].astype(np.float32), -j, rows, 0), -i, columns, 1)
                total += np.float32(weight) * np.where(inside, values, 0)
                weights += np.float32(weight) * inside
            np.divide(total, weights, out=regular[k], where=weights > 0)
        return Volume(regular, self.regular)

    def labels_on_slices(self, probabilities: NDArray[np.float32]) -> NDArray[np.uint8]:
        """The most probable label, uint8 ``(n, rows, columns)``, at each slice's own pixels.

        :param probabilities: ``(K, k, j, i)`` on the regular grid; they are interpolated, not labels.
        """
        return np.stack([found.argmax(axis=0).astype(np.uint8) for found in self._on_slices(probabilities)])

    def probabilities_on_slices(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities ``(K, n, rows, columns)`` at the slices' own pixels, from those on the regular grid."""
        return np.stack(list(self._on_slices(probabilities)), axis=1)

    def _on_slices(self, probabilities: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        if probabilities.shape[1:] != self.regular.shape:
            raise ValueError(f"probabilities of shape {probabilities.shape} for a grid of shape {self.regular.shape}")
        _, rows, columns = self.slices[0].shape
        for i, j, k in self._places():
            below = int(np.floor(k + ON_A_PIXEL))
            share = k - below
            plane = probabilities[:, below]
            if share > ON_A_PIXEL:
                plane = np.float32(1 - share) * plane + np.float32(share) * probabilities[:, below + 1]
            yield _shifted(_shifted(plane, j, rows, 1), i, columns, 2)

    def _places(self) -> NDArray[np.float64]:
        """``(n, 3)``: grid coordinates ``(i, j, k)`` of each slice's first pixel."""
        ras_to_grid = np.linalg.inv(self.regular.ijk_to_ras)
        return np.array([(ras_to_grid @ plane.ijk_to_ras)[:3, 3] for plane in self.slices])


def is_regular(frames: tuple[DicomFrame, ...]) -> bool:
    """Whether parallel frames lie straight above each other and evenly, but for rounding."""
    if len(frames) < 2:
        return True
    first, normal = frames[0], frames[0].normal
    away = np.array([frame.position - first.position for frame in frames])
    step = away[-1] / (len(frames) - 1)
    gap = float(step @ normal)
    if np.linalg.norm(step - gap * normal) > STRAIGHT * gap:
        return False
    displaced = away - np.outer(np.arange(len(frames)), step)
    along = displaced @ normal
    sideways = np.linalg.norm(displaced - np.outer(along, normal), axis=1)
    return bool(np.abs(along).max() <= _rounding(gap) and sideways.max() <= _rounding(min(first.spacing_mm)))


def _rounding(size_mm: float) -> float:
    return min(DISPLACED * size_mm, max(ROUNDED * size_mm, ROUNDED_MM))


def _neighbors(heights: NDArray[np.float64], k: int, above: int) -> list[tuple[int, float]]:
    """The slices next to plane ``k`` of the grid with their weights; one alone where it lies on the plane."""
    if above == 0 or abs(heights[above] - k) <= ON_A_PIXEL:
        return [(above, 1.0)]
    gap = heights[above] - heights[above - 1]
    share = float((k - heights[above - 1]) / gap)
    return [(above - 1, 1 - share), (above, share)]


def _covered(size: int, first: float, count: int) -> NDArray[np.bool_]:
    """``(size,)``: which grid pixels lie on one of ``count`` pixels, the first of them at coordinate ``first``."""
    coordinates = np.arange(size) - first
    return (coordinates >= -0.5 - ON_A_PIXEL) & (coordinates <= count - 0.5 + ON_A_PIXEL)


def _shifted(values: NDArray[np.float32], first: float, size: int, axis: int) -> NDArray[np.float32]:
    """``size`` values along ``axis`` from coordinate ``first`` on, linear; beyond the ends the outermost value."""
    whole = int(np.floor(first + ON_A_PIXEL))
    share = np.float32(first - whole)
    last = values.shape[axis] - 1
    lower = np.take(values, (np.arange(size) + whole).clip(0, last), axis=axis)
    if share <= ON_A_PIXEL:
        return lower
    upper = np.take(values, (np.arange(size) + whole + 1).clip(0, last), axis=axis)
    return (1 - share) * lower + share * upper

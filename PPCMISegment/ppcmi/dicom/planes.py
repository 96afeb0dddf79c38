"""Parallel planes of pixels, as DICOM segmentations and contours have them, and an image's voxels nearest to them.

A plane stands for what is nearer to it than to its neighbors; where planes are only some of a stack (frames without a
segment are left out), for half a gap to each side. So planes need not be evenly spaced or straight above each other,
and images may lie anyhow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ppcmi.dicom.frames import DicomFrame
from ppcmi.errors import GeometryError
from ppcmi.volume import Geometry, lps_from_ras

PARALLEL = 1e-3
"""Largest difference of direction cosines, as scanners round them."""

ONE_PLANE_MM = 0.01
"""Frames nearer than this along the normal lie in one plane."""

ON_A_PIXEL = 0.02
"""Distance from a pixel or plane, as a part of it, below which a voxel lies on it."""


@dataclass(frozen=True, eq=False)
class Nearest:
    """For each voxel ``(j, i)`` of a slice of an image: the nearest pixel.

    :param plane: its plane, -1 where no plane is near, and ``row`` and ``column`` in it.
    :param exact: whether all of them lie on the voxels themselves.
    """

    plane: NDArray[np.intp]
    row: NDArray[np.intp]
    column: NDArray[np.intp]
    exact: bool


@dataclass(frozen=True, eq=False)
class Planes:
    """Planes in ascending order along their normal.

    :param corners: ``(m, 3)`` center of each plane's first pixel, LPS millimetres.
    :param directions: ``(2, 3)`` unit vectors along which columns' and rows' numbers grow, LPS.
    :param spacing_mm: of rows and of columns.
    :param shape: of each plane, rows and columns.
    :param gap_mm: how thick a plane is where its neighbors are farther away; infinite if all planes are known.
    """

    corners: NDArray[np.float64]
    directions: NDArray[np.float64]
    spacing_mm: tuple[float, float]
    shape: tuple[int, int]
    gap_mm: float

    @classmethod
    def of(cls, frames: Sequence[DicomFrame], shape: tuple[int, int], gap_mm: float) -> tuple[Planes, list[int]]:
        """The planes in which frames lie, and each frame's plane.

        :raises GeometryError: if frames are not parallel, or differ in the size of their pixels.
        """
        first = frames[0]
        if any(
            np.abs(frame.directions - first.directions).max() > PARALLEL
            or np.abs(np.subtract(frame.spacing_mm, first.spacing_mm)).max() > PARALLEL * min(first.spacing_mm)
            for frame in frames
        ):
            raise GeometryError("The segmentation's frames are not parallel planes of one kind; export it again.")
        heights = np.array([frame.position for frame in frames]) @ np.cross(*first.directions)
        order = np.argsort(heights, kind="stable")
        number = np.concatenate([[0], np.cumsum(np.diff(heights[order]) > ONE_PLANE_MM)])
        plane_of = [int(number[index]) for index in np.argsort(order, kind="stable")]
        corners = np.array([frames[plane_of.index(plane)].position for plane in range(int(number[-1]) + 1)])
        return cls(corners, first.directions, first.spacing_mm, shape, gap_mm), plane_of

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit vector across the planes, LPS."""
        return np.cross(*self.directions)

    @property
    def heights(self) -> NDArray[np.float64]:
        """``(m,)`` millimetres along the normal, ascending."""
        found: NDArray[np.float64] = self.corners @ self.normal
        return found

    def pixels(self, points: NDArray[np.float64], plane: int) -> NDArray[np.float64]:
        """Points ``(n, 3)`` in LPS millimetres as ``(n, 2)`` columns and rows of a plane."""
        away = points - self.corners[plane]
        found: NDArray[np.float64] = away @ self.directions.T / self.spacing_mm[::-1]
        return found

    def places(self, plane: int, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.float64]:
        """``(n, 3)`` RAS millimetres of pixels' centers."""
        steps = np.stack([columns * self.spacing_mm[1], rows * self.spacing_mm[0]], axis=1)
        lps = self.corners[plane] + steps @ self.directions
        found: NDArray[np.float64] = lps @ lps_from_ras[:3, :3]
        return found

    def nearest(self, grid: Geometry, k: int) -> Nearest:
        """The pixels nearest to the voxels of slice ``k`` of an image's grid."""
        ijk_to_lps = lps_from_ras @ grid.ijk_to_ras
        j, i = np.indices(grid.shape[1:])
        points = np.stack([i, j, np.full_like(i, k)], axis=-1) @ ijk_to_lps[:3, :3].T + ijk_to_lps[:3, 3]
        heights, found = self.heights, points @ self.normal
        plane = np.searchsorted((heights[1:] + heights[:-1]) / 2, found)
        away = found - heights[plane]
        gap = self._gap(grid)
        away_in_planes = away / gap
        columns = (points - self.corners[plane]) @ self.directions[0] / self.spacing_mm[1]
        rows = (points - self.corners[plane]) @ self.directions[1] / self.spacing_mm[0]
        row, column = np.rint(rows).astype(np.intp), np.rint(columns).astype(np.intp)
        near = np.abs(away_in_planes) <= 0.5 + ON_A_PIXEL
        near &= (row >= 0) & (row < self.shape[0]) & (column >= 0) & (column < self.shape[1])
        apart = np.max([np.abs(rows - row), np.abs(columns - column), np.abs(away_in_planes)], axis=0)
        return Nearest(np.where(near, plane, -1), row, column, not bool((apart[near] > ON_A_PIXEL).any()))

    def _gap(self, grid: Geometry) -> float:
        """Thickness of a plane; that of the image's own slices where nothing says it."""
        if np.isfinite(self.gap_mm):
            return self.gap_mm
        if len(self.corners) > 1:
            return float(np.diff(self.heights).max())
        return float(np.abs(grid.ijk_to_ras[:3, :3].T @ lps_from_ras[:3, :3] @ self.normal).max())

"""Labels of another grid onto an image's, by the nearest voxel; refused where the two do not belong together.

A grid whose voxels lie on the image's (cropped, padded, turned by whole axes) loses nothing. Any other is taken at the
nearest voxel, which whoever shows the labels should say.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform

from ppcmi.errors import GeometryError
from ppcmi.volume import Geometry, Matrix, Volume

ON_A_VOXEL = 0.02
"""Distance from a voxel of the image, as a part of it, below which labels lie on its voxels; formats round affines."""

LEAST_INSIDE = 0.9
"""Share of what is labelled that must lie in the image, where nothing else says that the two belong together."""

MOST_POINTS = 200_000
"""Labelled voxels that are looked at to tell that."""

NOT_ITS_OWN = "The segmentation does not lie on the image's voxels; export it again with the image as its reference."
ELSEWHERE = "What is labelled lies outside the image; is it another image's segmentation?"


@dataclass(frozen=True, eq=False)
class PlacedLabels:
    """Labels on an image's grid; ``nearest`` if they were drawn on another and taken at the nearest voxel."""

    volume: Volume
    nearest: bool = False


def labels_on(labels: Volume, grid: Geometry) -> PlacedLabels:
    """A label map on ``grid``; 0 where it has no voxel.

    :raises GeometryError: if it has the grid's shape and yet lies elsewhere, as files do that lost their position, or
        a tenth of what is labelled lies outside the grid.
    """
    if lies_on(labels.geometry, grid):
        return PlacedLabels(Volume(labels.voxels, grid))
    to_labels = voxel_map(grid, labels.geometry)
    turned = _is_whole(to_labels)
    if sorted(labels.geometry.shape) == sorted(grid.shape) and not (turned and _same_box(to_labels, grid)):
        raise GeometryError(NOT_ITS_OWN)
    require_inside(labelled_places(labels), grid)
    # scipy's coordinates are in the order of the array's axes, (k, j, i)
    placed = affine_transform(
        labels.voxels, to_labels[2::-1, 2::-1], to_labels[2::-1, 3], grid.shape, order=0, mode="grid-constant"
    )
    return PlacedLabels(Volume(placed, grid), nearest=not turned)


def lies_on(labels: Geometry, grid: Geometry) -> bool:
    """Whether both are one grid but for the rounding of file formats."""
    return labels.matches(grid, max(1e-3, ON_A_VOXEL * float(grid.spacing_mm.min())))


def reaches_out(labels: Geometry, grid: Geometry) -> bool:
    """Whether centers of the labels' voxels lie outside the grid; those of a part that was cut out do not."""
    ends = np.array(labels.shape[::-1]) - 1
    corners = np.array(np.meshgrid(*zip((0, 0, 0), ends, strict=True))).reshape(3, -1)
    places = voxel_map(labels, grid) @ np.vstack([corners, np.ones(corners.shape[1])])
    last = np.array(grid.shape[::-1])[:, None] - 1
    return bool(((places[:3] < -0.5) | (places[:3] > last + 0.5)).any())


def voxel_map(grid: Geometry, other: Geometry) -> Matrix:
    """4 x 4: from indices ``(i, j, k, 1)`` of one grid to those of the other."""
    found: Matrix = np.linalg.inv(other.ijk_to_ras) @ grid.ijk_to_ras
    return found


def labelled_places(labels: Volume) -> NDArray[np.float64]:
    """``(n, 3)`` RAS millimetres of labelled voxels, evenly chosen where there are many."""
    flat = np.flatnonzero(labels.voxels)
    chosen = flat[:: max(1, len(flat) // MOST_POINTS)]
    indices = np.stack([*np.unravel_index(chosen, labels.voxels.shape)[::-1], np.ones(len(chosen))])
    places: NDArray[np.float64] = (labels.geometry.ijk_to_ras @ indices)[:3].T
    return places


def require_inside(places: NDArray[np.float64], grid: Geometry) -> None:
    """Refuse labels of another image.

    :param places: ``(n, 3)`` RAS millimetres of what is labelled.
    :raises GeometryError: if more than a tenth of them lies outside the grid.
    """
    if not len(places):
        return
    indices = np.linalg.inv(grid.ijk_to_ras) @ np.vstack([places.T, np.ones(len(places))])
    last = np.array(grid.shape[::-1])[:, None] - 0.5 + ON_A_VOXEL
    inside = ((indices[:3] >= -0.5 - ON_A_VOXEL) & (indices[:3] <= last)).all(axis=0)
    if inside.mean() < LEAST_INSIDE:
        raise GeometryError(ELSEWHERE)


def _is_whole(matrix: Matrix) -> bool:
    """Whether voxels of the first grid lie on voxels of the other, throughout a volume of usual size."""
    offset = matrix[:3, 3]
    straight = np.abs(matrix[:3, :3] - np.rint(matrix[:3, :3])).max() < 1e-4
    one_to_one = (np.abs(np.rint(matrix[:3, :3])).sum(axis=0) == 1).all()
    return bool(straight and one_to_one and np.abs(offset - np.rint(offset)).max() < ON_A_VOXEL)


def _same_box(to_labels: Matrix, grid: Geometry) -> bool:
    """Whether a turned grid of the same number of voxels covers the same place."""
    corners = np.array([(0, 0, 0, 1), (*(size - 1 for size in grid.shape[::-1]), 1)], dtype=float).T
    found = np.rint(to_labels @ corners)[:3]
    sizes = np.abs(found[:, 1] - found[:, 0])
    return bool((found.min(axis=1) == 0).all() and sorted(sizes + 1) == sorted(grid.shape))

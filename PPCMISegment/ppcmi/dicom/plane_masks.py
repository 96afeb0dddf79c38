"""Masks on planes of pixels onto an image's grid, and where what they label lies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from ppcmi.dicom.planes import Planes
from ppcmi.label_grid import MOST_POINTS
from ppcmi.segment_files import PlacedMasks
from ppcmi.volume import Geometry


def place_masks(planes: Planes, stacks: Mapping[str, NDArray[np.bool_]], grid: Geometry) -> PlacedMasks:
    """Masks ``(m, rows, columns)`` of planes, each voxel of ``grid`` as the pixel nearest to it."""
    masks = {id_: np.zeros(grid.shape, dtype=np.bool_) for id_ in stacks}
    nearest = False
    for k in range(grid.shape[0]):
        found = planes.nearest(grid, k)
        near = found.plane >= 0
        if not near.any():
            continue
        nearest = nearest or not found.exact
        where = found.plane[near], found.row[near], found.column[near]
        for id_, stack in stacks.items():
            masks[id_][k][near] = stack[where]
    return PlacedMasks(masks, grid, nearest)


def labelled_places(planes: Planes, stacks: Iterable[NDArray[np.bool_]]) -> NDArray[np.float64]:
    """``(n, 3)`` RAS millimetres of labelled pixels, evenly chosen where there are many."""
    places = [np.empty((0, 3))]
    for stack in stacks:
        for plane, mask in enumerate(stack):
            rows, columns = np.nonzero(mask)
            step = max(1, len(rows) * len(stack) // MOST_POINTS)
            places.append(planes.places(plane, rows[::step], columns[::step]))
    return np.concatenate(places)

"""How well a segmentation agrees with the truth: overlap, and distance of surfaces in millimetres.

Conventions where a mask is empty: if both are, nothing can be said and every value but specificity is NaN; if one is,
Dice and IoU are 0 and the distances NaN, as there is no surface to measure from. Sensitivity is NaN without a true
voxel, specificity without a voxel that is truly outside. Whoever averages leaves NaN out.

Surfaces are the voxels of a mask that touch its outside through a face (an edge, in a single image), the volume's own
border being outside. HD95 is the larger of both directions' 95th percentiles of distances from surface to surface,
ASD their mean over both directions together (Heimann et al., IEEE TMI 28(8), 2009, doi 10.1109/TMI.2009.2013851).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion
from scipy.spatial import cKDTree

from ppcmi.errors import GeometryError
from ppcmi.task import Task
from ppcmi.volume import Geometry, Volume

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class LabelScore:
    """Agreement for the label of that name; distances in millimetres, everything else from 0 to 1, or NaN."""

    label: str
    dice: float
    iou: float
    sensitivity: float
    specificity: float
    hd95_mm: float
    asd_mm: float


def score_case(predicted: Volume, truth: Volume, task: Task) -> list[LabelScore]:
    """Scores of every label of the task, in its order.

    :raises GeometryError: if the two do not lie on the same voxels.
    """
    tolerance = max(1e-3, 0.02 * float(truth.geometry.spacing_mm.min()))
    if not predicted.geometry.matches(truth.geometry, tolerance):
        raise GeometryError("The segmentation and the truth do not lie on the same voxels; they cannot be compared.")
    return [
        _score(label.name, predicted.voxels == label.value, truth.voxels == label.value, truth.geometry)
        for label in task.labels
    ]


def _score(label: str, predicted: Mask, truth: Mask, geometry: Geometry) -> LabelScore:
    true_positive = int(np.count_nonzero(predicted & truth))
    found, present = int(np.count_nonzero(predicted)), int(np.count_nonzero(truth))
    absent = truth.size - present
    hd95, asd = surface_distances_mm(predicted, truth, geometry)
    return LabelScore(
        label=label,
        dice=_ratio(2 * true_positive, found + present),
        iou=_ratio(true_positive, found + present - true_positive),
        sensitivity=_ratio(true_positive, present),
        specificity=_ratio(absent - (found - true_positive), absent),
        hd95_mm=hd95,
        asd_mm=asd,
    )


def surface_distances_mm(one: Mask, other: Mask, geometry: Geometry) -> tuple[float, float]:
    """HD95 and ASD between two masks ``(k, j, i)`` of the geometry; NaN if one is empty."""
    if not one.any() or not other.any():
        return math.nan, math.nan
    surface, other_surface = _surface_ras(one, geometry), _surface_ras(other, geometry)
    there, _ = cKDTree(other_surface).query(surface)
    back, _ = cKDTree(surface).query(other_surface)
    hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
    return float(hd95), float(np.concatenate([there, back]).mean())


def _surface_ras(mask: Mask, geometry: Geometry) -> NDArray[np.float64]:
    """``(n, 3)`` RAS millimetres of the mask's surface voxels."""
    faces = np.zeros((3, 3, 3), dtype=bool)
    faces[1, 1, :] = faces[1, :, 1] = faces[:, 1, 1] = True
    for axis, count in enumerate(mask.shape):
        if count == 1:  # else every pixel of a single image would be surface
            faces = faces.take([1], axis=axis)
    kji = np.argwhere(mask & ~binary_erosion(mask, faces))
    ras: NDArray[np.float64] = kji[:, ::-1] @ geometry.ijk_to_ras[:3, :3].T + geometry.ijk_to_ras[:3, 3]
    return ras


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan

"""What a result says of itself besides its labels: how probable they are, and how large the structures.

Confidence is the network's own probability of the label that it chose. It is not calibrated: 0.9 does not mean that
nine of ten such voxels are right; low values show where to look.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppcmi.task import Task
from ppcmi.volume import Geometry, Volume
from ppcmi.writing import write_nifti

ENDING = ".confidence.nii.gz"


def confidence_of(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probability ``(k, j, i)`` of the chosen class, background included, from all classes' ``(K, k, j, i)``.

    The chosen class is the most probable one, as in :func:`~ppcmi.slicing.restore_labels`.
    """
    confidence: NDArray[np.float32] = probabilities[0].copy()
    for other in probabilities[1:]:
        np.maximum(confidence, other, out=confidence)
    return np.clip(confidence, 0, 1, out=confidence)


def write_confidence(confidence: NDArray[np.float32], geometry: Geometry, path: Path) -> None:
    """A float32 NIfTI file at ``path``, named ``NAME.confidence.nii.gz``, in one step.

    :raises WriteError: if it cannot be written.
    :raises GeometryError: if NIfTI cannot hold a volume this large.
    """
    write_nifti(Volume(np.ascontiguousarray(confidence, dtype=np.float32), geometry), path)


def volumes_ml(labels: Volume, task: Task) -> dict[str, float]:
    """Millilitres of each structure to six digits, however small its voxels are; 0 only of those not found."""
    voxel_ml = abs(float(np.linalg.det(labels.geometry.ijk_to_ras[:3, :3]))) / 1000
    counts: NDArray[Any] = np.bincount(labels.voxels.ravel(), minlength=task.classes)
    return {label.name: float(f"{float(counts[label.value]) * voxel_ml:.6g}") for label in task.labels}


def found_nothing(volumes: Mapping[str, float]) -> bool:
    """Whether no structure was found at all, from all structures' :func:`volumes_ml`; False if there are none."""
    return bool(volumes) and not any(volumes.values())

"""A volume and where it lies: voxels ``(k, j, i)`` and the affine from voxel indices to RAS millimetres.

``i`` runs along columns, ``j`` along rows, ``k`` along slices, as ITK and VTK store them; NumPy arrays are
``(k, j, i)``. SimpleITK and DICOM use LPS, Slicer and NIfTI use RAS; :func:`lps_from_ras` is the only place where
they meet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppcmi.errors import GeometryError

Matrix = NDArray[np.float64]

lps_from_ras: Matrix = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Homogeneous matrix from RAS to LPS; its own inverse (DICOM PS3.3 C.7.6.2.1.1: patient coordinates are LPS)."""


@dataclass(frozen=True, eq=False)
class Geometry:
    """Shape and place of a voxel grid.

    :param shape: number of voxels ``(k, j, i)``.
    :param ijk_to_ras: 4 x 4, homogeneous; maps ``(i, j, k, 1)`` to RAS millimetres at the voxel's center.
    :raises GeometryError: if the matrix is singular or not finite, or a dimension is empty.
    """

    shape: tuple[int, int, int]
    ijk_to_ras: Matrix

    def __post_init__(self) -> None:
        matrix = np.array(self.ijk_to_ras, dtype=np.float64)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or not np.allclose(matrix[3], (0, 0, 0, 1)):
            raise GeometryError("The image's position in space is not a finite affine; export it again.")
        if min(self.shape) < 1:
            raise GeometryError("The image has no voxels.")
        if abs(np.linalg.det(matrix[:3, :3])) < 1e-12:
            raise GeometryError("The image's axes are not independent (singular affine); export it again.")
        matrix.setflags(write=False)
        object.__setattr__(self, "ijk_to_ras", matrix)

    @property
    def spacing_mm(self) -> NDArray[np.float64]:
        """Distance of neighboring voxels along ``i, j, k`` in millimetres."""
        spacing: NDArray[np.float64] = np.linalg.norm(self.ijk_to_ras[:3, :3], axis=0)
        return spacing

    def matches(self, other: Geometry, tolerance_mm: float = 1e-3) -> bool:
        """Whether both grids have the same shape and no voxel center differs by more than ``tolerance_mm``."""
        if self.shape != other.shape:
            return False
        corners = np.array(
            [(i, j, k, 1) for k in (0, self.shape[0]) for j in (0, self.shape[1]) for i in (0, self.shape[2])], float
        ).T
        return bool(np.abs((self.ijk_to_ras - other.ijk_to_ras) @ corners).max() <= tolerance_mm)


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels ``(k, j, i)`` of an image (any real dtype) or of a label map (unsigned integers) with their geometry."""

    voxels: NDArray[Any]
    geometry: Geometry

    def __post_init__(self) -> None:
        if self.voxels.shape != self.geometry.shape:
            raise GeometryError("The image's voxels and its geometry disagree in shape.")

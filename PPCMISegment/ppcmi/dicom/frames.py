"""One image of a DICOM series and where its frames lie: what a volume's slices are, in their order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ppcmi.dicom.values import NativePixels
from ppcmi.volume import Geometry, Matrix, lps_from_ras


@dataclass(frozen=True, eq=False)
class DicomFrame:
    """One frame's place (DICOM PS3.3 C.7.6.2.1.1).

    :param file: that has it, and ``index`` which of the file's frames it is, from 0.
    :param position: ``(3,)`` center of its first pixel, LPS millimetres: Image Position (Patient).
    :param directions: ``(2, 3)`` unit vectors along which columns' and rows' numbers grow, LPS: Image Orientation
        (Patient). The first is the direction of a row, in which ``i`` grows.
    :param spacing_mm: of neighboring rows and of neighboring columns, in this order: Pixel Spacing.
    :param thickness_mm: of the slice, where the header says so.
    :param native: where its pixels are, if they need no decoding.
    """

    file: Path
    index: int
    position: NDArray[np.float64]
    directions: NDArray[np.float64]
    spacing_mm: tuple[float, float]
    thickness_mm: float | None = None
    native: NativePixels | None = None

    @property
    def normal(self) -> NDArray[np.float64]:
        """``(3,)`` unit vector across the slice, LPS."""
        normal: NDArray[np.float64] = np.cross(*self.directions)
        return normal


@dataclass(frozen=True, eq=False)
class DicomVolume:
    """Which frames make a volume, in the order of its voxels' ``k``: along the normal of the slices.

    :param series_uid: Series Instance UID, and ``stack`` tells several volumes of one series apart: what is the same
        within a volume, such as the echo time; empty if there is only one.
    """

    series_uid: str
    stack: str
    frames: tuple[DicomFrame, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """Each file once, in the order of the first of its frames."""
        return tuple(dict.fromkeys(frame.file for frame in self.frames))


def plane_geometry(frame: DicomFrame, shape: tuple[int, int], step: NDArray[np.float64], slices: int = 1) -> Geometry:
    """Slices of ``shape`` (rows, columns), the first where ``frame`` lies, the next ``step`` (LPS millimetres) on."""
    ijk_to_lps: Matrix = np.eye(4)
    ijk_to_lps[:3, 0] = frame.directions[0] * frame.spacing_mm[1]
    ijk_to_lps[:3, 1] = frame.directions[1] * frame.spacing_mm[0]
    ijk_to_lps[:3, 2] = step
    ijk_to_lps[:3, 3] = frame.position
    return Geometry((slices, *shape), lps_from_ras @ ijk_to_lps)

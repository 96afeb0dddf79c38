"""Which files of a folder make one DICOM image series, in the order of their positions.

Position and orientation are Image Position (Patient) and Image Orientation (Patient), DICOM PS3.3 C.7.6.2.1.1. Only a
series whose slices are parallel, straight above each other and evenly spaced is a voxel grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError

from ppcmi.errors import GeometryError, ReadError

PARALLEL = 1e-3
"""Largest difference of direction cosines within a series."""

UNEVEN = 0.02
"""Largest deviation of a gap from the median gap, as a part of it; scanners round positions."""

TILTED = 0.01
"""Largest sideways shift from slice to slice, as a part of the gap (0.6 degrees)."""

TAGS = ["SOPClassUID", "SeriesInstanceUID", "ImagePositionPatient", "ImageOrientationPatient", "Rows", "InstanceNumber"]


@dataclass(frozen=True, eq=False)
class _Slice:
    """One file's place: position of its first pixel and directions of its rows and columns, LPS millimetres."""

    file: Path
    series: str
    instance: int
    position: NDArray[np.float64] | None
    directions: NDArray[np.float64] | None


def series_files(folder: Path) -> list[Path]:
    """Files of the one image series in ``folder``, feet to head or as the slices' normal points.

    :raises ReadError: if there is no image series, more than one, or several images at one place.
    :raises GeometryError: if slices are not parallel, not straight above each other, or not evenly spaced.
    """
    slices = [found for path in sorted(folder.iterdir()) if (found := _slice(path)) is not None]
    series = {found.series for found in slices}
    if not series:
        raise ReadError("The folder has no DICOM images.")
    if len(series) > 1:
        raise ReadError(f"The folder has {len(series)} DICOM series; put the one to segment into a folder of its own.")
    if len(slices) == 1:
        return [slices[0].file]
    return [found.file for found in _in_order(slices)]


def is_dicom_folder(path: Path) -> bool:
    """Whether a DICOM file lies directly in the folder."""
    return path.is_dir() and any(is_dicom_file(entry) for entry in path.iterdir())


def is_dicom_file(path: Path) -> bool:
    """Whether the file has the preamble of DICOM PS3.10 section 7.1."""
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _slice(path: Path) -> _Slice | None:
    """The file's place, or None if it is no DICOM image (a segmentation, a report, a directory record)."""
    if not is_dicom_file(path):
        return None
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS))
    except (InvalidDicomError, OSError, ValueError) as error:
        raise ReadError("A DICOM file in the folder is damaged; copy or export the series again.") from error
    if "Rows" not in header or str(header.get("SOPClassUID")) in (
        pydicom.uid.SegmentationStorage,
        pydicom.uid.RTDoseStorage,
    ):
        return None
    position, orientation = header.get("ImagePositionPatient"), header.get("ImageOrientationPatient")
    return _Slice(
        file=path,
        series=str(header.get("SeriesInstanceUID", "")),
        instance=int(header.get("InstanceNumber") or 0),
        position=np.array(position, dtype=float) if position and len(position) == 3 else None,
        directions=np.array(orientation, dtype=float).reshape(2, 3) if orientation and len(orientation) == 6 else None,
    )


def _in_order(slices: list[_Slice]) -> list[_Slice]:
    positions = [found.position for found in slices if found.position is not None]
    directions = [found.directions for found in slices if found.directions is not None]
    if len(positions) < len(slices) or len(directions) < len(slices):
        raise ReadError("The DICOM images do not say where they lie; they cannot be stacked to a volume.")
    if any(np.abs(other - directions[0]).max() > PARALLEL for other in directions):
        raise GeometryError(
            "The DICOM series' slices are not parallel; choose a series with slices of one orientation."
        )
    normal = np.cross(*directions[0])
    heights = np.array(positions) @ normal
    order = np.argsort(heights, kind="stable")
    steps = np.diff(np.array(positions)[order], axis=0)
    gaps = np.diff(heights[order])
    gap = float(np.median(gaps))
    if gap < 1e-3 or gaps.min() < 1e-3:
        raise ReadError("The DICOM series has several images at one place, such as phases; export the one to segment.")
    sideways = np.linalg.norm(steps - np.outer(gaps, normal), axis=1)
    if (sideways > TILTED * gaps).any():
        raise GeometryError("The DICOM series was made with a tilted gantry; resample it to straight slices first.")
    if (np.abs(gaps - gap) > UNEVEN * gap).any():
        raise GeometryError("The DICOM series' slices are not evenly spaced; one may be missing, or resample it first.")
    return [slices[index] for index in order]

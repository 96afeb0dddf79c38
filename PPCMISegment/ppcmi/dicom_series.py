"""Which files of a folder, or frames of a multi-frame file, make one DICOM image, in the order of their positions.

Position and orientation are Image Position (Patient) and Image Orientation (Patient), DICOM PS3.3 C.7.6.2.1.1. Only a
series whose slices are parallel, straight above each other and evenly spaced is a voxel grid. The frames of an enhanced
multi-frame image say the same in functional groups, C.7.6.16.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError

from ppcmi.dicom.frames import DicomFrame, DicomVolume
from ppcmi.errors import GeometryError, ReadError

PARALLEL = 1e-3
"""Largest difference of direction cosines within a series."""

UNEVEN = 0.02
"""Largest deviation of a gap from the median gap, as a part of it; scanners round positions."""

TILTED = 0.01
"""Largest sideways shift from slice to slice, as a part of the gap (0.6 degrees)."""

TAGS = [
    "SOPClassUID", "SeriesInstanceUID", "ImagePositionPatient", "ImageOrientationPatient", "Rows", "NumberOfFrames",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip

NO_IMAGES = (pydicom.uid.SegmentationStorage, pydicom.uid.RTDoseStorage)
"""Classes of objects that have pixels and yet are no images."""


@dataclass(frozen=True, eq=False)
class _Slice:
    """One file's or frame's place: position of its first pixel, directions of its rows and columns, LPS millimetres."""

    file: Path
    series: str
    frames: int
    position: NDArray[np.float64] | None
    directions: NDArray[np.float64] | None


def series_files(folder: Path) -> list[Path]:
    """Files of the one image series in ``folder``, feet to head or as the slices' normal points.

    :raises ReadError: if there is no image series, more than one, or several images at one place.
    :raises GeometryError: if slices are not parallel, not straight above each other, or not evenly spaced.
    """
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise ReadError("The folder cannot be opened; check its permissions.") from error
    slices = [found for path in entries if (found := _slice(path)) is not None]
    series = {found.series for found in slices}
    if not series:
        raise ReadError("The folder has no DICOM images.")
    if len(series) > 1:
        raise ReadError(f"The folder has {len(series)} DICOM series; put the one to segment into a folder of its own.")
    if len(slices) == 1:
        return [slices[0].file]
    if any(found.frames > 1 for found in slices):
        raise ReadError("The folder has several multi-frame DICOM images; give the one file to segment.")
    return [slices[index].file for index in _order(slices)]


def series_volume(folder: Path) -> DicomVolume:
    """The one image series in ``folder`` as its frames, of classic files."""
    frames = []
    for file in series_files(folder):
        header = pydicom.dcmread(file, stop_before_pixels=True)
        position, directions = _place(header, header)
        if position is None or directions is None:
            raise ReadError("The DICOM images do not say where they lie; they cannot be stacked to a volume.")
        row_mm, column_mm = (float(value) for value in header.PixelSpacing)
        frames.append(DicomFrame(file, 0, position, directions, (row_mm, column_mm)))
    return DicomVolume(str(header.SeriesInstanceUID), "", tuple(frames))


def frame_positions(file: Path) -> NDArray[np.float64] | None:
    """Positions ``(n, 3)`` of a multi-frame file's frames as they are stored, LPS millimetres; None for a single frame.

    :raises ReadError: if the file is no image, or its frames are no single volume in order, with one scale.
    :raises GeometryError: as :func:`series_files`, of the frames.
    """
    with _damage_is_a_read_error():
        header = _header(file)
        if not _is_image(header):
            raise ReadError("The DICOM file is no image but belongs to one, such as a segmentation; choose the image.")
        count = _frames(header)
        if count == 1:
            return None
        shared = next(iter(header.get("SharedFunctionalGroupsSequence") or ()), pydicom.Dataset())
        groups = list(header.get("PerFrameFunctionalGroupsSequence") or ())
        frames = [_frame(file, frame, shared) for frame in groups]
        scales = {str(_group("PixelValueTransformationSequence", frame, shared)) for frame in groups}
    if len(frames) != count or any(frame.position is None for frame in frames):
        raise ReadError("The DICOM file's frames do not say where they lie, as in a film; export one image of them.")
    order = _order(frames)
    if len(scales) > 1 or order not in (list(range(len(order))), list(range(len(order)))[::-1]):
        raise ReadError("The DICOM file's frames differ in scale or are out of order; export them as single images.")
    return np.array([frame.position for frame in frames])


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
    with _damage_is_a_read_error():
        header = _header(path)
        if not _is_image(header):
            return None
        series = str(header.get("SeriesInstanceUID", ""))
        return _Slice(path, series, _frames(header), *_place(header, header))


def _frame(file: Path, frame: Any, shared: Any) -> _Slice:
    position = _group("PlanePositionSequence", frame, shared)
    return _Slice(file, "", 1, *_place(position, _group("PlaneOrientationSequence", frame, shared)))


def _group(name: str, frame: Any, shared: Any) -> Any:
    """A functional group's one item, of the frame itself or shared by all; empty if there is none."""
    return next(iter(frame.get(name) or shared.get(name) or ()), pydicom.Dataset())


def _header(file: Path) -> Any:
    return pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(TAGS))


@contextmanager
def _damage_is_a_read_error() -> Iterator[None]:
    """Around all that reads values: pydicom parses them when they are asked for."""
    try:
        yield
    except (InvalidDicomError, OSError, ValueError, TypeError, AttributeError, EOFError) as error:
        raise ReadError("A DICOM file is damaged; copy or export it again.") from error


def _is_image(header: Any) -> bool:
    sop_class = pydicom.uid.UID(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID", ""))
    if "Rows" not in header and sop_class.name.endswith("Image Storage"):
        raise EOFError("an image without rows was cut off in its header")
    return "Rows" in header and sop_class not in NO_IMAGES


def _frames(header: Any) -> int:
    return int(header.get("NumberOfFrames") or 1)


def _place(plane: Any, orientation: Any) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    position, directions = plane.get("ImagePositionPatient"), orientation.get("ImageOrientationPatient")
    return (
        np.array(position, dtype=float) if position and len(position) == 3 else None,
        np.array(directions, dtype=float).reshape(2, 3) if directions and len(directions) == 6 else None,
    )


def _order(slices: list[_Slice]) -> list[int]:
    """Indices of the slices along their normal."""
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
    return [int(index) for index in order]

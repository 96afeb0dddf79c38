"""DICOM results read by others: pydicom and NumPy, dciodvfy, dcmqi; and sources found without our own reader."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK

from ppcmi.dicom.frames import DicomFrame, DicomVolume
from ppcmi.sources import ImageSource

PROVENANCE = {
    "task": "test@1",
    "model": "3",
    "codec": "ab" * 32,
    "profile": "coarse",
    "quantization": "i8",
    "ppcmi": "0.1.0",
}


def source_of(
    *files: Path, chosen: Callable[[int, pydicom.Dataset], bool] = lambda index, group: True
) -> tuple[ImageSource, tuple[int, int, int]]:
    """The frames of ``files`` along their normal as a source, and the shape of its voxels.

    :param chosen: whether a frame of a multi-frame file belongs to it, from its index and functional groups.
    """
    found: list[DicomFrame] = []
    for file in files:
        header = pydicom.dcmread(file, stop_before_pixels=True)
        if "PerFrameFunctionalGroupsSequence" not in header:
            found.append(_frame(file, 0, header, header, header))
            continue
        shared = header.SharedFunctionalGroupsSequence[0]
        for index, group in enumerate(header.PerFrameFunctionalGroupsSequence):
            if chosen(index, group):
                parts = ("PlanePosition", "PlaneOrientation", "PixelMeasures")
                found.append(_frame(file, index, *(_item(group, shared, f"{part}Sequence") for part in parts)))
    normal = np.cross(*found[0].directions)
    found.sort(key=lambda frame: float(frame.position @ normal))
    volume = DicomVolume(str(header.SeriesInstanceUID), "", tuple(found))
    return ImageSource(files[0].parent, volume), (len(found), int(header.Rows), int(header.Columns))


def _item(group: pydicom.Dataset, shared: pydicom.Dataset, keyword: str) -> pydicom.Dataset:
    item: pydicom.Dataset = (group if keyword in group else shared)[keyword][0]
    return item


def _frame(file: Path, index: int, place: Any, turn: Any, measures: Any) -> DicomFrame:
    directions = np.array(turn.get("ImageOrientationPatient", (1, 0, 0, 0, 1, 0)), float).reshape(2, 3)
    position = np.array(place.get("ImagePositionPatient", (0, 0, 0)), float)
    row, column = (float(mm) for mm in measures.get("PixelSpacing", (1, 1)))
    return DicomFrame(file, index, position, directions, (row, column))


@dataclass(frozen=True, eq=False)
class Plane:
    """One frame of a DICOM segmentation, as its file says."""

    segment: int
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    refers_to: tuple[str, int | None]
    on_its_pixels: bool
    pixels: Any


def planes_of(path: Path) -> list[Plane]:
    """The frames of a segmentation, its bits taken apart by hand (PS3.5 section 8.1.1, PS3.3 C.8.20.2)."""
    file = pydicom.dcmread(path)
    shape = (int(file.NumberOfFrames), file.Rows, file.Columns)
    values = np.frombuffer(file.PixelData, np.uint8)
    if file.BitsAllocated == 1:
        values = np.unpackbits(values, bitorder="little")
    values = values[: int(np.prod(shape))].reshape(shape)
    shared = file.SharedFunctionalGroupsSequence[0]
    planes = []
    for pixels, group in zip(values, file.PerFrameFunctionalGroupsSequence, strict=True):
        image = group.DerivationImageSequence[0].SourceImageSequence
        assert len(image) == 1
        placed = "PlanePositionSequence" in group
        planes.append(
            Plane(
                int(_item(group, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber),
                tuple(map(float, group.PlanePositionSequence[0].ImagePositionPatient)) if placed else (),
                tuple(map(float, shared.PlaneOrientationSequence[0].ImageOrientationPatient)) if placed else (),
                tuple(map(float, shared.PixelMeasuresSequence[0].PixelSpacing)) if placed else (),
                (str(image[0].ReferencedSOPInstanceUID), image[0].get("ReferencedFrameNumber")),
                image[0].get("SpatialLocationsPreserved") == "YES",
                pixels,
            )
        )
    return planes


def dciodvfy_errors(path: Path) -> list[str]:
    """What the validator of Debian's dicom3tools holds to be wrong in a DICOM file; skips where there is none."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("There is no dciodvfy; install Debian's package dicom3tools.")
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False, timeout=60)
    lines = (done.stdout + done.stderr).splitlines()
    assert any(line == "Segmentation" or line.endswith(("Image", "RTStructureSet")) for line in lines), lines
    return sorted(line for line in lines if line.startswith("Error"))


def dcmqi_program(name: str) -> str:
    """One of dcmqi's programs, which pip lays beside Python; skips where it is not installed."""
    program = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if program is None:
        pytest.skip("There is no dcmqi; install it with pip.")
    return program


def dcmqi_points(path: Path, folder: Path) -> dict[int, Any]:
    """LPS places ``(n, 3)`` of every segment's voxels as QIICR's dcmqi finds them; skips where it is not installed."""
    program = dcmqi_program("segimage2itkimage")
    folder.mkdir()
    arguments = ["--inputDICOM", str(path), "--outputDirectory", str(folder), "--outputType", "nrrd", "--prefix", "x"]
    subprocess.run([program, *arguments], capture_output=True, check=True, timeout=120)
    found: dict[int, Any] = {}
    for file in folder.glob("x-*.nrrd"):
        image = SimpleITK.ReadImage(str(file))
        voxels = SimpleITK.GetArrayFromImage(image)
        for value in np.unique(voxels[voxels > 0]):
            found[int(value)] = points_of(image, voxels == value)
    return found


def points_of(image: SimpleITK.Image, chosen: Any) -> Any:
    """LPS places ``(n, 3)`` of the chosen voxels ``(k, j, i)`` of an image, in an order of their own."""
    matrix = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    return in_order(np.argwhere(chosen)[:, ::-1] @ matrix.T + image.GetOrigin())


def places_on(source: ImageSource, chosen: Any) -> Any:
    """LPS places ``(n, 3)`` of the chosen pixels ``(n, rows, columns)`` of a source's frames (PS3.3 C.7.6.2.1.1)."""
    assert source.dicom is not None
    places = []
    for frame, plane in zip(source.dicom.frames, chosen, strict=True):
        rows, columns = np.nonzero(plane)
        along = np.outer(columns * frame.spacing_mm[1], frame.directions[0])
        places.append(frame.position + along + np.outer(rows * frame.spacing_mm[0], frame.directions[1]))
    return in_order(np.concatenate(places))


def in_order(points: Any) -> Any:
    """Points ``(n, 3)`` so sorted that two lists of the same ones are equal but for rounding."""
    rounded = np.round(points, 2)
    return np.asarray(points)[np.lexsort(rounded.T)]


def files_in(folder: Path, pattern: str = "*.dcm") -> Sequence[Path]:
    return sorted(folder.glob(pattern))

"""DICOM files and series."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    BasicTextSRStorage,
    DeflatedExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from ppcmi.reading import read_volume
from ppcmi.volume import Geometry, Volume
from support.bad_inputs.kinds import BadInput, small_volume
from support.dicom import write_series
from support.volumes import ORIENTATION_CODES, reoriented

VOLUME = reoriented(small_volume(), *ORIENTATION_CODES[0])


def series(folder: Path) -> list[Path]:
    """Four slices."""
    return write_series(VOLUME, folder / "series")


def _each(change: Callable[[Dataset], object], which: Sequence[int] = range(4)) -> Callable[[Path], Path]:
    """A series with some of its files changed."""

    def make(folder: Path) -> Path:
        files = series(folder)
        for index in which:
            dataset = pydicom.dcmread(files[index])
            change(dataset)
            dataset.save_as(files[index])
        return folder / "series"

    return make


def _set(which: Sequence[int] = range(4), **values: Any) -> Callable[[Path], Path]:
    def change(dataset: Dataset) -> None:
        for keyword, value in values.items():
            setattr(dataset, keyword, value)

    return _each(change, which)


def _without(*keywords: str, which: Sequence[int] = range(4)) -> Callable[[Path], Path]:
    def change(dataset: Dataset) -> None:
        for keyword in keywords:
            delattr(dataset, keyword)

    return _each(change, which)


def _bytes(change: Callable[[bytes], bytes], which: int = 1) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        files = series(folder)
        files[which].write_bytes(change(files[which].read_bytes()))
        return folder / "series"

    return make


def _nan_position(content: bytes) -> bytes:
    """NaN in Image Position (Patient), which pydicom does not write."""
    at = content.index(b"\x20\x00\x32\x00DS")
    size = int.from_bytes(content[at + 6 : at + 8], "little")
    return content[: at + 8] + b"nan\\0\\0".ljust(size)[:size] + content[at + 8 + size :]


def _as_encapsulated(syntax: str, frame: bytes) -> Callable[[Dataset], object]:
    def change(dataset: Dataset) -> None:
        dataset.PixelData = encapsulate([frame])
        dataset["PixelData"].is_undefined_length = True
        dataset["PixelData"].VR = "OB"
        dataset.file_meta.TransferSyntaxUID = syntax

    return change


def _wrong_syntax(folder: Path) -> Path:
    """Little endian values under the name of big endian."""
    files = series(folder)
    for file in files:
        content = file.read_bytes()
        file.write_bytes(content.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.2\0"))
    return folder / "series"


def _deflated_bomb(folder: Path) -> Path:
    """One file of a megabyte that unpacks to one gigabyte."""
    (file, *_) = series(folder)
    dataset = pydicom.dcmread(file)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(folder / "x.dcm")
    content = (folder / "x.dcm").read_bytes()
    at = 132 + 12 + int.from_bytes(content[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    element = b"\x09\x00\x01\x10OB\0\0" + (1 << 30).to_bytes(4, "little")
    packed = [packer.compress(element)] + [packer.compress(bytes(1 << 20)) for _ in range(1 << 10)] + [packer.flush()]
    bomb = folder / "bomb"
    bomb.mkdir()
    (bomb / "x.dcm").write_bytes(content[:at] + b"".join(packed))
    return bomb


def _two_series(folder: Path) -> Path:
    write_series(VOLUME, folder / "both" / "a")
    write_series(VOLUME, folder / "both" / "b")
    return folder / "both"


def _copies(folder: Path) -> Path:
    files = series(folder)
    for file in files:
        (folder / "series" / f"copy_{file.name}").write_bytes(file.read_bytes())
    return folder / "series"


def _missing_slice(folder: Path) -> Path:
    files = series(folder)
    files[2].unlink()
    return folder / "series"


def _of_class(sop_class: str) -> Callable[[Path], Path]:
    def change(dataset: Dataset) -> None:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = sop_class

    return _each(change)


def _smaller(dataset: Dataset) -> None:
    dataset.Rows, dataset.PixelData = 4, dataset.PixelData[: 4 * dataset.Columns * 2]


def _color(dataset: Dataset) -> None:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = bytes(3 * dataset.Rows * dataset.Columns)


def _same_instance(folder: Path) -> Path:
    """Four different slices under one SOP Instance UID."""
    uid = generate_uid()

    def change(dataset: Dataset) -> None:
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid

    return _each(change)(folder)


_FLAT = [1, 0, 0, 1, 0, 0]
_SIDE = [0, 1, 0, 0, 0, -1]
_DAMAGED = "damaged|cut off|cannot be read|do not|differ"

DICOM = (
    BadInput("a DICOM series", lambda folder: series(folder)[0].parent, VOLUME),
    BadInput("DICOM without pixels", _without("PixelData"), f"{_DAMAGED}|pixel"),
    BadInput("DICOM with too few pixels", _set(PixelData=b"\0\0\0\0"), f"{_DAMAGED}|pixel"),
    BadInput("DICOM of zero rows", _set(Rows=0), f"{_DAMAGED}|pixel"),
    BadInput("DICOM that declares 65535 x 65535 pixels", _set(Rows=65535, Columns=65535), f"{_DAMAGED}|pixel"),
    BadInput("DICOM of 12 bits allocated", _set(BitsAllocated=12), f"{_DAMAGED}|bits"),
    BadInput("DICOM of more bits stored than allocated", _set(BitsStored=24, HighBit=23), f"{_DAMAGED}|bits"),
    BadInput("DICOM without a position", _without("ImagePositionPatient"), "do not say where they lie"),
    BadInput("DICOM without an orientation", _without("ImageOrientationPatient"), "do not say where they lie"),
    BadInput("DICOM with NaN in a position", _bytes(_nan_position), "no number"),
    BadInput("DICOM with two equal directions", _set(ImageOrientationPatient=_FLAT), "perpendicular"),
    BadInput("DICOM of mixed orientations", _set([3], ImageOrientationPatient=_SIDE), "2 images", read_volume),
    BadInput("DICOM without pixel spacing", _without("PixelSpacing"), "spacing|large|pixels|size|where they lie"),
    BadInput("DICOM of spacing 0", _set(PixelSpacing=[0, 0]), f"{_DAMAGED}|spacing|large|size"),
    BadInput("DICOM of negative spacing", _set(PixelSpacing=[-1, 1]), f"{_DAMAGED}|spacing|large|size"),
    BadInput("DICOM slices of different spacing", _set([2], PixelSpacing=[5, 5]), "differ|spacing|size"),
    BadInput("DICOM slices of different size", _each(_smaller, [2]), "differ in size"),
    BadInput("DICOM in color", _each(_color), "color|several"),
    BadInput("DICOM with palette colors", _set(PhotometricInterpretation="PALETTE COLOR"), "color|palette"),
    BadInput("DICOM secondary capture", _of_class(SecondaryCaptureImageStorage), "Secondary|no image|capture|screen"),
    BadInput("a DICOM report", _of_class(BasicTextSRStorage), "no image"),
    BadInput("DICOM of an unknown class", _of_class("1.2.3.4.5"), "kind|known"),
    BadInput("garbage in place of JPEG", _each(_as_encapsulated(JPEGBaseline8Bit, b"\xff\xd8garbage!")), _DAMAGED),
    BadInput("garbage in place of run lengths", _each(_as_encapsulated(RLELossless, bytes(64) + b"ab")), _DAMAGED),
    BadInput("DICOM in another byte order than it says", _wrong_syntax, f"{_DAMAGED}|no image|kind"),
    BadInput("a DICOM file of 1 MB that unpacks to 1 GB", _deflated_bomb, f"{_DAMAGED}|packed|large|deflat|more"),
    BadInput("DICOM cut off in its header", _bytes(lambda content: content[:300]), "missing"),
    BadInput("DICOM cut off in its pixels", _bytes(lambda content: content[:-20]), _DAMAGED),
    BadInput("two series in one place", _two_series, "2 DICOM series", read_volume),
    BadInput("each DICOM file twice", _copies, VOLUME),
    BadInput("a missing slice", _missing_slice, "missing"),
    BadInput("two slices at one place", _set([1, 2], ImagePositionPatient=[0, 0, 0]), "one place|place"),
    BadInput("different slices under one instance UID", _same_instance, "instance|UID|one place|same|twice"),
    BadInput("DICOM with a slope of 0", _set(RescaleSlope=0, RescaleIntercept=0), f"{_DAMAGED}|slope|scale"),
    BadInput("DICOM of one pixel", lambda folder: write_series(
        small_volume(shape=(1, 1, 1)), folder / "s")[0].parent, Volume(np.zeros((1, 1, 1), np.int16), Geometry(
            (1, 1, 1), small_volume(shape=(1, 1, 1)).geometry.ijk_to_ras @ np.diag([1, 1, 1, 1.0])))),
)  # fmt: skip

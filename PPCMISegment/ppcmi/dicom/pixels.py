"""The volume that frames of DICOM files make, with real values in place of stored ones (PS3.3 C.7.6.3, C.11.1).

Real values are stored ones by each frame's own slope and intercept or lookup table. Pictures that are to be displayed
inverted (MONOCHROME1) are inverted within the range of what can be stored, so that bright is bright in all of them;
values in units, of CT and PET, stay. Padding, which is no measurement, gets the smallest value that was measured, so
that it moves neither percentiles nor windows. Whole numbers stay whole, in the smallest type that holds them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels.processing import apply_modality_lut
from pydicom.tag import Tag

from ppcmi.dicom.acquisition import Acquisition, is_regular
from ppcmi.dicom.decoding import stored_frames, value_range
from ppcmi.dicom.frames import DicomFrame, DicomVolume, plane_geometry
from ppcmi.dicom.headers import damage_is_a_read_error, functional_groups, group_of
from ppcmi.dicom.inflating import require_bounded_inflation
from ppcmi.dicom.kinds import VALUES_WITH_UNITS, Kind, kind_of
from ppcmi.dicom.ultrasound import gray_of
from ppcmi.errors import ReadError
from ppcmi.volume import Geometry, Volume

TAGS = [
    Tag(name)
    for name in (
        "SOPClassUID", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows",
        "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue",
        "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "PixelSpacing",
        "ImagerPixelSpacing", "SequenceOfUltrasoundRegions", "BurnedInAnnotation", "PixelData",
        "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    )
]  # fmt: skip

INTEGER_TYPES = tuple(np.dtype(name) for name in ("u1", "i1", "i2", "u2", "i4", "u4"))

WRITING = "The image's header says that text is burnt into it, which may name the patient; look at it before it leaves."
PERHAPS_WRITING = "The ultrasound image does not say whether text is burnt into it; look at it before it leaves."
AT_THE_DETECTOR = "The size of the image's pixels is known at the detector, not in the patient; lengths are too large."
TILTED = (
    "The slices are no regular grid (a tilted gantry or uneven gaps): they were resampled to one, and results as "
    ".seg.nrrd and .nii.gz lie on it; a DICOM result lies on the slices themselves."
)


@dataclass
class _Frames:
    """Frames while they are read: stored values with what makes them real ones, and where padding is."""

    stored: NDArray[Any]
    slopes: list[float] = field(default_factory=list)
    intercepts: list[float] = field(default_factory=list)
    ranges: list[tuple[float, float]] = field(default_factory=list)
    padding: dict[int, NDArray[np.uint8]] = field(default_factory=dict)

    def add(self, frame: NDArray[Any], slope: float, intercept: float, padded: NDArray[np.bool_] | None) -> None:
        """The next frame ``(rows, columns)``."""
        if frame.dtype != self.stored.dtype:
            self.stored = self.stored.astype(np.result_type(frame.dtype, self.stored.dtype), copy=False)
        number = len(self.slopes)
        self.stored[number] = frame
        measured = frame
        if padded is not None and padded.any() and not padded.all():
            self.padding[number] = np.packbits(padded)
            measured = frame[~padded]
        self.slopes.append(slope)
        self.intercepts.append(intercept)
        ends = (float(measured.min()) * slope + intercept, float(measured.max()) * slope + intercept)
        self.ranges.append((min(ends), max(ends)))

    def real(self) -> NDArray[Any]:
        """Real values, in place where they fit."""
        low, high = min(bottom for bottom, _ in self.ranges), max(top for _, top in self.ranges)
        whole = all(float(value).is_integer() for value in (*self.slopes, *self.intercepts))
        dtype = _smallest(low, high, self.stored.dtype) if whole else None
        if dtype is None:
            wide = np.float64 if self.stored.dtype.itemsize > 2 else np.float32
            voxels: NDArray[Any] = np.empty(self.stored.shape, wide)
            for number, (slope, intercept) in enumerate(zip(self.slopes, self.intercepts, strict=True)):
                voxels[number] = self.stored[number].astype(np.float64) * slope + intercept
        else:
            voxels = self._whole(dtype)
        for number, bits in self.padding.items():
            plane = voxels[number]
            plane[np.unpackbits(bits, count=plane.size).reshape(plane.shape).view(bool)] = low
        return voxels

    def _whole(self, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Real values that are whole numbers within the range of ``dtype``.

        The arithmetic is modulo the type's size: what it ends with is right as the result fits, whatever was between.
        """
        voxels = self.stored if dtype.itemsize == self.stored.dtype.itemsize else self.stored.astype(dtype)
        bits = voxels.view(f"u{dtype.itemsize}")
        modulus = 1 << (8 * dtype.itemsize)
        for number, (slope, intercept) in enumerate(zip(self.slopes, self.intercepts, strict=True)):
            if slope != 1:
                bits[number] *= bits.dtype.type(int(slope) % modulus)
            if intercept != 0:
                bits[number] += bits.dtype.type(int(intercept) % modulus)
        return bits.view(dtype)


def read_dicom(source: DicomVolume) -> tuple[Volume, Acquisition | None, tuple[str, ...]]:
    """The volume, how its slices were acquired if they are no regular grid, and what must be known of it.

    :raises ReadError: if a file is damaged, or pixels are in a form that cannot be read.
    """
    frames: _Frames | None = None
    warnings: dict[str, None] = {}
    shape = (0, 0)
    with damage_is_a_read_error():
        for file, places in _by_file(source):
            dataset = _read(file)
            warnings |= dict.fromkeys(_warnings(dataset))
            for place, stored in zip(places, stored_frames(dataset, [p.index for p in places]), strict=True):
                pixels = gray_of(stored, dataset) if stored.ndim == 3 else stored
                if frames is None:
                    shape = pixels.shape
                    frames = _Frames(np.empty((len(source.frames), *shape), pixels.dtype))
                elif pixels.shape != shape:
                    raise ReadError("The DICOM series' images differ in size; export them as series of their own.")
                padded = _padded(pixels, dataset)
                frames.add(*_scaled(pixels, dataset, place.index), padded)
    if frames is None:
        raise ReadError("The DICOM series has no images.")
    voxels = frames.real()
    if is_regular(source.frames):
        return Volume(voxels, regular_geometry(source, shape)), None, tuple(warnings)
    acquisition = Acquisition.of(source.frames, shape)
    return acquisition.regular_volume(voxels), acquisition, (*warnings, TILTED)


def regular_geometry(source: DicomVolume, shape: tuple[int, int]) -> Geometry:
    """Where the voxels of frames of ``shape`` (rows, columns) lie that are a regular grid."""
    frames = source.frames
    first = frames[0]
    step = first.normal * (first.thickness_mm or 1.0)
    if len(frames) > 1:
        step = (frames[-1].position - first.position) / (len(frames) - 1)
    return plane_geometry(first, shape, step, len(frames))


def _by_file(source: DicomVolume) -> Iterator[tuple[Path, list[DicomFrame]]]:
    """Runs of frames that are in one file, in the order of the volume."""
    run: list[DicomFrame] = []
    for frame in source.frames:
        if run and frame.file != run[0].file:
            yield run[0].file, run
            run = []
        run.append(frame)
    yield run[0].file, run


def _read(file: Path) -> Any:
    with file.open("rb") as stream:
        require_bounded_inflation(stream)
        return pydicom.dcmread(stream, force=True, specific_tags=TAGS)


def _scaled(pixels: NDArray[Any], dataset: Any, index: int) -> tuple[NDArray[Any], float, float]:
    """Stored values, or those of a lookup table, with the slope and intercept that make them real."""
    shared, groups = functional_groups(dataset)
    transformation = group_of("PixelValueTransformationSequence", groups[index], shared) if groups else dataset
    slope, intercept = (
        float(1 if transformation.get("RescaleSlope") in (None, "") else transformation.RescaleSlope),
        float(transformation.get("RescaleIntercept") or 0),
    )
    low, high = value_range(dataset)
    if dataset.get("ModalityLUTSequence"):
        pixels = np.asarray(apply_modality_lut(pixels, dataset))
        slope, intercept, low, high = 1.0, 0.0, 0, (1 << int(dataset.ModalityLUTSequence[0].LUTDescriptor[2])) - 1
    if not (math.isfinite(slope) and math.isfinite(intercept)) or slope == 0:
        raise ReadError("The DICOM image's values have no scale: its rescale slope is 0 or no number; export it again.")
    inverted = dataset.get("PhotometricInterpretation") == "MONOCHROME1"
    if inverted and str(dataset.get("SOPClassUID")) not in VALUES_WITH_UNITS:
        return pixels, -slope, slope * (low + high) + intercept
    return pixels, slope, intercept


def _padded(pixels: NDArray[Any], dataset: Any) -> NDArray[np.bool_] | None:
    """Which stored values are padding (PS3.3 C.7.5.1.1.2), None if the header knows of none."""
    value = dataset.get("PixelPaddingValue")
    if value in (None, ""):
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    ends = sorted(_as_stored(int(end), dataset) for end in (value, value if limit in (None, "") else limit))
    padded: NDArray[np.bool_] = (pixels >= ends[0]) & (pixels <= ends[1]) if ends[0] < ends[1] else pixels == ends[0]
    return padded


def _as_stored(value: int, dataset: Any) -> int:
    """A value whose bits were written with the other sign, which many files do, as the pixels have it."""
    modulus = 1 << int(dataset.BitsAllocated)
    value %= modulus
    return value - modulus if int(dataset.PixelRepresentation) and value >= modulus // 2 else value


def _warnings(dataset: Any) -> Iterator[str]:
    kind = kind_of(str(dataset.get("SOPClassUID") or ""))
    burnt_in = str(dataset.get("BurnedInAnnotation") or "").upper()
    if burnt_in == "YES":
        yield WRITING
    elif not burnt_in and kind is Kind.ULTRASOUND:
        yield PERHAPS_WRITING
    if kind is Kind.PROJECTION and not dataset.get("PixelSpacing"):
        yield AT_THE_DETECTOR


def _smallest(low: float, high: float, stored: np.dtype[Any]) -> np.dtype[Any] | None:
    """The stored type if the values fit, else the next that holds them."""
    for dtype in (stored, *(dtype for dtype in INTEGER_TYPES if dtype.itemsize >= stored.itemsize)):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return dtype
    return None

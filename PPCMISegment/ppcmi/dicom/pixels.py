"""The volume that frames of DICOM files make, with real values in place of stored ones (PS3.3 C.7.6.3, C.11.1).

Real values are stored ones by each frame's own slope and intercept or lookup table. Pictures that are to be displayed
inverted (MONOCHROME1) are inverted within the range of what can be stored, so that bright is bright in all of them;
values in units, of CT and PET, stay. Padding, which is no measurement, gets the smallest value that was measured, so
that it moves neither percentiles nor windows. Whole numbers stay whole, in the smallest type that holds them.
"""

from __future__ import annotations

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
from ppcmi.dicom.decoding import stored_frames
from ppcmi.dicom.frames import DicomFrame, DicomVolume, plane_geometry
from ppcmi.dicom.headers import damage_is_a_read_error, functional_groups, group_of
from ppcmi.dicom.inflating import require_bounded_inflation
from ppcmi.dicom.ultrasound import gray_of
from ppcmi.dicom.values import TAGS as VALUE_TAGS
from ppcmi.dicom.values import NativePixels, PixelForm, scale_of, warnings_of
from ppcmi.errors import ReadError
from ppcmi.volume import Geometry, Volume

TAGS = [
    Tag(name)
    for name in (
        *VALUE_TAGS, "SOPClassUID", "PlanarConfiguration", "SequenceOfUltrasoundRegions", "PixelData",
        "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    )
]  # fmt: skip

INTEGER_TYPES = tuple(np.dtype(name) for name in ("u1", "i1", "i2", "u2", "i4", "u4"))

TILTED = (
    "The slices are no regular grid (a tilted gantry or uneven gaps): they were resampled to one, and results as "
    ".seg.nrrd and .nii.gz lie on it; a DICOM result lies on the slices themselves."
)


@dataclass
class _Frames:
    """Frames while they are read: stored values with what makes them real ones, and where padding is.

    :param ranges: of real values, by frame; only of frames that measured something.
    """

    stored: NDArray[Any]
    slopes: list[float] = field(default_factory=list)
    intercepts: list[float] = field(default_factory=list)
    ranges: list[tuple[float, float]] = field(default_factory=list)
    padding: dict[int, NDArray[np.uint8]] = field(default_factory=dict)

    @classmethod
    def for_all(cls, count: int, shape: tuple[int, int], dtype: np.dtype[Any]) -> _Frames:
        """Room for ``count`` frames; memory is taken as they come."""
        return cls(np.empty((count, *shape), dtype))

    def add(self, frame: NDArray[Any], scale: tuple[float, float], padded: NDArray[np.bool_] | None) -> None:
        """The next frame ``(rows, columns)``, perhaps already in its place.

        :raises ReadError: if it is larger or smaller than the others.
        """
        if frame.shape != self.stored.shape[1:]:
            raise ReadError("The DICOM series' images differ in size; export them as series of their own.")
        number = len(self.slopes)
        if frame.dtype != self.stored.dtype:
            self.stored = self.stored.astype(np.result_type(frame.dtype, self.stored.dtype), copy=False)
        if not np.may_share_memory(frame, self.stored[number]):
            self.stored[number] = frame
        self.slopes.append(scale[0])
        self.intercepts.append(scale[1])
        if padded is not None and padded.any():
            self.padding[number] = np.packbits(padded)
            frame = frame[~padded]
        if frame.size:
            ends = [float(end) * scale[0] + scale[1] for end in (frame.min(), frame.max())]
            self.ranges.append((min(ends), max(ends)))

    def real(self) -> NDArray[Any]:
        """Real values, in place where they fit."""
        if not self.ranges:
            raise ReadError("The DICOM image has no measured values, only padding.")
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
    with damage_is_a_read_error():
        for file, places in _by_file(source):
            native = places[0].native if len(places) == 1 else None
            if native is not None:
                form = native.form
                frames = frames or _Frames.for_all(len(source.frames), (form.rows, form.columns), form.dtype)
                if _add_native(frames, file, native):
                    warnings |= dict.fromkeys(native.warnings)
                    continue
            dataset = _read(file)
            warnings |= dict.fromkeys(warnings_of(dataset))
            for place, stored in zip(places, stored_frames(dataset, [p.index for p in places]), strict=True):
                pixels = gray_of(stored, dataset) if stored.ndim == 3 else stored
                padded = PixelForm.of(dataset).is_padding(pixels)
                pixels, scale = _scaled(pixels, dataset, place.index)
                frames = frames or _Frames.for_all(len(source.frames), pixels.shape[:2], pixels.dtype)
                frames.add(pixels, scale, padded)
    if frames is None:
        raise ReadError("The DICOM series has no images.")
    shape = frames.stored.shape[1:]
    voxels = frames.real()
    if is_regular(source.frames):
        return Volume(voxels, regular_geometry(source, shape)), None, tuple(warnings)
    acquisition = Acquisition.of(source.frames, shape)
    return acquisition.regular_volume(voxels), acquisition, (*warnings, TILTED)


def modality_of(source: DicomVolume) -> str:
    """The modality (PS3.3 C.7.3.1.1.1) that the first file states, such as ``MR``; empty if it states none.

    :raises ReadError: if the file is damaged.
    """
    with damage_is_a_read_error(), source.frames[0].file.open("rb") as stream:
        require_bounded_inflation(stream)
        return str(pydicom.dcmread(stream, force=True, specific_tags=["Modality"]).get("Modality") or "")


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


def _add_native(frames: _Frames, file: Path, native: NativePixels) -> bool:
    """Read a frame to its place, unless the file is another one now than when it was found."""
    form = native.form
    number = len(frames.slopes)
    there = frames.stored.dtype == form.dtype and frames.stored.shape[1:] == (form.rows, form.columns)
    target = frames.stored[number] if there else np.empty((form.rows, form.columns), form.dtype)
    with file.open("rb") as stream:
        if not native.read_into(stream, target):
            return False
    stored = form.without_other_bits(target)
    frames.add(stored, native.scale, form.is_padding(stored))
    return True


def _scaled(pixels: NDArray[Any], dataset: Any, index: int) -> tuple[NDArray[Any], tuple[float, float]]:
    """Stored values, or those of a lookup table, with the slope and intercept that make them real."""
    form = PixelForm.of(dataset)
    if dataset.get("ModalityLUTSequence"):
        values = (0, (1 << int(dataset.ModalityLUTSequence[0].LUTDescriptor[2])) - 1)
        return np.asarray(apply_modality_lut(pixels, dataset)), scale_of(dataset, pydicom.Dataset(), values)
    shared, groups = functional_groups(dataset)
    transformation = group_of("PixelValueTransformationSequence", groups[index], shared) if groups else dataset
    return pixels, scale_of(dataset, transformation, form.values)


def _smallest(low: float, high: float, stored: np.dtype[Any]) -> np.dtype[Any] | None:
    """The stored type if the values fit, else the next that holds them."""
    for dtype in (stored, *(dtype for dtype in INTEGER_TYPES if dtype.itemsize >= stored.itemsize)):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return dtype
    return None

"""What a DICOM file's header says that decides which volume its frames belong to, read without its pixels.

The frames of an enhanced multi-frame image say in functional groups what a classic image says for itself (PS3.3
C.7.6.16); here both are :class:`FrameHeader`. Names are the attributes' keywords.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.tag import Tag

from ppcmi.dicom.attributes import Attributes
from ppcmi.dicom.frames import DicomFrame
from ppcmi.dicom.inflating import require_bounded_inflation
from ppcmi.dicom.kinds import Kind, kind_of, what_it_is
from ppcmi.dicom.ultrasound import calibrated_spacing
from ppcmi.dicom.values import TAGS as VALUE_TAGS
from ppcmi.dicom.values import NativePixels, native_pixels
from ppcmi.errors import GeometryError, PpcmiError, ReadError

ORTHONORMAL = 1e-3
"""Largest error of the lengths of direction vectors and of the cosine between them."""

TELL_APART = (
    "ImageType", "FrameType", "ComplexImageComponent", "EchoTime", "EffectiveEchoTime", "EchoNumbers", "InversionTime",
    "DiffusionBValue", "DiffusionGradientOrientation", "TemporalPositionIdentifier", "TemporalPositionIndex",
    "TriggerTime", "NominalCardiacTriggerDelayTime", "FrameReferenceTime", "SequenceName", "AcquisitionNumber",
    "FrameAcquisitionNumber", "ConvolutionKernel", "AcquisitionTime",
)  # fmt: skip
"""In which attributes images at one place differ, the more telling first."""

_GROUPS_THAT_TELL = (
    "MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence", "MREchoSequence",
    "MRDiffusionSequence", "MRModifierSequence", "FrameContentSequence", "CardiacSynchronizationSequence",
    "CTReconstructionSequence",
)  # fmt: skip

TAGS = {
    Tag(name): name
    for name in (
        "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "InstanceNumber", "FrameOfReferenceUID",
        "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "ImagePositionPatient",
        "ImageOrientationPatient", "PixelSpacing", "ImagerPixelSpacing", "SliceThickness",
        "SequenceOfUltrasoundRegions",
        "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "DimensionIndexSequence",
        "ConcatenationUID", "InConcatenationNumber", "InConcatenationTotalNumber", "ConcatenationFrameOffsetNumber",
        *TELL_APART,
        *VALUE_TAGS,
    )
}  # fmt: skip
"""What is read of a header: keywords by tag."""

WITHOUT_PREAMBLE = tuple(
    group.to_bytes(2, "little") + element.to_bytes(2, "little")
    for group, elements in ((0x0002, (0x00, 0x01, 0x02)), (0x0008, (0x00, 0x01, 0x05, 0x08, 0x12, 0x16)))
    for element in elements
)
"""How files begin that lack the preamble of PS3.10 section 7.1: with one of the first elements of their groups."""


@dataclass(frozen=True, eq=False)
class FrameHeader:
    """One frame.

    :param place: where it lies, or None if it does not say.
    :param values: attributes of :data:`TELL_APART`, and its stack's and dimensions' indices, as text.
    """

    place: DicomFrame | None
    values: Mapping[str, str]

    def with_pixels(self, native: NativePixels | None) -> FrameHeader:
        """The same, knowing where its pixels are."""
        return self if self.place is None else FrameHeader(replace(self.place, native=native), self.values)


@dataclass(frozen=True, eq=False)
class FileHeader:
    """One file with an image, or with something else.

    :param frames: in the order in which they are stored.
    :param unit: of a multi-frame image: what tells it from the other multi-frame images of its series.
    :param no_image: why it is none, in a sentence; empty for an image.
    :param refusal: why this image cannot be segmented.
    :param part: of a concatenation (PS3.3 C.7.6.16.2.2.4): number, count or 0, and number of its first frame.
    """

    file: Path
    sop_class: str
    instance_uid: str
    series_uid: str
    series_number: int | None
    instance_number: int
    size: tuple[int, int] = (0, 0)
    frames: tuple[FrameHeader, ...] = ()
    frame_of_reference: str = ""
    unit: str = ""
    no_image: str = ""
    refusal: PpcmiError | None = None
    part: tuple[int, int, int] | None = None


def read_header(file: Path) -> FileHeader | None:
    """The header of a file, None if it is no DICOM file.

    :raises ReadError: if it is one and is damaged, or cannot be opened.
    """
    with damage_is_a_read_error(), file.open("rb") as stream:
        if not _begins_as_dicom(stream):
            return None
        require_bounded_inflation(stream)
        dataset = pydicom.dcmread(stream, force=True, stop_before_pixels=True, specific_tags=list(TAGS))
        attributes = Attributes(dataset, TAGS)
        header = _header(file, attributes)
        if header is None or len(header.frames) != 1 or header.unit:
            return header
        return replace(header, frames=(header.frames[0].with_pixels(native_pixels(attributes, stream)),))


def is_dicom_file(path: Path) -> bool:
    """Whether the file begins as a DICOM file does, with or without the preamble of PS3.10 section 7.1."""
    try:
        with path.open("rb") as stream:
            return _begins_as_dicom(stream)
    except OSError:
        return False


@contextmanager
def damage_is_a_read_error() -> Iterator[None]:
    """Around all that reads values: pydicom parses them when they are asked for."""
    try:
        yield
    except (PermissionError, IsADirectoryError) as error:
        raise ReadError("A DICOM file cannot be opened; check its permissions.") from error
    except (
        InvalidDicomError, BytesLengthException, OSError, ValueError, TypeError, AttributeError, EOFError, KeyError,
        IndexError, NotImplementedError, OverflowError, struct.error,
    ) as error:  # fmt: skip
        raise ReadError("A DICOM file is damaged; copy or export it again.") from error


def group_of(name: str, frame: Any, shared: Any) -> Any:
    """A functional group's one item, of the frame itself or shared by all; empty if there is none."""
    return next(iter(frame.get(name) or shared.get(name) or ()), pydicom.Dataset())


def functional_groups(dataset: Any) -> tuple[Any, list[Any]]:
    """What is shared by all frames, and each frame's own."""
    shared = next(iter(dataset.get("SharedFunctionalGroupsSequence") or ()), pydicom.Dataset())
    return shared, list(dataset.get("PerFrameFunctionalGroupsSequence") or ())


def _begins_as_dicom(stream: BinaryIO) -> bool:
    head = stream.read(132)
    stream.seek(0)
    return head[128:] == b"DICM" or head[:4] in WITHOUT_PREAMBLE


def _header(file: Path, dataset: Any) -> FileHeader | None:
    sop_class = str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID", ""))
    if not sop_class and "Rows" not in dataset:
        return None  # it only began like a DICOM file
    header = FileHeader(
        file,
        sop_class,
        instance_uid=str(dataset.get("SOPInstanceUID") or file),
        series_uid=str(dataset.get("SeriesInstanceUID") or file.parent),
        series_number=_whole(dataset.get("SeriesNumber")),
        instance_number=_whole(dataset.get("InstanceNumber")) or 0,
    )
    kind = kind_of(sop_class)
    no_image = what_it_is(sop_class) if kind is None else _no_image(dataset, kind)
    if kind is None or no_image:
        return replace(header, no_image=no_image)
    if "Rows" not in dataset or "Columns" not in dataset:
        raise EOFError("an image without rows was cut off in its header")
    header = replace(
        header,
        size=(int(dataset.Rows), int(dataset.Columns)),
        frame_of_reference=str(dataset.get("FrameOfReferenceUID") or ""),
    )
    try:
        if min(header.size) < 1:
            raise ReadError("The DICOM image has no pixels; export it again.")
        header = replace(header, frames=_frames(file, dataset, kind))
    except PpcmiError as error:
        return replace(header, refusal=error)
    if "PerFrameFunctionalGroupsSequence" not in dataset:
        return header
    concatenation = str(dataset.get("ConcatenationUID") or "")
    number, count, first = (
        _whole(dataset.get(name)) or 0
        for name in ("InConcatenationNumber", "InConcatenationTotalNumber", "ConcatenationFrameOffsetNumber")
    )
    return replace(
        header,
        unit=concatenation or (header.instance_uid if len(header.frames) > 1 else ""),
        part=(number, count, first) if concatenation else None,
    )


def _no_image(dataset: Any, kind: Kind) -> str:
    """Why an image of a known kind is none to segment, in a sentence; empty if it is one."""
    if "LOCALIZER" in _types(dataset):
        return "The DICOM series is a localizer, which only plans others; choose one of those."
    color = int(dataset.get("SamplesPerPixel") or 1) != 1 or "PALETTE" in str(dataset.get("PhotometricInterpretation"))
    if color and kind is not Kind.ULTRASOUND:
        return "The DICOM image is in color; only images with one value a pixel can be segmented."
    return ""


def _types(dataset: Any) -> list[str]:
    return [str(value).upper() for value in _several(dataset.get("ImageType"))]


def _frames(file: Path, dataset: Any, kind: Kind) -> tuple[FrameHeader, ...]:
    """The image's frames.

    :raises PpcmiError: if it does not say where they lie, or how large their pixels are.
    """
    if "MOSAIC" in _types(dataset):
        raise ReadError("The DICOM images are mosaics of all slices in one picture; export single slices instead.")
    count = int(dataset.get("NumberOfFrames") or 1)
    shared, groups = functional_groups(dataset)
    if kind is Kind.SLICES and groups:
        if len(groups) != count:
            raise ReadError("The DICOM file's header describes another number of frames than it says it has.")
        return tuple(_frame(file, index, group, shared) for index, group in enumerate(groups))
    if count != 1:
        raise ReadError("The DICOM file is a film, whose frames do not say where they lie; export one image of it.")
    values = {name: _text(dataset.get(name)) for name in TELL_APART if dataset.get(name) is not None}
    if kind is Kind.SLICES:
        return (FrameHeader(_place(file, 0, dataset, dataset, dataset), values),)
    spacing = calibrated_spacing(dataset) if kind is Kind.ULTRASOUND else _projected_spacing(dataset)
    place = DicomFrame(file, 0, np.zeros(3), np.eye(3)[:2], spacing)
    return (FrameHeader(place, values),)


def _frame(file: Path, index: int, group: Any, shared: Any) -> FrameHeader:
    found = [group_of(name, group, shared) for name in _GROUPS_THAT_TELL]
    values = {name: _text(item.get(name)) for item in found for name in TELL_APART if item.get(name) is not None}
    content = group_of("FrameContentSequence", group, shared)
    values["StackID"] = _text(content.get("StackID"))
    diffusion = group_of("MRDiffusionSequence", group, shared)
    direction = next(iter(diffusion.get("DiffusionGradientDirectionSequence") or ()), pydicom.Dataset())
    values["DiffusionGradientOrientation"] = _text(direction.get("DiffusionGradientOrientation"))
    for number, value in enumerate(_several(content.get("DimensionIndexValues"))):
        values[f"DimensionIndexValues {number}"] = _text(value)
    place = _place(
        file, index,
        group_of("PlanePositionSequence", group, shared),
        group_of("PlaneOrientationSequence", group, shared),
        group_of("PixelMeasuresSequence", group, shared),
    )  # fmt: skip
    return FrameHeader(place, values)


def _place(file: Path, index: int, position: Any, orientation: Any, measures: Any) -> DicomFrame | None:
    """Where a frame lies; None if it does not say.

    :raises GeometryError: if what it says is not possible.
    """
    origin = position.get("ImagePositionPatient")
    cosines = orientation.get("ImageOrientationPatient")
    if not origin or not cosines:
        return None
    point, numbers = np.array(origin, dtype=float), tuple(float(cosine) for cosine in _several(cosines))
    if point.shape != (3,) or len(numbers) != 6:
        return None
    directions = _unit_directions(numbers)
    if directions is None or not np.isfinite(point).all():
        raise GeometryError(
            "The DICOM image's directions are not perpendicular, or its place is no number; export it again."
        )
    thickness = _positive(measures.get("SliceThickness"))
    return DicomFrame(file, index, point, directions, _spacing(measures.get("PixelSpacing")), thickness)


@lru_cache
def _unit_directions(cosines: tuple[float, ...]) -> NDArray[np.float64] | None:
    """Directions ``(2, 3)`` of length 1, read-only, None if they are not orthonormal; those of a series are alike."""
    directions: NDArray[np.float64] = np.array(cosines).reshape(2, 3)
    if not np.abs(directions @ directions.T - np.eye(2)).max() <= 2 * ORTHONORMAL:
        return None
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    directions.setflags(write=False)
    return directions


def _spacing(value: Any) -> tuple[float, float]:
    numbers = [_positive(number) for number in _several(value)]
    if len(numbers) != 2 or numbers[0] is None or numbers[1] is None:
        raise GeometryError("The DICOM image does not say how large its pixels are; export it with its spacing.")
    return numbers[0], numbers[1]


def _projected_spacing(dataset: Any) -> tuple[float, float]:
    """Of a projection: as calibrated in the patient, else at the detector (PS3.3 10.7.1.3)."""
    return _spacing(dataset.get("PixelSpacing") or dataset.get("ImagerPixelSpacing"))


def _several(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, (pydicom.multival.MultiValue, list, tuple)) else [value]


def _text(value: Any) -> str:
    return "\\".join(str(part) for part in _several(value))


def _whole(value: Any) -> int | None:
    return None if value is None or value == "" else int(value)


def _positive(value: Any) -> float | None:
    number = math.nan if value is None or value == "" else float(value)
    return number if math.isfinite(number) and number > 0 else None

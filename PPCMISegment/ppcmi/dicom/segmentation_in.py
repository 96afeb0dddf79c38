"""Read a DICOM Segmentation: binary, fractional or a label map, on an image's frames or on its own.

Each frame is one plane of one segment (PS3.3 C.8.20.2, C.8.20.3); planes without a segment are mostly left out.
Fractions count from one half. Segments may overlap; each has a mask of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

from ppcmi.dicom.belonging import References, require_belonging
from ppcmi.dicom.frames import DicomFrame
from ppcmi.dicom.headers import damage_is_a_read_error, functional_groups, group_of
from ppcmi.dicom.plane_masks import labelled_places, place_masks
from ppcmi.dicom.planes import ONE_PLANE_MM, PARALLEL, Planes
from ppcmi.errors import ReadError
from ppcmi.formats.declared_size import require_plausible_size
from ppcmi.label_matching import SegmentFacts
from ppcmi.segment_files import PlacedMasks
from ppcmi.sources import ImageSource
from ppcmi.volume import Geometry

SEGMENTATION_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""Segmentation Storage and Label Map Segmentation Storage."""

DEFLATED = ("1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.8.1")
"""Transfer syntaxes whose size in memory cannot be told before it is there."""

DAMAGED = "The DICOM segmentation is damaged or cut off; copy or export it again."
MOST_SEGMENTS = 65535


@dataclass(frozen=True, eq=False)
class DicomSegments:
    """A DICOM Segmentation, and the image that it is asked about.

    :param numbers: each segment's number in the file, by its id.
    :param pixels: ``(n, rows, columns)`` of the frames; ``threshold`` is the least value that counts.
    :param gap_mm: distance of its planes; infinite if there is only one.
    """

    segments: tuple[SegmentFacts, ...]
    numbers: Mapping[str, int]
    frames: tuple[_Frame, ...]
    pixels: NDArray[Any]
    threshold: float
    references: References
    source: ImageSource | None
    gap_mm: float

    def masks_on(self, grid: Geometry | None, ids: Iterable[str]) -> PlacedMasks:
        """See :class:`~ppcmi.segment_files.SegmentFile`."""
        if grid is None:
            raise ReadError("A DICOM segmentation is read with the image that it belongs to; name that as well.")
        planes, plane_of = self._planes()
        stacks = {id_: self._stack(self.numbers[id_], planes, plane_of) for id_ in ids}
        require_belonging(self.references, self.source, labelled_places(planes, stacks.values()), grid)
        return place_masks(planes, stacks, grid)

    def _planes(self) -> tuple[Planes, list[int]]:
        """The image's frames, if all of the segmentation's lie on them, else the segmentation's own planes."""
        places = [frame.place for frame in self.frames]
        shape = self.pixels.shape[1], self.pixels.shape[2]
        if self.source is not None and self.source.dicom is not None:
            of_image = list(self.source.dicom.frames)
            planes, _ = Planes.of(of_image, shape, np.inf)
            if len(planes.corners) == len(of_image) and _lie_on(places, planes):
                heights = planes.heights
                return planes, [int(np.abs(heights - place.position @ planes.normal).argmin()) for place in places]
        return Planes.of(places, shape, self.gap_mm)

    def _stack(self, value: int, planes: Planes, plane_of: list[int]) -> NDArray[np.bool_]:
        """``(m, rows, columns)``: the segment's pixels on each plane."""
        stack = np.zeros((len(planes.corners), *planes.shape), dtype=np.bool_)
        for frame, pixels, plane in zip(self.frames, self.pixels, plane_of, strict=True):
            if frame.segment == value:
                stack[plane] |= pixels >= self.threshold
            elif frame.segment is None:
                stack[plane] |= pixels == value
        return stack


@dataclass(frozen=True, eq=False)
class _Frame:
    """A frame's place and its segment's number, None in a label map."""

    place: DicomFrame
    segment: int | None


def read_dicom_segments(path: Path, source: ImageSource | None) -> DicomSegments:
    """A DICOM Segmentation for an image.

    :raises ReadError: if it is none, is damaged, or its encoding cannot be read.
    """
    with damage_is_a_read_error():
        syntax = pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID", "")
        if syntax in DEFLATED:
            raise ReadError("The DICOM segmentation is packed (deflated), which is not read; save it without that.")
        dataset = pydicom.dcmread(path)
        frames = tuple(_frames(path, dataset))
        pixels, threshold = _pixels(dataset, len(frames))
        segments, numbers = _segments(dataset)
        shared, _ = functional_groups(dataset)
        measures = group_of("PixelMeasuresSequence", _first(dataset), shared)
        gap = float(measures.get("SpacingBetweenSlices") or 0)
        return DicomSegments(
            segments, numbers, frames, pixels, threshold, _references(dataset), source, gap or _least_gap(frames)
        )


def read_dicom_segment_facts(path: Path) -> tuple[SegmentFacts, ...]:
    """What a DICOM Segmentation says of its segments.

    :raises ReadError: if it is damaged.
    """
    with damage_is_a_read_error():
        return _segments(pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SegmentSequence"]))[0]


def _segments(dataset: Any) -> tuple[tuple[SegmentFacts, ...], dict[str, int]]:
    values, segments = {}, []
    for item in dataset.get("SegmentSequence") or ():
        number = int(item.SegmentNumber)
        if not 0 < number <= MOST_SEGMENTS:
            continue  # 0 is a label map's background
        facts = SegmentFacts(str(number), str(item.get("SegmentLabel") or ""), _terminology(item), number)
        values[facts.id] = number
        segments.append(facts)
    if len(values) != len(segments):
        raise ReadError("The DICOM segmentation is damaged: two segments have one number.")
    return tuple(segments), values


def _terminology(item: Any) -> str:
    """Codes as 3D Slicer writes them, see :func:`ppcmi.writing.terminology_entry`."""
    category = _triplet(item.get("SegmentedPropertyCategoryCodeSequence"))
    types = item.get("SegmentedPropertyTypeCodeSequence")
    modifier = types[0].get("SegmentedPropertyTypeModifierCodeSequence") if types else None
    regions = item.get("AnatomicRegionSequence")
    region = regions[0].get("AnatomicRegionModifierSequence") if regions else None
    parts = ["", category, _triplet(types), _triplet(modifier), "", _triplet(regions), _triplet(region)]
    return "~".join(parts)


def _triplet(codes: Any) -> str:
    if not codes:
        return "^^"
    names = ("CodingSchemeDesignator", "CodeValue", "CodeMeaning")
    return "^".join(str(codes[0].get(name) or "").translate(dict.fromkeys(map(ord, "~^|&"), " ")) for name in names)


def _first(dataset: Any) -> Any:
    return next(iter(dataset.get("PerFrameFunctionalGroupsSequence") or ()), pydicom.Dataset())


def _frames(path: Path, dataset: Any) -> Iterable[_Frame]:
    shared, groups = functional_groups(dataset)
    if str(dataset.get("SOPClassUID", "")) not in SEGMENTATION_CLASSES:
        raise ReadError("The DICOM file is no segmentation; choose the one that belongs to the image.")
    if not groups or len(groups) != int(dataset.get("NumberOfFrames") or 1):
        raise ReadError(DAMAGED)
    whole = str(dataset.get("SegmentationType", "")) == "LABELMAP"
    for index, group in enumerate(groups):
        position = np.array(group_of("PlanePositionSequence", group, shared).ImagePositionPatient, dtype=np.float64)
        orientation = group_of("PlaneOrientationSequence", group, shared).ImageOrientationPatient
        directions = np.array(orientation, dtype=np.float64).reshape(2, 3)
        row, column = (float(mm) for mm in group_of("PixelMeasuresSequence", group, shared).PixelSpacing)
        lengths = np.linalg.norm(directions, axis=1)
        if (
            position.shape != (3,)
            or not np.isfinite([*position, *directions.ravel(), row, column]).all()
            or min(row, column) <= 0
            or np.abs(lengths - 1).max() > PARALLEL
            or abs(directions[0] @ directions[1]) > PARALLEL
        ):
            raise ReadError(DAMAGED)
        segment = group_of("SegmentIdentificationSequence", group, shared)
        number = None if whole else int(segment.ReferencedSegmentNumber)
        yield _Frame(DicomFrame(path, index, position, directions, (row, column)), number)


def _pixels(dataset: Any, count: int) -> tuple[NDArray[Any], float]:
    """``(n, rows, columns)`` and the least value that counts."""
    rows, columns, bits = int(dataset.Rows), int(dataset.Columns), int(dataset.BitsAllocated)
    kind = str(dataset.get("SegmentationType", ""))
    if kind not in ("BINARY", "FRACTIONAL", "LABELMAP") or bits not in (1, 8, 16) or rows * columns == 0:
        raise ReadError(DAMAGED)
    declared, compressed = count * rows * columns * bits // 8, dataset.file_meta.TransferSyntaxUID.is_compressed
    if not compressed and len(dataset.PixelData) < declared:
        raise ReadError(DAMAGED)
    require_plausible_size(len(dataset.PixelData), declared)
    if bits == 1 and not compressed:  # frames follow each other bit by bit (PS3.5 section 8.1.1)
        packed = np.frombuffer(dataset.PixelData, dtype=np.uint8)
        pixels: NDArray[Any] = np.unpackbits(packed, count=count * rows * columns, bitorder="little")
    else:
        try:
            pixels = dataset.pixel_array
        except (RuntimeError, NotImplementedError) as error:
            raise ReadError("The DICOM segmentation's encoding cannot be read; save it uncompressed.") from error
    threshold = 1.0
    if kind == "FRACTIONAL":
        threshold = 0.5 * float(dataset.get("MaximumFractionalValue") or 255)
    return pixels.reshape(count, rows, columns), threshold


def _references(dataset: Any) -> References:
    """Series that it names anywhere in its references, and its frame of reference."""
    series = {str(item.get("SeriesInstanceUID", "")) for item in dataset.get("ReferencedSeriesSequence") or ()}
    return References(frozenset({str(dataset.get("FrameOfReferenceUID") or "")}), frozenset(series))


def _least_gap(frames: tuple[_Frame, ...]) -> float:
    """Smallest distance of two planes; infinite if there is one."""
    normal = np.cross(*frames[0].place.directions)
    gaps = np.diff(np.sort([frame.place.position @ normal for frame in frames]))
    return float(min(gaps[gaps > ONE_PLANE_MM], default=np.inf))


def _lie_on(places: list[DicomFrame], planes: Planes) -> bool:
    """Whether each frame is the pixels of one of the planes."""
    tolerance = 0.02 * min(planes.spacing_mm)
    for place in places:
        if (
            np.abs(place.directions - planes.directions).max() > PARALLEL
            or np.abs(np.subtract(place.spacing_mm, planes.spacing_mm)).max() > PARALLEL * min(planes.spacing_mm)
            or np.linalg.norm(planes.corners - place.position, axis=1).min() > tolerance
        ):
            return False
    return True

"""Read a DICOM structure set (RTSTRUCT): closed contours filled on the slices of the image that they were drawn on.

A contour belongs to the slice that it lies in, by its position along the slices' normal, whatever it refers to. Of two
contours of a structure in one slice, one within the other, the inner one is a hole (PS3.3 C.8.8.6.3). A structure of
points or open lines alone is no segment.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

from ppcmi.dicom.belonging import References, require_belonging
from ppcmi.dicom.headers import damage_is_a_read_error
from ppcmi.dicom.plane_masks import labelled_places, place_masks
from ppcmi.dicom.planes import Planes
from ppcmi.dicom.polygons import inside
from ppcmi.errors import GeometryError, ReadError
from ppcmi.label_matching import SegmentFacts
from ppcmi.segment_files import PlacedMasks
from ppcmi.sources import ImageSource
from ppcmi.volume import Geometry, lps_from_ras

STRUCTURE_SET_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"
CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
FEWEST_POINTS = 3

OFF_A_SLICE = 0.25
"""How far from a slice its contours may lie, as a part of the slices' distance; planning systems round positions."""

OFF_SLICES = (
    "The structures' contours lie between the image's slices, or across them; they were drawn on another image. Choose "
    "that one, or export the structures as a segmentation."
)


@dataclass(frozen=True, eq=False)
class DicomStructures:
    """A structure set, and the image that it is asked about.

    :param contours: of each structure by its id, each ``(n, 3)`` LPS millimetres.
    """

    segments: tuple[SegmentFacts, ...]
    contours: Mapping[str, tuple[NDArray[np.float64], ...]]
    references: References
    source: ImageSource | None

    def masks_on(self, grid: Geometry | None, ids: Iterable[str]) -> PlacedMasks:
        """See :class:`~ppcmi.segment_files.SegmentFile`."""
        if grid is None:
            raise ReadError("A structure set is read with the image that it belongs to; name that as well.")
        chosen = list(ids)
        planes = self._planes(grid, [contour for id_ in chosen for contour in self.contours[id_]])
        corners = [contour for id_ in chosen for contour in self.contours[id_]]
        points = np.concatenate([np.empty((0, 3)), *corners]) @ lps_from_ras[:3, :3]
        require_belonging(self.references, self.source, points, grid)
        stacks = {id_: _filled(self.contours[id_], planes) for id_ in chosen}
        if any(self.contours[id_] for id_ in chosen) and not len(labelled_places(planes, stacks.values())):
            raise GeometryError("None of the structures' contours lies in a slice of the image; choose its own image.")
        return place_masks(planes, stacks, grid)

    def _planes(self, grid: Geometry, contours: list[NDArray[np.float64]]) -> Planes:
        """The slices that contours were drawn on: the image's frames, or the voxels' slices along their normal."""
        if self.source is not None and self.source.dicom is not None:
            frames = self.source.dicom.frames
            with damage_is_a_read_error():
                header = pydicom.dcmread(frames[0].file, stop_before_pixels=True, specific_tags=["Rows", "Columns"])
                shape = int(header.Rows), int(header.Columns)
            return Planes.of(frames, shape, np.inf)[0]
        return _planes_of(grid, _normal(contours))


def read_dicom_structures(path: Path, source: ImageSource | None) -> DicomStructures:
    """A structure set for an image.

    :raises ReadError: if it is none, is damaged, or a structure has contours that are not all closed.
    """
    with damage_is_a_read_error():
        dataset = pydicom.dcmread(path)
        if str(dataset.get("SOPClassUID", "")) != STRUCTURE_SET_CLASS:
            raise ReadError("The DICOM file is no structure set; choose the one that belongs to the image.")
        contours = {
            str(int(item.ReferencedROINumber)): _contours(item) for item in dataset.get("ROIContourSequence") or ()
        }
        segments = tuple(facts for facts in _structures(dataset) if contours.get(facts.id))
        return DicomStructures(segments, contours, _references(dataset), source)


def read_dicom_structure_facts(path: Path) -> tuple[SegmentFacts, ...]:
    """What a structure set says of its structures.

    :raises ReadError: if it is damaged.
    """
    return read_dicom_structures(path, None).segments


def _structures(dataset: Any) -> tuple[SegmentFacts, ...]:
    items = dataset.get("StructureSetROISequence") or ()
    found = tuple(
        SegmentFacts(str(int(item.ROINumber)), str(item.get("ROIName") or ""), value=int(item.ROINumber))
        for item in items
    )
    if len({facts.id for facts in found}) != len(found):
        raise ReadError("The structure set is damaged: two structures have one number.")
    return found


def _contours(item: Any) -> tuple[NDArray[np.float64], ...]:
    """Closed contours of a structure; none if it is of points or open lines."""
    contours = list(item.get("ContourSequence") or ())
    closed = [contour for contour in contours if str(contour.get("ContourGeometricType", "")) in CLOSED]
    if closed and any(str(contour.get("ContourGeometricType", "")).startswith("OPEN") for contour in contours):
        raise ReadError(
            "A structure has open contours beside closed ones, which enclose nothing; close or remove them."
        )
    found = []
    for contour in closed:
        points = np.array(contour.ContourData, dtype=np.float64).reshape(-1, 3)
        if not np.isfinite(points).all():
            raise ReadError("The structure set is damaged: a contour's point is not a number; export it again.")
        if len(points) >= FEWEST_POINTS:
            found.append(points)
    return tuple(found)


def _references(dataset: Any) -> References:
    """Frames of reference and series that it names (PS3.3 C.8.8.5)."""
    spaces, series = set(), set()
    for space in dataset.get("ReferencedFrameOfReferenceSequence") or ():
        spaces.add(str(space.get("FrameOfReferenceUID") or ""))
        for study in space.get("RTReferencedStudySequence") or ():
            for item in study.get("RTReferencedSeriesSequence") or ():
                series.add(str(item.get("SeriesInstanceUID") or ""))
    for item in dataset.get("StructureSetROISequence") or ():
        spaces.add(str(item.get("ReferencedFrameOfReferenceUID") or ""))
    return References(frozenset(spaces), frozenset(series))


def _filled(contours: Iterable[NDArray[np.float64]], planes: Planes) -> NDArray[np.bool_]:
    """``(m, rows, columns)``: what contours enclose on each plane; contours beyond the outermost planes are cut off.

    :raises GeometryError: if a contour does not lie in a plane.
    """
    heights = planes.heights
    reach = OFF_A_SLICE * float(min([*np.diff(heights), planes.gap_mm]))
    if not np.isfinite(reach):  # a single slice of unknown thickness
        reach = OFF_A_SLICE * min(planes.spacing_mm)
    of_plane: dict[int, list[NDArray[np.float64]]] = defaultdict(list)
    for contour in contours:
        height = contour @ planes.normal
        plane = int(np.abs(heights - height.mean()).argmin())
        beyond = height.min() > heights[-1] + reach or height.max() < heights[0] - reach
        if np.ptp(height) > 2 * reach or (not beyond and np.abs(height - heights[plane]).max() > reach):
            raise GeometryError(OFF_SLICES)
        if not beyond:
            of_plane[plane].append(planes.pixels(contour, plane))
    stack = np.zeros((len(planes.corners), *planes.shape), dtype=np.bool_)
    for plane, found in of_plane.items():
        stack[plane] = inside(found, planes.shape)
    return stack


def _normal(contours: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Unit vector, LPS, across the contours' planes."""
    spread = np.concatenate([np.zeros((1, 3)), *(contour - contour.mean(axis=0) for contour in contours)])
    normal: NDArray[np.float64] = np.linalg.svd(spread, full_matrices=False)[2][2]
    return normal


def _planes_of(grid: Geometry, normal: NDArray[np.float64]) -> Planes:
    """A grid's slices across the voxel axis nearest to ``normal``."""
    ijk_to_lps = lps_from_ras @ grid.ijk_to_ras
    steps = ijk_to_lps[:3, :3].T
    units = steps / grid.spacing_mm[:, None]
    through = int(np.abs(units @ normal).argmax())
    across, down = (axis for axis in range(3) if axis != through)
    count, sizes = grid.shape[2 - through], (grid.shape[2 - down], grid.shape[2 - across])
    directions = units[[across, down]]
    if abs(directions[0] @ directions[1]) > 1e-3:
        raise GeometryError("The image's rows and columns are not perpendicular; resample it before using contours.")
    corners = ijk_to_lps[:3, 3] + np.arange(count)[:, None] * steps[through]
    if np.cross(*directions) @ steps[through] < 0:
        corners = corners[::-1]
    spacing = (float(grid.spacing_mm[down]), float(grid.spacing_mm[across]))
    gap = float(abs(np.cross(*directions) @ steps[through]))
    return Planes(corners, directions, spacing, sizes, gap)

"""Files in which segments lie, each with a name, and what each voxel of an image is in them.

``.seg.nrrd`` of one layer, or of several where segments overlap, are read here; DICOM Segmentations and structure sets
in :mod:`ppcmi.dicom`. All are a :class:`SegmentFile`.
"""

# mypy: allow-untyped-calls
# SimpleITK annotates only some of its functions.

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from ppcmi.errors import ReadError
from ppcmi.formats.itk_files import read_itk_layers
from ppcmi.label_grid import labels_on
from ppcmi.label_matching import SegmentFacts
from ppcmi.reading import label_values
from ppcmi.volume import Geometry, Volume

_FIELD = re.compile(r"Segment(\d{1,4})_(ID|Name|LabelValue|Layer|Tags)")
_TERMINOLOGY = re.compile(r"TerminologyEntry:([^|]*)")

DAMAGED = "The segmentation's header is damaged: a label value in it is not a number."


@dataclass(frozen=True, eq=False)
class PlacedMasks:
    """Voxels ``(k, j, i)`` of segments on an image's grid, by their ids.

    :param nearest: whether they were drawn on another grid, and taken at the nearest voxel.
    """

    masks: Mapping[str, NDArray[np.bool_]]
    geometry: Geometry
    nearest: bool = False


class SegmentFile(Protocol):
    """Segments that lie in one file."""

    @property
    def segments(self) -> tuple[SegmentFacts, ...]:
        """What is known of each; ids are unique."""

    def masks_on(self, grid: Geometry | None, ids: Iterable[str]) -> PlacedMasks:
        """Some segments on the grid of the image that they belong to; on their own, where they have one, without.

        :raises GeometryError: if they do not belong to it.
        :raises ReadError: if they are damaged, or have no grid of their own.
        """


@dataclass(frozen=True, eq=False)
class NrrdSegments:
    """A ``.seg.nrrd``.

    :param layers: each a label map ``(k, j, i)``; segments of one layer do not overlap.
    :param layer_of: each segment's layer, by its id.
    """

    segments: tuple[SegmentFacts, ...]
    layers: tuple[NDArray[np.unsignedinteger[Any]], ...]
    layer_of: Mapping[str, int]
    geometry: Geometry

    def masks_on(self, grid: Geometry | None, ids: Iterable[str]) -> PlacedMasks:
        """See :class:`SegmentFile`."""
        values = {segment.id: segment.value for segment in self.segments}
        masks, nearest = {}, False
        for id_ in ids:
            mask = self.layers[self.layer_of[id_]] == values[id_]
            if grid is not None:
                placed = labels_on(Volume(mask.view(np.uint8), self.geometry), grid)
                mask, nearest = placed.volume.voxels.view(np.bool_), nearest or placed.nearest
            masks[id_] = mask
        return PlacedMasks(masks, grid or self.geometry, nearest)


def read_nrrd_segments(path: Path) -> NrrdSegments | None:
    """Segments of a ``.seg.nrrd``, None if its header names none.

    :raises ReadError: if it is damaged, its voxels are no label map, or a segment lies in a layer that is not there.
    :raises GeometryError: if it does not say how it lies in the patient.
    """
    file = read_itk_layers(path)
    segments, layer_of = _segments(file.fields)
    if not segments:
        return None
    voxels = label_values(file.voxels if file.voxels.ndim == 4 else file.voxels[..., None])
    layers = tuple(np.ascontiguousarray(voxels[..., index]) for index in range(voxels.shape[3]))
    if not all(0 <= layer < len(layers) for layer in layer_of.values()):
        raise ReadError("The segmentation's header is damaged: a segment lies in a layer that is not there.")
    return NrrdSegments(segments, layers, layer_of, file.geometry)


def read_nrrd_segment_facts(path: Path) -> tuple[SegmentFacts, ...]:
    """What the header of a ``.seg.nrrd`` says of its segments; none if it is another file.

    :raises ReadError: if the header is damaged.
    """
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("NrrdImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise ReadError("The segmentation cannot be read; is the file whole?") from error
    return _segments({key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys() if key.isascii()})[0]


def _segments(fields: Mapping[str, str]) -> tuple[tuple[SegmentFacts, ...], dict[str, int]]:
    """Segments in the order of their numbers, and their layers."""
    by_number: dict[int, dict[str, str]] = {}
    for key, value in fields.items():
        if found := _FIELD.fullmatch(key):
            by_number.setdefault(int(found[1]), {})[found[2]] = value
    numbers = [number for number in sorted(by_number) if "LabelValue" in by_number[number]]
    try:
        segments = tuple(_facts(number, by_number[number]) for number in numbers)
        layers = [int(by_number[number].get("Layer", "0")) for number in numbers]
    except ValueError as error:
        raise ReadError(DAMAGED) from error
    layer_of = {segment.id: layer for segment, layer in zip(segments, layers, strict=True)}
    if len(layer_of) != len(segments):
        raise ReadError("The segmentation's header is damaged: two segments have one identity.")
    return segments, layer_of


def _facts(number: int, fields: Mapping[str, str]) -> SegmentFacts:
    entry = _TERMINOLOGY.search(fields.get("Tags", ""))
    return SegmentFacts(
        id=fields.get("ID", f"Segment{number}"),
        name=fields.get("Name", ""),
        terminology=entry[1] if entry else "",
        value=int(fields["LabelValue"]),
    )

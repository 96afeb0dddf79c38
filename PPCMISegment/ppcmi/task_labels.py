"""Labels of a case as a task numbers them, on the image's grid, whatever file they lie in and whatever numbers it has.

``.seg.nrrd``, DICOM Segmentations and structure sets say what their segments are, with name and codes, and number them
as they like. So segments count by what they are called (:mod:`ppcmi.label_matching`). In a file without names values
are the task's. Labels of another grid are put onto the image's (:mod:`ppcmi.label_grid`), or refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pydicom

from ppcmi.data_folders import CaseFiles
from ppcmi.dicom.headers import damage_is_a_read_error, is_dicom_file
from ppcmi.dicom.segmentation_in import SEGMENTATION_CLASSES, read_dicom_segment_facts, read_dicom_segments
from ppcmi.dicom.structures_in import STRUCTURE_SET_CLASS, read_dicom_structure_facts, read_dicom_structures
from ppcmi.errors import ReadError
from ppcmi.formats.slicer_scene import SCENE_ENDING, read_member, scene_segmentation
from ppcmi.label_grid import labels_on, reaches_out
from ppcmi.label_matching import LabelMatching, SegmentFacts, match_segments
from ppcmi.label_overlap import CombinedLabels, combine_segments
from ppcmi.reading import is_nrrd, read_image, read_labels, require_file
from ppcmi.segment_files import SegmentFile, read_nrrd_segment_facts, read_nrrd_segments
from ppcmi.sources import ImageSource, only_source
from ppcmi.task import Task
from ppcmi.volume import Geometry, Volume

_UNNAMED = re.compile(r"\s*(segment[\s_]*\d*)?\s*", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class TaskLabels:
    """Labels of a task.

    :param volume: uint8, on the image's grid; 0 is background.
    :param nearest: whether they were drawn on another grid, and taken at the nearest voxel.
    :param reach_out: whether they are a label map that lies on the image's voxels and reaches beyond it.
    :param combined: what overlapped, where segments may.
    """

    volume: Volume
    nearest: bool = False
    reach_out: bool = False
    combined: CombinedLabels | None = None


@dataclass(frozen=True, eq=False)
class LabelledCase:
    """Image and labels of a case of a data folder, on one grid."""

    image: Volume
    labels: TaskLabels


def read_labelled_case(case: CaseFiles, task: Task) -> tuple[Volume, Volume]:
    """Image and labels of a case of a data folder, on one grid.

    :raises ReadError: if it has no labels, or either cannot be read.
    :raises GeometryError: as :func:`~ppcmi.reading.read_volume`, and if the labels are another image's.
    """
    read = open_labelled_case(case, task)
    return read.image, read.labels.volume


def open_labelled_case(case: CaseFiles, task: Task, matching: LabelMatching | None = None) -> LabelledCase:
    """As :func:`read_labelled_case`, with what is to be said of the labels.

    :param matching: which segment is which label, where somebody chose.
    """
    if case.label is None:
        raise ReadError("The case has no labels.")
    source = only_source(case.image)
    read = read_image(source)
    task.require_modality(read.modality)
    image = read.volume
    with _labels_by_their_name():
        if matching is None:
            return LabelledCase(image, find_task_labels(case.label, task, image, source))
        file = open_segments(case.label, source)
    if file is None or not {match.segment for match in matching.found} <= {segment.id for segment in file.segments}:
        raise ReadError("The file with the labels has changed; choose the case's segments again.")
    return LabelledCase(image, matched_labels(file, matching, image.geometry))


@contextmanager
def _labels_by_their_name() -> Iterator[None]:
    """Readers call whatever they read the image; here that has been read."""
    try:
        yield
    except ReadError as error:
        if not str(error).startswith("The image"):
            raise
        raise ReadError(str(error).replace("The image", "The label file", 1)) from error


def read_task_labels(
    path: Path, task: Task, image: Volume | Geometry | None = None, source: ImageSource | None = None
) -> Volume:
    """A segmentation with the task's values, 0 elsewhere, on the grid of its image.

    Segments that fit no label are background, if every label that they might be has a segment of its own.

    :param image: that it belongs to, and ``source`` where that lies; without them labels stay on their own grid.
    :raises ReadError: as :func:`~ppcmi.reading.read_labels`, and if segments have names that the task does not know
        while labels of the task are missing, or overlap.
    :raises GeometryError: if it does not belong to the image.
    """
    return find_task_labels(path, task, image, source).volume


def find_task_labels(
    path: Path, task: Task, image: Volume | Geometry | None = None, source: ImageSource | None = None
) -> TaskLabels:
    """As :func:`read_task_labels`, with what is to be said of the labels."""
    grid = image.geometry if isinstance(image, Volume) else image
    file = open_segments(path, source)
    if file is not None and not file.segments:
        raise ReadError("The file has no segments; choose the one with the image's labels.")
    if file is None or not are_named(file.segments):
        return _by_value(path, file, grid)
    matching = match_segments(file.segments, task)
    if not matching.found or (matching.missing and matching.unmatched):
        missing = ", ".join(match.label.name for match in matching.missing)
        raise ReadError(
            f"Segments have names or codes that do not fit the task; name the one that is {missing} so, or remove "
            "those that are none of the task's."
        )
    return matched_labels(file, matching, grid)


def matched_labels(
    file: SegmentFile, matching: LabelMatching, image: Geometry | None, priority: Sequence[int] = ()
) -> TaskLabels:
    """The task's values in place of the segments that they were matched to; segments without a label are background.

    :param priority: values of labels that count first where segments overlap.
    :raises OverlapError: as :func:`~ppcmi.label_overlap.combine_segments`.
    """
    values = {match.segment or "": match.label.value for match in matching.found}
    return _combined(file, values, image, priority)


def open_segments(path: Path, source: ImageSource | None = None) -> SegmentFile | None:
    """The segments in a file for an image, None if it is a label map that names none.

    :raises ReadError: if it is no segmentation, or is damaged.
    """
    if path.is_dir():
        raise ReadError("A segmentation is a single file; a folder was given.")
    require_file(path)
    if is_dicom_file(path):
        if _sop_class(path) == STRUCTURE_SET_CLASS:
            return read_dicom_structures(path, source)
        return read_dicom_segments(path, source)
    if path.name.lower().endswith(SCENE_ENDING):
        item = scene_segmentation(path)
        found = read_member(path, item, read_nrrd_segments)
        return None if found is None else replace(found, geometry=item.placed(found.geometry))
    return read_nrrd_segments(path) if is_nrrd(path) else None


def read_segments(path: Path) -> tuple[SegmentFacts, ...]:
    """What a file says of its segments; none if it is a label map that names none.

    :raises ReadError: if it is damaged.
    """
    require_file(path)
    if is_dicom_file(path):
        return (read_dicom_structure_facts if _sop_class(path) == STRUCTURE_SET_CLASS else read_dicom_segment_facts)(
            path
        )
    if path.name.lower().endswith(SCENE_ENDING):
        return read_member(path, scene_segmentation(path), read_nrrd_segment_facts)
    return read_nrrd_segment_facts(path) if is_nrrd(path) else ()


def are_named(segments: Sequence[SegmentFacts]) -> bool:
    """Whether segments say what they are, so that they count by that; ``Segment_3`` says nothing."""
    return not all(_UNNAMED.fullmatch(segment.name) for segment in segments)


def _by_value(path: Path, file: SegmentFile | None, grid: Geometry | None) -> TaskLabels:
    """Labels of a file without names, whose values are the task's."""
    if file is None:
        if path.name.lower().endswith(SCENE_ENDING):
            raise ReadError("The scene's segmentation names no segments; save it again from 3D Slicer.")
        labels = read_labels(path)
        if grid is None:
            return TaskLabels(labels)
        placed = labels_on(labels, grid)
        return TaskLabels(placed.volume, placed.nearest, not placed.nearest and reaches_out(labels.geometry, grid))
    values = {segment.id: segment.value or 0 for segment in file.segments}
    if len(set(values.values())) < len(values) or not all(0 < value < 256 for value in values.values()):
        raise ReadError("The segmentation's segments have no names and no numbers of their own; name them.")
    return _combined(file, values, grid, ())


def _combined(
    file: SegmentFile, values: Mapping[str, int], grid: Geometry | None, priority: Sequence[int]
) -> TaskLabels:
    placed = file.masks_on(grid, list(values))
    combined = combine_segments({values[id_]: mask for id_, mask in placed.masks.items()}, priority)
    return TaskLabels(Volume(np.asarray(combined.voxels), placed.geometry), placed.nearest, combined=combined)


def _sop_class(path: Path) -> str:
    with damage_is_a_read_error():
        found = str(pydicom.dcmread(path, force=True, specific_tags=["SOPClassUID"]).get("SOPClassUID", ""))
    if found != STRUCTURE_SET_CLASS and found not in SEGMENTATION_CLASSES:
        raise ReadError("The DICOM file is no segmentation or structure set; choose the one of the image.")
    return found

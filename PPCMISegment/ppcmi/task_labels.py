"""Labels of a case as a task numbers them, whatever numbers the file has.

A ``.seg.nrrd`` says which value is which segment, with name and codes, and 3D Slicer numbers segments in the order in
which they were drawn. So its values count by what they are called (:mod:`ppcmi.label_matching`). In a file without
names values are the task's.
"""

# mypy: allow-untyped-calls
# SimpleITK annotates only some of its functions.

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK

from ppcmi.data_folders import CaseFiles
from ppcmi.errors import ReadError
from ppcmi.label_matching import LabelMatching, SegmentFacts, match_segments
from ppcmi.reading import read_labels, read_volume
from ppcmi.task import Task
from ppcmi.volume import Volume

_FIELD = re.compile(r"Segment(\d{1,4})_(ID|Name|LabelValue|Tags)")
_TERMINOLOGY = re.compile(r"TerminologyEntry:([^|]*)")
_UNNAMED = re.compile(r"\s*(segment[\s_]*\d*)?\s*", re.IGNORECASE)


def read_labelled_case(case: CaseFiles, task: Task) -> tuple[Volume, Volume]:
    """Image and labels of a case of a data folder.

    :raises ReadError: if it has no labels, or either cannot be read.
    :raises GeometryError: as :func:`~ppcmi.reading.read_volume`.
    """
    if case.label is None:
        raise ReadError("The case has no labels.")
    return read_volume(case.image), read_task_labels(case.label, task)


def read_task_labels(path: Path, task: Task) -> Volume:
    """A segmentation with the task's values, 0 elsewhere.

    Segments that fit no label are background, if every label that they might be has a segment of its own.

    :raises ReadError: as :func:`~ppcmi.reading.read_labels`, and if segments have names that the task does not know
        while labels of the task are missing.
    """
    labels = read_labels(path)
    segments = read_segments(path)
    if not are_named(segments):
        return labels
    matching = match_segments(segments, task)
    if not matching.found or (matching.missing and matching.unmatched):
        missing = ", ".join(match.label.name for match in matching.missing)
        raise ReadError(
            f"Segments have names or codes that do not fit the task; name the one that is {missing} so, or remove "
            "those that are none of the task's."
        )
    return chosen_labels(labels, segments, matching)


def chosen_labels(labels: Volume, segments: Sequence[SegmentFacts], matching: LabelMatching) -> Volume:
    """A label map with the task's values in place of its segments' own; segments without a label are background."""
    values = {segment.id: segment.value for segment in segments}
    voxels = np.zeros(labels.voxels.shape, dtype=np.uint8)
    for match in matching.found:
        voxels[labels.voxels == values[match.segment or ""]] = match.label.value
    return Volume(voxels, labels.geometry)


def are_named(segments: Sequence[SegmentFacts]) -> bool:
    """Whether segments say what they are, so that they count by that; ``Segment_3`` says nothing."""
    return not all(_UNNAMED.fullmatch(segment.name) for segment in segments)


def read_segments(path: Path) -> list[SegmentFacts]:
    """What the header of a ``.seg.nrrd`` says of its segments; none if it is another file.

    :raises ReadError: if the header is damaged.
    """
    if not path.name.lower().endswith(".nrrd"):
        return []
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise ReadError("The segmentation cannot be read; is the file whole?") from error
    fields: dict[int, dict[str, str]] = {}
    for key in reader.GetMetaDataKeys():
        if found := _FIELD.fullmatch(key):
            fields.setdefault(int(found[1]), {})[found[2]] = reader.GetMetaData(key)
    try:
        return [_facts(number, fields[number]) for number in sorted(fields) if "LabelValue" in fields[number]]
    except ValueError as error:
        raise ReadError("The segmentation's header is damaged: a label value in it is not a number.") from error


def _facts(number: int, fields: dict[str, str]) -> SegmentFacts:
    entry = _TERMINOLOGY.search(fields.get("Tags", ""))
    return SegmentFacts(
        id=fields.get("ID", f"Segment{number}"),
        name=fields.get("Name", ""),
        terminology=entry[1] if entry else "",
        value=int(fields["LabelValue"]),
    )

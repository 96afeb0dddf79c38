"""What may be wrong with a labelled case before it is exported: findings with a sentence each, none of them raised.

They name labels of the task only, never a case, a file or a segment of the user's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from ppcmi.data_folders import CaseFiles
from ppcmi.errors import GeometryError, ReadError
from ppcmi.label_matching import LabelMatching, Match, Reason
from ppcmi.label_overlap import CombinedLabels
from ppcmi.slicing import cropped_labels, slice_grid
from ppcmi.task import Task
from ppcmi.task_labels import TaskLabels, open_labelled_case
from ppcmi.volume import Geometry, Volume
from ppcmi.wording import counted

FEWEST_LABELLED_SLICES = 3
"""A structure of a volume is rarely in fewer slices; where it is, other slices may just not be labelled."""

MOST_CROPPED = 0.05


class Kind(StrEnum):
    """What a finding is about."""

    UNREADABLE = "cannot be read"
    GEOMETRY = "geometry"
    EMPTY = "empty"
    LABEL_EMPTY = "label does not occur"
    UNKNOWN_VALUE = "unknown value"
    FEW_SLICES = "few slices"
    CROPPED = "outside the slices"
    UNMATCHED_LABEL = "label without a segment"
    UNMATCHED_SEGMENT = "segment without a label"
    OVERLAP = "overlap"
    MODEL_RESULT = "a model's result"


@dataclass(frozen=True)
class Finding:
    """One finding; ``prevents`` the export of the case, or is only to be looked at."""

    kind: Kind
    sentence: str
    prevents: bool = False


def check_case(case: CaseFiles, task: Task) -> list[Finding]:
    """What is to be said of a case of a data folder that has labels."""
    if case.label is None:
        return [Finding(Kind.EMPTY, "Nothing is labelled in this case.", prevents=True)]
    try:
        read = open_labelled_case(case, task)
        return check_labels(read.image.geometry, read.labels.volume, task) + check_placing(read.labels, task)
    except (ReadError, GeometryError) as error:
        return [Finding(Kind.UNREADABLE, str(error), prevents=True)]


def check_labels(image: Geometry, labels: Volume, task: Task) -> list[Finding]:
    """What is to be said of a label map for an image on the grid ``image``; what prevents an export comes first."""
    grid = slice_grid(image, task.slicing)
    try:
        cropped = cropped_labels(labels, grid)
    except GeometryError as error:
        return [Finding(Kind.GEOMETRY, str(error), prevents=True)]
    counts = np.bincount(labels.voxels.ravel().astype(np.int64), minlength=task.classes)
    findings = []
    if counts[task.classes :].any():
        sentence = f"The segmentation has values other than 0 to {task.classes - 1}, which are what the task knows."
        findings.append(Finding(Kind.UNKNOWN_VALUE, sentence, prevents=True))
    labelled = int(counts[1:].sum())
    if labelled == 0:
        findings.append(Finding(Kind.EMPTY, "Nothing is labelled in this case.", prevents=True))
        return findings
    if cropped == labelled:
        sentence = "All that is labelled lies outside the task's slices; is it another part of the body?"
        findings.append(Finding(Kind.CROPPED, sentence, prevents=True))
    elif cropped > MOST_CROPPED * labelled:
        share = f"{cropped / labelled:.0%}"
        findings.append(Finding(Kind.CROPPED, f"{share} of what is labelled lies outside the task's slices."))
    findings += [
        Finding(Kind.LABEL_EMPTY, f"{label.name} does not occur; the case teaches that it is not there.")
        for label in task.labels
        if counts[label.value] == 0
    ]
    through = grid.from_voxels(labels.voxels).any(axis=(1, 2))
    return findings + _check_slices(len(grid), int(np.count_nonzero(through)), task)


def check_placing(labels: TaskLabels, task: Task) -> list[Finding]:
    """What is to be said of how labels came onto the image's grid."""
    findings = [] if labels.combined is None else check_overlap(labels.combined, task)
    if labels.nearest:
        sentence = "It was drawn on another grid, and is taken at the nearest voxel."
        findings.append(Finding(Kind.GEOMETRY, sentence))
    if labels.reach_out:
        sentence = "The label map reaches beyond the image; are they of the same scan?"
        findings.append(Finding(Kind.GEOMETRY, sentence))
    return findings


def check_matching(matching: LabelMatching) -> list[Finding]:
    """What is to be said of a matching: labels without a segment, and segments that stay here.

    A label that has none while segments are left over may be one of those: somebody has to choose one, or none.
    """
    if not matching.found:
        sentence = "No segment fits a label of the task; choose one for each label."
        findings = [Finding(Kind.UNMATCHED_LABEL, sentence, prevents=True)]
    else:
        findings = [_without_segment(match, matching) for match in matching.missing]
    if matching.unmatched:
        what = counted(len(matching.unmatched), "segment")
        findings.append(Finding(Kind.UNMATCHED_SEGMENT, f"{what} without a label: counted as background."))
    return findings


def check_overlap(combined: CombinedLabels, task: Task) -> list[Finding]:
    """What is to be said of labels that overlapped."""
    names: Mapping[int, str] = {label.value: label.name for label in task.labels}
    return [
        Finding(Kind.OVERLAP, f"{names[first]} and {names[second]} overlap in {counted(voxels, 'voxel')}.")
        for (first, second), voxels in combined.overlaps.items()
    ]


def _without_segment(match: Match, matching: LabelMatching) -> Finding:
    if match.reason is Reason.CHOSEN or not matching.unmatched:
        return Finding(Kind.UNMATCHED_LABEL, f"{match.label.name} has no segment; it counts as not there.")
    sentence = f"Choose the segment that is {match.label.name}, or choose none."
    return Finding(Kind.UNMATCHED_LABEL, sentence, prevents=True)


def _check_slices(slices: int, labelled: int, task: Task) -> list[Finding]:
    findings = []
    if slices < task.slicing.channels:
        findings.append(
            Finding(Kind.FEW_SLICES, f"The volume has {counted(slices, 'slice')}; the task looks at neighbors as well.")
        )
    if labelled < FEWEST_LABELLED_SLICES < slices:
        findings.append(
            Finding(
                Kind.FEW_SLICES,
                f"Only {labelled} of {slices} slices are labelled; the others count as background. Label every slice "
                "that shows a structure.",
            )
        )
    return findings

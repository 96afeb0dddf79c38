"""Cases of the scene: a volume and the segments of a segmentation that are the task's labels.

Whoever needs them as files, such as a training in a child process, uses :class:`SceneCaseFolder`.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Generator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import slicer
from slicer.i18n import tr as _

from PPCMISegmentLib import SegmentationNodes, VolumeNodes
from PPCMISegmentLib.LabelledCases import CaseReading, LabelledCase, checkSteps
from PPCMISegmentLib.SegmentLogic import SceneChangedError
from PPCMISegmentLib.Steps import inBackground

if TYPE_CHECKING:
    from ppcmi.case_checks import Finding
    from ppcmi.label_matching import LabelMatching
    from ppcmi.task import Task
    from ppcmi.volume import Geometry

PATIENCE_S, PAUSE_S = 60.0, 0.2

LEAST_KEPT, USUALLY_KEPT = 0.5, 0.9
"""Share of a structure's size that is left on the volume's grid: below the first it is another volume's."""


@dataclass(frozen=True, eq=False)
class SceneCase:
    """A volume of the scene with its labels.

    :param name: unique among the cases that are used together.
    :param priority: values of the labels that count first where segments overlap; empty: overlaps are refused.
    """

    name: str
    volumeNode: slicer.vtkMRMLScalarVolumeNode
    segmentationNode: slicer.vtkMRMLSegmentationNode
    matching: LabelMatching
    priority: tuple[int, ...] = ()

    @property
    def identity(self) -> str:
        """See LabelledCase; two patients' volumes may have the same name, and must not get the same pseudonym."""
        return f"{self.name} {VolumeNodes.markOf(self.volumeNode)}"

    def readSteps(self, task: Task, worker: Executor) -> Generator[None, None, CaseReading]:
        """See :class:`~PPCMISegmentLib.LabelledCases.LabelledCase`; a segment a step.

        :raises SceneChangedError: if a node was removed.
        """
        from ppcmi.case_checks import check_matching, check_overlap
        from ppcmi.errors import ReadError
        from ppcmi.label_overlap import combine_segments
        from ppcmi.volume import Volume

        self._requirePresent()
        image = VolumeNodes.volumeFromNode(self.volumeNode, task)
        findings = check_matching(self.matching)
        if not self.matching.found:
            raise ReadError(findings[0].sentence)
        masks: dict[int, np.ndarray] = {}
        size = 0.0
        for match in self.matching.found:
            yield
            self._requirePresent()
            masks[match.label.value] = SegmentationNodes.segmentMask(
                self.segmentationNode, match.segment, self.volumeNode
            )
            size += SegmentationNodes.ownMm3(self.segmentationNode, match.segment)
        combined = yield from inBackground(worker, lambda: combine_segments(masks, self.priority))
        findings += check_overlap(combined, task)
        findings += _checkSize(sum(int(mask.sum()) for mask in masks.values()), size, image.geometry)
        if not SegmentationNodes.liesOnGrid(self.segmentationNode, self.volumeNode):
            findings.append(_finding("GEOMETRY", _("It was drawn on another grid, and is taken at the nearest voxel.")))
        if SegmentationNodes.madeByThisModule(self.segmentationNode, [match.segment for match in self.matching.found]):
            sentence = _("Segments are a model's result: use them only where a physician has reviewed them.")
            findings.append(_finding("MODEL_RESULT", sentence))
        return CaseReading(image, Volume(combined.voxels, image.geometry), tuple(findings))

    def _requirePresent(self) -> None:
        for node in (self.volumeNode, self.segmentationNode):
            if not slicer.mrmlScene.IsNodePresent(node):
                raise SceneChangedError(_("Its volume or segmentation was removed from the scene."))
        present = self.segmentationNode.GetSegmentation().GetSegmentIDs()
        if not {match.segment for match in self.matching.found} <= set(present):
            raise SceneChangedError(_("A segment was removed; choose the case's segments again."))


class SceneCaseFolder:
    """Cases in a private temporary folder (mode 0700), laid out as a data folder; gone with the context.

    The images of patients lie in it meanwhile, under neutral names and without anything but voxels and geometry. Python
    removes it also when Slicer ends in the middle; only when Slicer crashes it stays, for its owner's eyes.

    Example::

        with SceneCaseFolder() as folder:
            yield from folder.writeSteps(cases, task, worker)
            yield from commandSteps(["codec", "train", "--cases", str(folder.path), ...])
    """

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="ppcmi-", ignore_cleanup_errors=True)
        self.path = Path(self._temporary.name)

    def __enter__(self) -> SceneCaseFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._temporary.cleanup()
        if self.path.exists():  # a file is being written still, or, on Windows, read by a child that ends
            threading.Thread(target=self._insist).start()  # no daemon: Slicer's end waits for it

    def _insist(self) -> None:
        end = time.monotonic() + PATIENCE_S
        while self.path.exists() and time.monotonic() < end:
            time.sleep(PAUSE_S)
            self._temporary.cleanup()

    def writeSteps(
        self, cases: Sequence[LabelledCase], task: Task, worker: Executor
    ) -> Generator[None, None, dict[str, str]]:
        """Write the cases that can be used, each under the :func:`caseStem` of its place from 1 on.

        :returns: by the name of each case that cannot, why.
        :raises WriteError: if the disk is full.
        """
        from ppcmi.volume import Volume
        from ppcmi.writing import write_nifti

        for kind in ("images", "labels"):
            (self.path / kind).mkdir(exist_ok=True)
        unusable = {}
        for number, case in enumerate(cases, start=1):
            checked = yield from checkSteps(case, task, worker)
            reading = checked.reading
            if reading is None:
                unusable[case.name] = checked.findings[0].sentence
                continue
            file = f"{caseStem(number)}.nii.gz"
            image = Volume(reading.image.voxels.astype(np.float32), reading.image.geometry)  # what the writer takes
            for kind, volume in (("images", image), ("labels", reading.labels)):
                yield from inBackground(worker, partial(write_nifti, volume, self.path / kind / file))
        return unusable


def caseStem(number: int) -> str:
    """A neutral name for files."""
    return f"case_{number:04}"


def volumeOf(node: slicer.vtkMRMLSegmentationNode) -> slicer.vtkMRMLScalarVolumeNode | None:
    """The volume that a segmentation belongs to: the one it refers to, else the only one on whose grid it lies."""
    reference = SegmentationNodes.referenceVolume(node)
    if reference is not None:
        return reference
    fitting = [volume for volume in VolumeNodes.scalarVolumeNodes() if SegmentationNodes.liesOnGrid(node, volume)]
    return fitting[0] if len(fitting) == 1 else None


def uniqueNames(names: Sequence[str]) -> list[str]:
    """The names, numbered where one comes again: ``MRHead``, ``MRHead (2)``."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return unique


def _checkSize(voxels: int, ownMm3: float, geometry: Geometry) -> list[Finding]:
    """Whether the segments are as large on the volume's grid as on their own."""
    if not ownMm3:
        return []
    kept = voxels * abs(float(np.linalg.det(geometry.ijk_to_ras[:3, :3]))) / ownMm3
    if kept < LEAST_KEPT:
        sentence = _("Only {share:.0%} of what is segmented lies within the volume; is it another volume's?")
        return [_finding("GEOMETRY", sentence.format(share=kept), prevents=True)]
    if kept < USUALLY_KEPT:
        sentence = _("Only {share:.0%} of what is segmented lies within the volume.")
        return [_finding("GEOMETRY", sentence.format(share=kept))]
    return []


def _finding(kind: str, sentence: str, *, prevents: bool = False) -> Finding:
    from ppcmi.case_checks import Finding, Kind

    return Finding(Kind[kind], sentence, prevents)

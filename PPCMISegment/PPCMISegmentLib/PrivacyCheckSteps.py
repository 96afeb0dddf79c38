"""A privacy check of chosen cases in a child process, on copies in a private folder that goes with it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import slicer
from slicer.i18n import tr as _

from PPCMISegmentLib import VolumeNodes
from PPCMISegmentLib.CasePair import CasePair, FolderPair, ScenePair
from PPCMISegmentLib.ChildProcess import ChildFailedError, commandSteps
from PPCMISegmentLib.LabelledCases import LabelledCase
from PPCMISegmentLib.SceneCases import SceneCaseFolder, caseStem
from PPCMISegmentLib.Steps import inBackground

if TYPE_CHECKING:
    from ppcmi.task import Task

RESULTS = "check"

LEFT_OUT = "left out"
"""An event of a case that could not be used any more, with the sentence ``text``."""


@dataclass(frozen=True)
class CheckResult:
    """What a check gave; nothing of it stays on a disk.

    :param page: the report.
    :param problem: why its numbers say nothing, as a sentence; empty if they do.
    """

    page: bytes
    problem: str


def privacyCheckSteps(
    words: Sequence[str], cases: Sequence[LabelledCase], patients: Sequence[int], task: Task, worker: Executor
) -> Generator[dict[str, Any] | None, None, CheckResult]:
    """Run ``ppcmi audit`` with ``words`` on the cases; yields its events, and None now and then.

    :param patients: whose each case is, as numbers that mean nothing elsewhere.
    :raises UsageError: if none of the cases can be used any more.
    :raises ChildFailedError: with the sentence of the command's error.
    """
    from ppcmi.cli.audit import PAGE
    from ppcmi.errors import UsageError
    from ppcmi.files import write_atomically

    yield {"event": "progress", "text": _("Copying the cases for the check...")}
    with SceneCaseFolder() as folder:
        unusable = yield from folder.writeSteps(cases, task, worker)
        for name, reason in unusable.items():
            yield {"event": LEFT_OUT, "text": _("Left out {name}: {reason}").format(name=name, reason=reason)}
        if len(unusable) == len(cases):
            raise UsageError(_("None of the cases can be used any more; look at the table."))
        rows = [f"{caseStem(number)},{patient}" for number, patient in enumerate(patients, start=1)]
        write_atomically(folder.path / "split.csv", "\n".join(["id,patient", *rows]).encode())
        results = folder.path / RESULTS
        command = [*words, "--cases", str(folder.path), "--patients", "patient", "-o", str(results)]
        failure: ChildFailedError | None = None
        try:
            yield from commandSteps([*command, "--picture-events"])
        except ChildFailedError as error:
            if not (results / PAGE).exists():
                raise
            failure = error  # there is a report, which says the same
        page = yield from inBackground(worker, (results / PAGE).read_bytes)
        return CheckResult(page, "" if failure is None else str(failure))


def patientsOf(pairs: Sequence[CasePair]) -> list[int]:
    """Whose each pair is, as numbers from 1 on, so that no patient is both attacked and learned from.

    In the scene the subject hierarchy says it, as far as volumes were loaded from DICOM; else every volume is a
    patient's of its own. In a folder its table says it.
    """
    from ppcmi.audit.subjects import patients_of

    files = [pair.files for pair in pairs if isinstance(pair, FolderPair)]
    ofFiles = iter(patients_of(files, None)) if files else iter(())
    names = [_ofScene(pair) if isinstance(pair, ScenePair) else next(ofFiles) for pair in pairs]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names), start=1)}
    return [numbers[name] for name in names]


def _ofScene(pair: ScenePair) -> str:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = hierarchy.GetItemByDataNode(pair.volumeNode) if hierarchy is not None else 0
    level = slicer.vtkMRMLSubjectHierarchyConstants.GetDICOMLevelPatient()
    patient = hierarchy.GetItemAncestorAtLevel(item, level) if item else 0
    return f"patient {patient}" if patient else f"image {VolumeNodes.markOf(pair.volumeNode)}"

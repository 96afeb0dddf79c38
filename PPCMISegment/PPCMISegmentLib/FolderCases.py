"""Cases of a data folder (``images/``, ``labels/``, ``split.csv``) for the panels."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PPCMISegmentLib.LabelledCases import CaseReading
from PPCMISegmentLib.Steps import inBackground

if TYPE_CHECKING:
    from ppcmi.data_folders import CaseFiles
    from ppcmi.label_matching import LabelMatching
    from ppcmi.task import Task


@dataclass(frozen=True, eq=False)
class FolderCase:
    """A case of a data folder.

    :param matching: which segment of its label file is which label, if they have names; without names its values are
        the task's.
    """

    files: CaseFiles
    matching: LabelMatching | None = None

    @property
    def name(self) -> str:
        """The files' name without ending."""
        return self.files.name

    @property
    def identity(self) -> str:
        """See LabelledCase; a folder has a name only once."""
        return self.files.name

    def readSteps(self, task: Task, worker: Executor) -> Generator[None, None, CaseReading]:
        """See :class:`~PPCMISegmentLib.LabelledCases.LabelledCase`."""

        def read() -> CaseReading:
            from ppcmi.case_checks import check_matching, check_placing
            from ppcmi.task_labels import open_labelled_case

            read = open_labelled_case(self.files, task, self.matching)
            findings = [] if self.matching is None else check_matching(self.matching)
            findings += check_placing(read.labels, task)
            return CaseReading(read.image, read.labels.volume, tuple(findings))

        return (yield from inBackground(worker, read))

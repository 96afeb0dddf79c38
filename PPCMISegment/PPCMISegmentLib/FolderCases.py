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
    from ppcmi.label_matching import LabelMatching, SegmentFacts
    from ppcmi.task import Task


@dataclass(frozen=True, eq=False)
class FolderCase:
    """A case of a data folder.

    :param segments: of its label file, if that names them; without names its values are the task's.
    :param matching: which of them is which label, if they have names.
    """

    files: CaseFiles
    segments: tuple[SegmentFacts, ...] = ()
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
            from ppcmi.case_checks import check_matching
            from ppcmi.errors import ReadError
            from ppcmi.reading import read_labels, read_volume
            from ppcmi.task_labels import chosen_labels

            if self.files.label is None:
                raise ReadError("The case has no labels.")
            image, labels = read_volume(self.files.image), read_labels(self.files.label)
            if self.matching is None:
                return CaseReading(image, labels)
            labels = chosen_labels(labels, self.segments, self.matching)
            return CaseReading(image, labels, tuple(check_matching(self.matching)))

        return (yield from inBackground(worker, read))

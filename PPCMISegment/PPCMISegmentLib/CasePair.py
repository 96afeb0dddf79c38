"""One row of the table of pairs: what it pairs, what a user chose about it, and what its check found."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import slicer
from slicer.i18n import tr as _

from PPCMISegmentLib import SegmentationNodes, VolumeNodes
from PPCMISegmentLib.FolderCases import FolderCase
from PPCMISegmentLib.LabelledCases import CheckedCase, LabelledCase
from PPCMISegmentLib.SceneCases import SceneCase, volumeOf

if TYPE_CHECKING:
    from ppcmi.data_folders import CaseFiles
    from ppcmi.label_matching import LabelMatching, SegmentFacts
    from ppcmi.task import Task

WRONG, FINE = "#c62828", "#2e7d32"


class CasePair:
    """What both kinds of pairs have in common.

    :ivar matching: which segment is which label; None where the file's values are the task's.
    :ivar outcome: of the check, None until there was one.
    :ivar note: what became of the case, in place of the check's result.
    :ivar version: another number whenever there is something else to check.
    """

    def __init__(self, *, checked: bool) -> None:
        self.checked = checked
        self.matching: LabelMatching | None = None
        self.segments: tuple[SegmentFacts, ...] = ()
        self.priority: tuple[int, ...] = ()
        self.outcome: CheckedCase | None = None
        self.note = ""
        self.version = 0
        self._chosen = False
        self._chosenSegments: dict[int, str | None] = {}

    imageName = labelsName = ""
    imageId: str | None = None
    hasBoth = True

    @property
    def usable(self) -> bool:
        """Whether nothing prevents its use."""
        return self.outcome is not None and self.outcome.geometry is not None

    @property
    def status(self) -> str:
        """What a user reads in its row."""
        if self.note or self.outcome is None:
            return self.note or _("checking...")
        if not self.outcome.findings:
            return _("ready")
        return _("ready, with remarks") if self.usable else self.outcome.findings[0].sentence

    @property
    def color(self) -> str:
        """Of the status; empty for that of other texts."""
        if self.note or self.outcome is None:
            return ""
        return FINE if self.usable else WRONG

    def choose(self, checked: bool) -> None:
        """A user checked or unchecked it."""
        self.checked, self._chosen = checked, True

    def proposeChecked(self, checked: bool) -> None:
        """Check or uncheck it as long as no user did."""
        if not self._chosen:
            self.checked = checked

    def chooseSegment(self, value: int, segment: str | None) -> None:
        """A user says which segment is the label with this value; None: there is none."""
        if self.matching is not None:
            self._chosenSegments.pop(value, None)  # the newest choice comes last, as it may take a segment from another
            self._chosenSegments[value] = segment
            self.matching = self.matching.choose(value, segment)

    def forgetOutcome(self) -> None:
        """There is something else to check than there was."""
        self.outcome, self.note = None, ""
        self.version += 1

    def refresh(self) -> None:
        """Forget the check's result if the pair is not what was checked."""

    @property
    def shown(self) -> tuple[object, ...]:
        """Another one when a user has to see something else of it."""
        return self, self.version, self.checked, self.imageName, self.labelsName

    def prepare(self, task: Task) -> Callable[[], None]:
        """What has to be found out in the background before the pair can be checked."""
        return lambda: None

    def incomplete(self) -> CheckedCase:
        """The result for a pair of which one part is missing."""
        from ppcmi.case_checks import Finding, Kind

        return CheckedCase((Finding(Kind.UNREADABLE, self.lacking(), prevents=True),))

    def lacking(self) -> str:
        """What is missing, and what to do."""
        raise NotImplementedError

    def case(self, name: str) -> LabelledCase:
        """The pair as a case."""
        raise NotImplementedError


class ScenePair(CasePair):
    """A segmentation of the scene and the volume that it belongs to.

    :param node: the segmentation.
    """

    def __init__(self, node: slicer.vtkMRMLSegmentationNode, task: Task) -> None:
        super().__init__(checked=True)
        self.segmentationNode, self._task = node, task
        self.volumeNode: slicer.vtkMRMLScalarVolumeNode | None = None
        self.volumes: list[slicer.vtkMRMLScalarVolumeNode] = []
        self._stamp: tuple[object, ...] = ()

    @property
    def imageName(self) -> str:
        """Name of the volume."""
        return self.volumeNode.GetName() if self.volumeNode is not None else _("(none)")

    @property
    def labelsName(self) -> str:
        """Name of the segmentation."""
        return self.segmentationNode.GetName()

    @property
    def imageId(self) -> str | None:
        """Of the volume node."""
        return self.volumeNode.GetID() if self.volumeNode is not None else None

    @property
    def hasBoth(self) -> bool:
        """Whether there is a volume."""
        return self.volumeNode is not None

    def setVolume(self, node: slicer.vtkMRMLScalarVolumeNode | None) -> None:
        """The volume that a user says it belongs to."""
        self.volumeNode = node

    def proposeChecked(self, checked: bool) -> None:
        """A model's result is not proposed: a physician has to have reviewed it."""
        ids = [segment.id for segment in self.segments]
        super().proposeChecked(checked and not SegmentationNodes.madeByThisModule(self.segmentationNode, ids))

    def refresh(self) -> None:
        """Look which volumes there are, and whether segments came, went or changed."""
        from ppcmi.label_matching import match_segments

        self.volumes = VolumeNodes.scalarVolumeNodes()
        if self.volumeNode not in self.volumes:
            self.volumeNode = volumeOf(self.segmentationNode)
        segments = tuple(SegmentationNodes.segmentFacts(self.segmentationNode))
        if self.matching is None or segments != self.segments:
            self.segments = segments
            self.matching = self._withChoices(match_segments(segments, self._task))
        stamp = (self.volumeNode, _changedAt(self.volumeNode), SegmentationNodes.changedAt(self.segmentationNode))
        if stamp != self._stamp:
            self._stamp = stamp
            self.forgetOutcome()

    @property
    def shown(self) -> tuple[object, ...]:
        """See the base class; the volumes are offered for choice."""
        return *super().shown, tuple(self.volumes)

    def _withChoices(self, matching: LabelMatching) -> LabelMatching:
        """What a user chose before counts still, as far as its segments are there."""
        present = {segment.id for segment in self.segments}
        for value, segment in self._chosenSegments.items():
            if segment is None or segment in present:
                matching = matching.choose(value, segment)
        return matching

    def lacking(self) -> str:
        """See the base class."""
        return _("Choose the volume that it belongs to, below.")

    def case(self, name: str) -> SceneCase:
        """See the base class."""
        return SceneCase(name, self.volumeNode, self.segmentationNode, self.matching, self.priority)


class FolderPair(CasePair):
    """An image and its labels in a data folder."""

    def __init__(self, files: CaseFiles) -> None:
        super().__init__(checked=files.label is not None and files.fold in (None, "train"))
        self.files = files
        self._prepared = False

    @property
    def imageName(self) -> str:
        """The case's name."""
        return self.files.name

    @property
    def labelsName(self) -> str:
        """The file with the labels, and the fold that the folder's table puts the case into."""
        name = self.files.label.name if self.files.label is not None else _("(none)")
        return name if self.files.fold is None else f"{name} ({self.files.fold})"

    @property
    def hasBoth(self) -> bool:
        """Whether there are labels."""
        return self.files.label is not None

    def prepare(self, task: Task) -> Callable[[], None]:
        """Read what the label file says of its segments."""

        def look() -> None:
            from ppcmi.errors import ReadError
            from ppcmi.label_matching import match_segments
            from ppcmi.task_labels import are_named, read_segments

            if self._prepared or self.files.label is None:
                return
            try:
                segments = read_segments(self.files.label)
            except ReadError:
                return  # the check reads the file again, and says so
            if are_named(segments):
                self.segments, self.matching = tuple(segments), match_segments(segments, task)
            self._prepared = True

        return look

    def lacking(self) -> str:
        """See the base class."""
        return _("The folder has no labels for this image.")

    def case(self, name: str) -> FolderCase:
        """See the base class; files keep the name that the folder gives them."""
        return FolderCase(self.files, self.matching)


def _changedAt(node: slicer.vtkMRMLScalarVolumeNode | None) -> tuple[int, int]:
    if node is None or node.GetImageData() is None:
        return 0, 0
    return node.GetMTime(), node.GetImageData().GetMTime()

"""The table of image and segmentation pairs, from the scene or from a folder, each checked in the background.

Reusable wherever labelled cases are chosen::

    pairs = CasePairs(table, worker, onChanged, onSelected)
    pairs.showScene(task)
    pairs.labelledCases()
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING

import qt
import slicer
import vtk

from PPCMISegmentLib import SegmentationNodes
from PPCMISegmentLib.CasePair import CasePair, FolderPair, ScenePair
from PPCMISegmentLib.LabelledCases import CheckedCase, LabelledCase, checkSteps
from PPCMISegmentLib.SceneCases import uniqueNames
from PPCMISegmentLib.Steps import Steps, inBackground, sentenceOf

if TYPE_CHECKING:
    from ppcmi.data_folders import CaseFiles
    from ppcmi.task import Task
    from ppcmi.volume import Geometry

IMAGE_COLUMN, LABELS_COLUMN, STATUS_COLUMN = 0, 1, 2
FOLLOW_MS = 100
FOLLOWED_CLASSES = ("vtkMRMLScalarVolumeNode", "vtkMRMLSegmentationNode")


class CasePairs:
    """Rows of a table, one for each pair; empty until one of the ``show`` methods is called.

    :param table: with the columns image, segmentation and status.
    :param worker: where images are read and checked.
    :param onChanged: called when what :meth:`labelledCases` gives may be another.
    :param onSelected: called with the pair whose row was chosen, or None.
    """

    def __init__(
        self,
        table: qt.QTableWidget,
        worker: Executor,
        onChanged: Callable[[], None],
        onSelected: Callable[[CasePair | None], None] = lambda pair: None,
    ) -> None:
        self._table, self._worker, self._onChanged, self._onSelected = table, worker, onChanged, onSelected
        self._pairs: list[CasePair] = []
        self._known: dict[str, CasePair] = {}
        self._task: Task | None = None
        self._checking, self._listing = Steps(), Steps()
        self._underCheck: tuple[CasePair, int] | None = None
        self._editable = True
        self.problem = ""
        table.horizontalHeader().setStretchLastSection(True)
        table.verticalHeader().setVisible(False)
        table.connect("itemChanged(QTableWidgetItem*)", self._onItemChanged)
        table.connect("itemSelectionChanged()", self._onSelectionChanged)
        scene = slicer.mrmlScene
        self._tags = [
            scene.AddObserver(event, onEvent)
            for events, onEvent in (
                ((scene.NodeAddedEvent, scene.NodeRemovedEvent), self._onNodeCameOrWent),
                ((scene.EndImportEvent, scene.EndCloseEvent), self._onSceneChanged),
            )
            for event in events
        ]
        self._nodeTags: dict[slicer.vtkMRMLSegmentationNode, int] = {}
        self._followsScene = False
        self._timer = qt.QTimer()  # a node that is loaded changes many times
        self._timer.setSingleShot(True)
        self._timer.setInterval(FOLLOW_MS)
        self._timer.connect("timeout()", self._follow)

    # ---- what is in the table

    def showScene(self, task: Task) -> None:
        """The scene's segmentations, each with its volume; what a user chose before stays chosen."""
        self._listing.cancel()
        self._followsScene, self.problem = True, ""
        self._takeScene(task)
        self._rebuild()

    def _takeScene(self, task: Task) -> None:
        nodes = SegmentationNodes.segmentationNodes()
        self._observe(nodes)
        # Not by node ID: in a scene that took another's place, other nodes have the same ones.
        keys = [node.GetAddressAsString("") for node in nodes]
        makers = [lambda node=node: ScenePair(node, task) for node in nodes]
        self._take(task, list(zip(keys, makers, strict=True)))
        seen: set[str] = set()
        for pair in self._pairs:  # of two segmentations of one volume, only the first is what a user may want unasked
            first = pair.imageId is None or pair.imageId not in seen
            pair.proposeChecked(first)
            if pair.checked:
                seen.add(pair.imageId or "")

    def showFolder(self, folder: Path, task: Task) -> None:
        """The cases of a data folder; those that its ``split.csv`` holds out are not checked at first."""
        from ppcmi.data_folders import find_cases

        def find() -> list[tuple[str, CaseFiles]]:
            return [(_stampOf(case), case) for case in find_cases(folder)]

        def show(cases: list[tuple[str, CaseFiles]]) -> None:
            self._take(task, [(stamp, lambda case=case: FolderPair(case)) for stamp, case in cases])
            self._rebuild()

        self.clear()
        self._listing.start(
            inBackground(self._worker, find),
            onEvent=lambda _none: None,
            onDone=show,
            onError=self._onFailed,
        )

    def clear(self) -> None:
        """No rows."""
        self._listing.cancel()
        self._followsScene = False
        self.problem = ""
        self._pairs = []
        self._rebuild()

    def close(self) -> None:
        """Stop following the scene and checking."""
        self._checking.cancel()
        self._listing.cancel()
        self._timer.stop()
        self._observe([])
        for tag in self._tags:
            slicer.mrmlScene.RemoveObserver(tag)
        self._tags = []

    def pairs(self) -> list[CasePair]:
        """Every row."""
        return list(self._pairs)

    def checkedPairs(self) -> list[CasePair]:
        """Rows that are checked, from top to bottom."""
        return [pair for pair in self._pairs if pair.checked]

    def usablePairs(self) -> list[CasePair]:
        """Rows that are checked and that nothing prevents from being used."""
        return [pair for pair in self._pairs if pair.checked and pair.usable]

    def labelledCases(self) -> list[LabelledCase]:
        """The cases of :meth:`usablePairs`, under names that differ."""
        pairs = self.usablePairs()
        names = uniqueNames([pair.imageName for pair in pairs])
        return [pair.case(name) for pair, name in zip(pairs, names, strict=True)]

    def geometries(self) -> list[Geometry]:
        """Grids of the images of :meth:`usablePairs`."""
        return [pair.outcome.geometry for pair in self.usablePairs()]

    @property
    def checking(self) -> bool:
        """Whether rows that are checked are still being looked at, or a folder is."""
        return self._listing.running or any(pair.checked and pair.outcome is None for pair in self._pairs)

    # ---- what can be done with a row

    def selected(self) -> CasePair | None:
        """The pair whose row is chosen."""
        row = self._table.currentRow()
        return self._pairs[row] if 0 <= row < len(self._pairs) else None

    def changed(self, pair: CasePair) -> None:
        """Look at a pair again, as something about it was chosen differently."""
        pair.forgetOutcome()
        self._showRow(pair)
        self._check()

    def setNote(self, pair: CasePair, text: str) -> None:
        """Show a note in place of the checks' result, such as that the case was exported."""
        pair.note = text
        self._showRow(pair)

    def uncheck(self, pair: CasePair) -> None:
        """What is done need not be done again."""
        if pair in self._pairs:
            self._table.item(self._pairs.index(pair), IMAGE_COLUMN).setCheckState(qt.Qt.Unchecked)

    def setEditable(self, editable: bool) -> None:
        """Whether check boxes react to clicks; nothing is checked in the background while they do not."""
        self._editable = editable
        for row in range(len(self._pairs)):
            self._table.item(row, IMAGE_COLUMN).setFlags(self._flags())
        self._check()

    # ---- inside

    def _take(self, task: Task, wanted: Sequence[tuple[str, Callable[[], CasePair]]]) -> None:
        if self._task is None or self._task.identity != task.identity:
            self._known = {}
        self._task = task
        self._pairs = []
        for key, make in wanted:
            pair = self._known.get(key) or make()
            pair.refresh()
            self._pairs.append(pair)
        self._known = {key: pair for (key, _make), pair in zip(wanted, self._pairs, strict=True)}

    def _rebuild(self) -> None:
        chosen = self.selected()
        blocked = self._table.blockSignals(True)
        self._table.setRowCount(len(self._pairs))
        for row in range(len(self._pairs)):
            for column in (IMAGE_COLUMN, LABELS_COLUMN, STATUS_COLUMN):
                self._table.setItem(row, column, qt.QTableWidgetItem(""))
        for pair in self._pairs:
            self._showRow(pair)
        for column in (IMAGE_COLUMN, LABELS_COLUMN):
            self._table.resizeColumnToContents(column)
        if chosen in self._pairs:
            self._table.selectRow(self._pairs.index(chosen))
        elif self._pairs:
            self._table.selectRow(0)
        self._table.blockSignals(blocked)
        self._onSelected(self.selected())
        self._check()
        self._onChanged()

    def _showRow(self, pair: CasePair) -> None:
        if pair not in self._pairs:
            return
        blocked = self._table.blockSignals(True)
        image, labels, status = (self._table.item(self._pairs.index(pair), column) for column in range(3))
        image.setText(pair.imageName)
        image.setFlags(self._flags())
        image.setCheckState(qt.Qt.Checked if pair.checked else qt.Qt.Unchecked)
        labels.setText(pair.labelsName)
        text, color = pair.status, pair.color
        status.setText(text)
        status.setToolTip("\n".join([text, *(f.sentence for f in (pair.outcome.findings if pair.outcome else ()))]))
        status.setForeground(qt.QBrush(qt.QColor(color)) if color else image.foreground())
        self._table.blockSignals(blocked)

    def _flags(self) -> int:
        flags = qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable
        return flags | qt.Qt.ItemIsUserCheckable if self._editable else flags

    def _check(self) -> None:
        """Look at the rows that were not looked at yet; a look at a pair that is what it was goes on."""
        if not self._editable or not self._checkHolds():
            self._checking.cancel()
            self._underCheck = None
        if self._checking.running or self._task is None or not self._editable or self._nextToCheck() is None:
            return
        self._checking.start(
            self._checkAll(self._task), onEvent=self._onChecked, onDone=self._onAllChecked, onError=self._onFailed
        )

    def _checkAll(self, task: Task) -> Generator[CasePair | None, None, None]:
        while (pair := self._nextToCheck()) is not None:
            self._underCheck = pair, pair.version
            yield from inBackground(self._worker, pair.prepare(task))
            if pair.hasBoth:
                checked = yield from checkSteps(pair.case(pair.imageName), task, self._worker)
            else:
                checked = pair.incomplete()
            pair.outcome = CheckedCase(checked.findings, checked.geometry if checked.usable else None)
            yield pair

    def _checkHolds(self) -> bool:
        """Whether the pair that is being looked at is there still, and is what it was."""
        if self._underCheck is None:
            return False
        pair, version = self._underCheck
        return pair in self._pairs and pair.version == version

    def _nextToCheck(self) -> CasePair | None:
        return next((pair for pair in self._pairs if pair.outcome is None), None)

    def _onChecked(self, pair: CasePair | None) -> None:
        if pair is None:
            return
        self._showRow(pair)
        if pair is self.selected():
            self._onSelected(pair)
        self._onChanged()

    def _onAllChecked(self, _none: None) -> None:
        self._onChanged()

    def _onFailed(self, error: Exception) -> None:
        self.problem = sentenceOf(error)
        self._onChanged()

    def _onItemChanged(self, item: qt.QTableWidgetItem) -> None:
        if item.column() == IMAGE_COLUMN:
            self._pairs[item.row()].choose(item.checkState() == qt.Qt.Checked)
            self._onChanged()

    def _onSelectionChanged(self) -> None:
        self._onSelected(self.selected())

    def _observe(self, nodes: Sequence[slicer.vtkMRMLSegmentationNode]) -> None:
        for node, tag in self._nodeTags.items():
            node.RemoveObserver(tag)
        self._nodeTags = {node: node.AddObserver(vtk.vtkCommand.AnyEvent, self._onSceneChanged) for node in nodes}

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onNodeCameOrWent(self, caller: object, event: str, node: slicer.vtkMRMLNode) -> None:
        # Also a check adds nodes and takes them away: what is made of a segment on the volume's grid.
        if node.GetClassName() in FOLLOWED_CLASSES:
            self._onSceneChanged(caller, event)

    def _onSceneChanged(self, _caller: object, _event: str) -> None:
        if self._followsScene:
            self._timer.start()

    def _follow(self) -> None:
        """Show what the scene has now; while nobody sees the table only nodes that are gone count."""
        if not self._followsScene or self._task is None or not self._editable or slicer.mrmlScene.IsBatchProcessing():
            return
        if not self._table.visible and all(slicer.mrmlScene.IsNodePresent(node) for node in self._nodeTags):
            return
        before = self._shown()
        self._takeScene(self._task)
        if self._shown() != before:  # nodes tell of much that is of no interest, and a table that is rebuilt disturbs
            self.problem = ""
            self._rebuild()

    def _shown(self) -> list[tuple[object, ...]]:
        return [pair.shown for pair in self._pairs]


def _stampOf(case: CaseFiles) -> str:
    """Another one when a file was replaced."""
    files = [file for file in (case.image, case.label) if file is not None]
    return "|".join(f"{file}:{file.stat().st_mtime_ns}" for file in files)

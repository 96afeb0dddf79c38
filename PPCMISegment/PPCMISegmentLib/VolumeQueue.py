"""The scene's volumes as a table with a check box and a status each, that follows the scene."""

from __future__ import annotations

from collections.abc import Callable, Collection

import qt
import slicer
import vtk

from PPCMISegmentLib import VolumeNodes

VOLUME_COLUMN, STATUS_COLUMN = 0, 1


class VolumeQueue:
    """Rows of a table, one for each volume; empty until :meth:`refresh`.

    :param table: with the columns volume and status.
    :param onChanged: called when a volume was added, removed, renamed, checked or unchecked.
    """

    def __init__(self, table: qt.QTableWidget, onChanged: Callable[[], None]) -> None:
        self._table, self._onChanged = table, onChanged
        self._nodes: list[slicer.vtkMRMLScalarVolumeNode] = []
        # By node, not by its ID: in a scene that took another's place, other patients' volumes have the same ones.
        self._unchecked: set[slicer.vtkMRMLScalarVolumeNode] = set()
        self._status: dict[slicer.vtkMRMLScalarVolumeNode, str] = {}
        self._editable = True
        table.horizontalHeader().setStretchLastSection(True)
        table.verticalHeader().setVisible(False)
        table.connect("itemChanged(QTableWidgetItem*)", self._onItemChanged)
        scene = slicer.mrmlScene
        self._tags = [
            scene.AddObserver(event, self._onSceneChanged)
            for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndImportEvent, scene.EndCloseEvent)
        ]
        self._nameTags: dict[slicer.vtkMRMLScalarVolumeNode, int] = {}

    def close(self) -> None:
        """Stop following the scene."""
        for tag in self._tags:
            slicer.mrmlScene.RemoveObserver(tag)
        self._tags = []
        self._observeNames([])

    def nodes(self) -> list[slicer.vtkMRMLScalarVolumeNode]:
        """Every volume in the table."""
        return list(self._nodes)

    def checkedNodes(self) -> list[slicer.vtkMRMLScalarVolumeNode]:
        """Volumes that are checked, from top to bottom."""
        return [node for node in self._nodes if node not in self._unchecked]

    def setStatus(self, node: slicer.vtkMRMLScalarVolumeNode, text: str) -> None:
        """Show a status in the node's row; a node that is gone has none."""
        if node not in self._nodes or self._status.get(node) == text:
            return
        self._status[node] = text
        item = self._table.item(self._nodes.index(node), STATUS_COLUMN)
        item.setText(text)
        item.setToolTip(text)

    def clearStatus(self, texts: Collection[str]) -> None:
        """Take away statuses that do not hold any more."""
        for node in self._nodes:
            if self._status.get(node) in texts:
                self.setStatus(node, "")

    def uncheck(self, node: slicer.vtkMRMLScalarVolumeNode) -> None:
        """What is done need not be done again."""
        if node in self._nodes:
            self._table.item(self._nodes.index(node), VOLUME_COLUMN).setCheckState(qt.Qt.Unchecked)

    def setEditable(self, editable: bool) -> None:
        """Whether check boxes react to clicks."""
        self._editable = editable
        for row in range(len(self._nodes)):
            self._table.item(row, VOLUME_COLUMN).setFlags(self._flags())

    def refresh(self) -> None:
        """Rebuild the table from the scene."""
        self._nodes = VolumeNodes.scalarVolumeNodes()
        self._unchecked.intersection_update(self._nodes)
        self._status = {node: text for node, text in self._status.items() if node in self._nodes}
        self._observeNames(self._nodes)
        blocked = self._table.blockSignals(True)
        self._table.setRowCount(len(self._nodes))
        for row, node in enumerate(self._nodes):
            name = qt.QTableWidgetItem(node.GetName())
            name.setFlags(self._flags())
            name.setCheckState(qt.Qt.Unchecked if node in self._unchecked else qt.Qt.Checked)
            self._table.setItem(row, VOLUME_COLUMN, name)
            self._table.setItem(row, STATUS_COLUMN, qt.QTableWidgetItem(self._status.get(node, "")))
        self._table.resizeColumnToContents(VOLUME_COLUMN)
        self._table.blockSignals(blocked)
        self._onChanged()

    def _flags(self) -> int:
        flags = qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable
        return flags | qt.Qt.ItemIsUserCheckable if self._editable else flags

    def _onItemChanged(self, item: qt.QTableWidgetItem) -> None:
        if item.column() != VOLUME_COLUMN:
            return
        node = self._nodes[item.row()]
        if item.checkState() == qt.Qt.Checked:
            self._unchecked.discard(node)
        else:
            self._unchecked.add(node)
        self._onChanged()

    def _onSceneChanged(self, _caller: object, _event: str) -> None:
        if not slicer.mrmlScene.IsBatchProcessing() and self._nodes != VolumeNodes.scalarVolumeNodes():
            self.refresh()

    def _observeNames(self, nodes: list[slicer.vtkMRMLScalarVolumeNode]) -> None:
        for node, tag in self._nameTags.items():
            node.RemoveObserver(tag)
        self._nameTags = {node: node.AddObserver(vtk.vtkCommand.ModifiedEvent, self._onNodeModified) for node in nodes}

    def _onNodeModified(self, node: slicer.vtkMRMLScalarVolumeNode, _event: str) -> None:
        if node in self._nodes:
            item = self._table.item(self._nodes.index(node), VOLUME_COLUMN)
            if item is not None and item.text() != node.GetName():
                item.setText(node.GetName())
            elif node.GetHideFromEditors():
                self.refresh()

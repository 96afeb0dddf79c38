"""Stand-ins for Slicer's widgets that show a segmentation and its segments."""

from typing import Any, ClassVar

from PySide6 import QtWidgets
from PySide6.QtCore import Qt, Signal, Slot

from .ctk_widgets import plain_property
from .mrml_widgets import Observers, qMRMLNodeComboBox, qMRMLWidget


class qMRMLSegmentationShow3DButton(QtWidgets.QPushButton):
    """Makes the surfaces of a segmentation and shows or hides them."""

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__("Show 3D", parent)
        self._segmentation_node: Any = None
        self.setCheckable(True)
        self.setEnabled(False)
        self.clicked.connect(self._show_surfaces)

    def segmentationNode(self) -> Any:
        """The segmentation, or None."""
        return self._segmentation_node

    def setSegmentationNode(self, node: Any) -> None:
        """Serve this segmentation."""
        self._segmentation_node = node
        self.setEnabled(node is not None)
        self.setChecked(node is not None and node.GetSegmentation().ContainsRepresentation("Closed surface"))

    def _show_surfaces(self, on: bool) -> None:
        if on:
            self._segmentation_node.CreateClosedSurfaceRepresentation()
        else:
            self._segmentation_node.RemoveClosedSurfaceRepresentation()


class qMRMLSegmentsTableView(qMRMLWidget):
    """The segments of a segmentation, one a line."""

    selectionChanged = Signal()
    headerVisible = plain_property(bool, True)
    readOnly = plain_property(bool, False)
    visibilityColumnVisible = plain_property(bool, True)
    colorColumnVisible = plain_property(bool, True)
    opacityColumnVisible = plain_property(bool, True)
    statusColumnVisible = plain_property(bool, False)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._node: Any = None
        self._list = QtWidgets.QListWidget(self)
        self._observers = Observers(self, "_fill")
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._list)
        self._list.itemSelectionChanged.connect(self.selectionChanged)

    def segmentationNode(self) -> Any:
        """The segmentation, or None."""
        return self._node

    def setSegmentationNode(self, node: Any) -> None:
        """List the segments of this node."""
        self._node = node
        events: list[tuple[Any, int | str]] = [(node.GetSegmentation(), "AnyEvent")] if node is not None else []
        self._observers.observe(events)
        self._fill()

    def _fill(self) -> None:
        self._list.clear()
        if self._node is not None:
            segmentation = self._node.GetSegmentation()
            for segment_id in segmentation.GetSegmentIDs():
                item = QtWidgets.QListWidgetItem(segmentation.GetSegment(segment_id).GetName(), self._list)
                item.setData(Qt.ItemDataRole.UserRole, segment_id)

    def selectedSegmentIDs(self) -> list[str]:
        """The IDs of the segments that are selected."""
        return [item.data(Qt.ItemDataRole.UserRole) for item in self._list.selectedItems()]

    def setSelectedSegmentIDs(self, segment_ids: list[str]) -> None:
        """Select segments."""
        for index in range(self._list.count()):
            item = self._list.item(index)
            item.setSelected(item.data(Qt.ItemDataRole.UserRole) in segment_ids)


class qMRMLSegmentSelectorWidget(qMRMLWidget):
    """A segmentation and one of its segments."""

    currentNodeChanged = Signal(object)
    currentSegmentChanged = Signal(str)
    segmentSelectionChanged = Signal("QStringList")
    cpp_signals: ClassVar[dict[str, str]] = {"currentNodeChanged(vtkMRMLNode*)": "currentNodeChanged"}
    noneEnabled = plain_property(bool, False)
    multiSelection = plain_property(bool, False)
    segmentationNodeSelectorVisible = plain_property(bool, True)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._nodes = qMRMLNodeComboBox(self)
        self._nodes.nodeTypes = ["vtkMRMLSegmentationNode"]
        self._segments = QtWidgets.QComboBox(self)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._nodes)
        layout.addWidget(self._segments)
        self._nodes.currentNodeChanged.connect(self._node_changed)
        self._segments.currentIndexChanged.connect(lambda _: self.currentSegmentChanged.emit(self.currentSegmentID()))

    def _scene_changed(self) -> None:
        self._nodes.setMRMLScene(self.mrmlScene())
        super()._scene_changed()

    def _node_changed(self, node: Any) -> None:
        self._segments.clear()
        if node is not None:
            segmentation = node.GetSegmentation()
            for segment_id in segmentation.GetSegmentIDs():
                self._segments.addItem(segmentation.GetSegment(segment_id).GetName(), segment_id)
        self.currentNodeChanged.emit(node)

    def currentNode(self) -> Any:
        """The segmentation chosen, or None."""
        return self._nodes.currentNode()

    def setCurrentNode(self, node: Any) -> None:
        """Choose a segmentation."""
        self._nodes.setCurrentNode(node)

    def currentSegmentID(self) -> str:
        """The ID of the segment chosen, "" for none."""
        return self._segments.currentData() or ""

    @Slot(str)
    def setCurrentSegmentID(self, segment_id: str) -> None:
        """Choose a segment."""
        self._segments.setCurrentIndex(self._segments.findData(segment_id))


STAND_INS: dict[str, type[QtWidgets.QWidget]] = {
    cls.__name__: cls for cls in (qMRMLSegmentationShow3DButton, qMRMLSegmentsTableView, qMRMLSegmentSelectorWidget)
}

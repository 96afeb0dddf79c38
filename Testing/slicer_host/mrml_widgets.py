"""Stand-ins for Slicer's widgets that show nodes of the scene. They list the real scene; without one they stay empty.

As in Slicer a widget learns of the scene by its slot `setMRMLScene` only, so a `.ui` file that forgets to connect it to
the top widget's `mrmlSceneChanged` shows an empty box.
"""

import weakref
from collections.abc import Iterator
from typing import Any, ClassVar

import shiboken6
import slicer
from PySide6 import QtCore, QtWidgets
from PySide6.QtCore import Property, Qt, Signal, Slot

from .ctk_widgets import named_only, plain_property

_SCENE_EVENTS = (
    slicer.vtkMRMLScene.NodeAddedEvent,
    slicer.vtkMRMLScene.NodeRemovedEvent,
    slicer.vtkMRMLScene.EndBatchProcessEvent,
    slicer.vtkMRMLScene.EndCloseEvent,
    slicer.vtkMRMLScene.EndImportEvent,
)


class Observers:
    """VTK observers of one widget, gone with it."""

    def __init__(self, widget: QtCore.QObject, react: str) -> None:
        self._tags: list[tuple[Any, int]] = []
        widget_reference = weakref.ref(widget)

        def call(*_: Any) -> None:
            alive = widget_reference()
            if alive is not None and shiboken6.isValid(alive):
                getattr(alive, react)()

        self._call = call

    def observe(self, objects_and_events: list[tuple[Any, int | str]]) -> None:
        """Observe these and nothing that was observed before."""
        for observed, tag in self._tags:
            observed.RemoveObserver(tag)
        self._tags = [(observed, observed.AddObserver(event, self._call)) for observed, event in objects_and_events]


class _SceneWidget(QtWidgets.QWidget):
    """A widget that knows the scene."""

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._scene: Any = None

    def mrmlScene(self) -> Any:
        """The scene, or None."""
        return self._scene

    def setMRMLScene(self, scene: Any) -> None:
        """Take the scene."""
        if scene is not self._scene:
            self._scene = scene
            self._scene_changed()

    def _scene_changed(self) -> None:
        """React to the scene; for subclasses."""


class qMRMLWidget(_SceneWidget):
    """A widget that hands the scene on to the widgets that are connected."""

    mrmlSceneChanged = Signal(object)
    cpp_signals: ClassVar[dict[str, str]] = {"mrmlSceneChanged(vtkMRMLScene*)": "mrmlSceneChanged"}

    def _scene_changed(self) -> None:
        self.mrmlSceneChanged.emit(self.mrmlScene())


class _NodeList(_SceneWidget):
    """Common to widgets that list nodes of certain classes."""

    nodeTypes = plain_property("QStringList", [])
    hideChildNodeTypes = plain_property("QStringList", [])
    showHidden = plain_property(bool, False)
    showChildNodeTypes = plain_property(bool, True)
    noneEnabled = plain_property(bool, False)
    noneDisplay = plain_property(str, "")
    addEnabled = plain_property(bool, True)
    removeEnabled = plain_property(bool, True)
    editEnabled = plain_property(bool, False)
    renameEnabled = plain_property(bool, False)
    selectNodeUponCreation = plain_property(bool, True)
    baseName = plain_property(str, "")

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._nodes: list[Any] = []
        self._attributes: list[tuple[str, str, str | None]] = []
        self._filling = False
        self._observers = Observers(self, "_follow_scene")
        self._box = QtWidgets.QComboBox(self)
        self._box.setSizePolicy(QtWidgets.QSizePolicy.Policy.Expanding, QtWidgets.QSizePolicy.Policy.Fixed)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._box)

    def addAttribute(self, node_type: str, name: str, value: str | None = None) -> None:
        """List nodes of this class only where they have the attribute (and the value, where one is given)."""
        self._attributes.append((node_type, name, value))
        self._follow_scene()

    def nodeCount(self) -> int:
        """How many nodes are listed."""
        return len(self._nodes)

    def nodeFromIndex(self, index: int) -> Any:
        """The node listed at this place, or None."""
        return self._nodes[index] if 0 <= index < len(self._nodes) else None

    def _scene_changed(self) -> None:
        self._follow_scene()

    def _follow_scene(self) -> None:
        scene = self.mrmlScene()
        if scene is not None and scene.IsBatchProcessing():
            return
        nodes = list(self._listed_nodes())
        observed: list[tuple[Any, int | str]] = [(scene, e) for e in _SCENE_EVENTS] if scene is not None else []
        self._observers.observe(observed + [(node, "ModifiedEvent") for node in nodes])
        self._fill(nodes)

    def _listed_nodes(self) -> Iterator[Any]:
        scene = self.mrmlScene()
        if scene is None:
            return
        for index in range(scene.GetNumberOfNodes()):
            node = scene.GetNthNode(index)
            if (self.showHidden or not node.GetHideFromEditors()) and self._is_listed(node):
                yield node

    def _is_listed(self, node: Any) -> bool:
        if self.showChildNodeTypes:
            right_class = any(node.IsA(name) for name in self.nodeTypes)
        else:
            right_class = node.GetClassName() in self.nodeTypes
        if not right_class or any(node.IsA(name) for name in self.hideChildNodeTypes):
            return False
        for node_type, name, value in self._attributes:
            found = node.GetAttribute(name)
            if node.IsA(node_type) and (found is None or (value is not None and found != value)):
                return False
        return True

    def _fill(self, nodes: list[Any]) -> None:
        raise NotImplementedError


class qMRMLNodeComboBox(_NodeList):
    """One node of the scene."""

    currentNodeChanged = Signal(object)
    _currentNodeChosen = Signal(bool)
    currentNodeIDChanged = Signal(str)
    nodeActivated = Signal(object)
    nodeAddedByUser = Signal(object)
    cpp_signals: ClassVar[dict[str, str]] = {
        "currentNodeChanged(vtkMRMLNode*)": "currentNodeChanged",
        "currentNodeChanged(bool)": "_currentNodeChosen",
        "nodeActivated(vtkMRMLNode*)": "nodeActivated",
        "nodeAddedByUser(vtkMRMLNode*)": "nodeAddedByUser",
    }

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._current: Any = None
        self._box.currentIndexChanged.connect(self._index_changed)
        self._box.activated.connect(lambda _: self.nodeActivated.emit(self._current))

    def _fill(self, nodes: list[Any]) -> None:
        self._filling = True
        self._nodes = nodes
        self._box.clear()
        if self.noneEnabled:
            self._box.addItem(self.noneDisplay or "None")
        self._box.addItems([node.GetName() or "" for node in nodes])
        kept = self._current if any(node is self._current for node in nodes) else None
        if kept is None and nodes and not self.noneEnabled:
            kept = nodes[0]
        self._show(kept)
        self._filling = False
        self._take(kept)

    def _show(self, node: Any) -> None:
        offset = 1 if self.noneEnabled else 0
        place = next((i + offset for i, listed in enumerate(self._nodes) if listed is node), offset - 1)
        self._box.setCurrentIndex(place)

    def _index_changed(self, index: int) -> None:
        if not self._filling:
            self._take(self.nodeFromIndex(index - (1 if self.noneEnabled else 0)))

    def _take(self, node: Any) -> None:
        if node is not self._current:
            self._current = node
            self.currentNodeChanged.emit(node)
            self._currentNodeChosen.emit(node is not None)
            self.currentNodeIDChanged.emit(node.GetID() if node is not None else "")

    def currentNode(self) -> Any:
        """The node chosen, or None."""
        return self._current

    def setCurrentNode(self, node: Any) -> None:
        """Choose a listed node; one that is not listed (or None) chooses none."""
        listed = node if any(n is node for n in self._nodes) else None
        self._filling = True
        self._show(listed)
        self._filling = False
        self._take(listed)

    def _current_id(self) -> str:
        return self._current.GetID() if self._current is not None else ""

    @Slot(str)
    def setCurrentNodeID(self, node_id: str) -> None:
        """Choose a node by its ID."""
        self.setCurrentNode(next((node for node in self._nodes if node.GetID() == node_id), None))

    currentNodeID = Property(str, _current_id, setCurrentNodeID)

    @Slot(int)
    def setCurrentNodeIndex(self, index: int) -> None:
        """Choose the node listed at this place."""
        self.setCurrentNode(self.nodeFromIndex(index))

    def addNode(self, node_type: str = "") -> Any:
        """Make a node of the (first) class listed, as the entry "Create new" does, and choose it."""
        if not self.addEnabled or self.mrmlScene() is None:
            return None
        name = self.mrmlScene().GenerateUniqueName(self.baseName or "Node")
        node = self.mrmlScene().AddNewNodeByClass(node_type or self.nodeTypes[0], name)
        if self.selectNodeUponCreation:
            self.setCurrentNode(node)
        self.nodeAddedByUser.emit(node)
        return node

    def removeCurrentNode(self) -> None:
        """Take the chosen node out of the scene."""
        if self._current is not None:
            self.mrmlScene().RemoveNode(self._current)


class qMRMLCheckableNodeComboBox(_NodeList):
    """Any number of nodes of the scene."""

    checkedNodesChanged = Signal()

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._checked: list[Any] = []

    def _fill(self, nodes: list[Any]) -> None:
        kept = [node for node in nodes if any(node is checked for checked in self._checked)]
        changed = len(kept) != len(self._checked)
        self._nodes, self._checked = nodes, kept
        self._box.clear()
        self._box.addItem(", ".join(node.GetName() or "" for node in kept) or "None")
        if changed:
            self.checkedNodesChanged.emit()

    def checkedNodes(self) -> list[Any]:
        """The nodes that are checked, in the order of the scene."""
        return list(self._checked)

    def uncheckedNodes(self) -> list[Any]:
        """The nodes that are listed and not checked."""
        return [node for node in self._nodes if not any(node is checked for checked in self._checked)]

    def checkState(self, node: Any) -> Qt.CheckState:
        """Whether a node is checked."""
        checked = any(node is checked for checked in self._checked)
        return Qt.CheckState.Checked if checked else Qt.CheckState.Unchecked

    def setCheckState(self, node: Any, state: Qt.CheckState) -> None:
        """Check or uncheck a listed node."""
        if not any(node is listed for listed in self._nodes) or self.checkState(node) == state:
            return
        checked = [n for n in self._checked if n is not node]
        self._checked = [*checked, node] if state == Qt.CheckState.Checked else checked
        self._checked = [n for n in self._nodes if any(n is checked for checked in self._checked)]
        self._box.setItemText(0, ", ".join(n.GetName() or "" for n in self._checked) or "None")
        self.checkedNodesChanged.emit()


STAND_INS: dict[str, type[QtWidgets.QWidget]] = {
    cls.__name__: cls for cls in (qMRMLWidget, qMRMLNodeComboBox, qMRMLCheckableNodeComboBox)
}

# Named by Slicer's own parameterNodeWrapper.
NAMED_ONLY = {name: named_only(name) for name in ("qMRMLRangeWidget", "qMRMLSliderWidget", "qMRMLSpinBox")}

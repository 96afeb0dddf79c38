"""`slicer.app.layoutManager()`: the three slice views by their logics and nodes, without windows."""

from typing import Any, ClassVar

import slicer
from PySide6 import QtCore
from PySide6.QtCore import Property

_SLICE_VIEWS = {"Red": "Axial", "Yellow": "Sagittal", "Green": "Coronal"}


class SliceWidget(QtCore.QObject):
    """qMRMLSliceWidget, as far as it needs no window."""

    cpp_class_name: ClassVar[str] = "qMRMLSliceWidget"

    def __init__(self, logic: Any) -> None:
        super().__init__()
        self._logic = logic

    def sliceLogic(self) -> Any:
        """The slice logic."""
        return self._logic

    def mrmlSliceNode(self) -> Any:
        """The slice node."""
        return self._logic.GetSliceNode()

    def mrmlSliceCompositeNode(self) -> Any:
        """The node that names the volumes in the view."""
        return self._logic.GetSliceCompositeNode()


class LayoutManager(QtCore.QObject):
    """qSlicerLayoutManager with Red, Yellow and Green."""

    cpp_class_name: ClassVar[str] = "qSlicerLayoutManager"
    layoutChanged = QtCore.Signal(int)

    def __init__(self, scene: Any, app_logic: Any) -> None:
        super().__init__()
        self._layout = 3
        self._app_logic = app_logic
        self._widgets = {name: SliceWidget(_slice_logic(scene, app_logic, name)) for name in _SLICE_VIEWS}

    def _get_layout(self) -> int:
        return self._layout

    def setLayout(self, layout: int) -> None:
        """Choose a layout by its number."""
        self._layout = layout
        self.layoutChanged.emit(layout)

    layout = Property(int, _get_layout, setLayout)
    threeDViewCount = Property(int, lambda _: 0)

    def sliceViewNames(self) -> list[str]:
        """Red, Yellow, Green."""
        return list(self._widgets)

    def sliceWidget(self, name: str) -> QtCore.QObject | None:
        """The slice view of this name, or None."""
        return self._widgets.get(name)

    def mrmlSliceLogics(self) -> Any:
        """The slice logics, a vtkCollection."""
        return self._app_logic.GetSliceLogics()

    def resetSliceViews(self) -> None:
        """Fit the slices to their volumes."""
        for widget in self._widgets.values():
            widget.sliceLogic().FitSliceToBackground()

    def resetThreeDViews(self) -> None:
        """Accept; there is no 3D view without a window."""


def _slice_logic(scene: Any, app_logic: Any, name: str) -> Any:
    logic = slicer.vtkMRMLSliceLogic()
    logic.SetMRMLApplicationLogic(app_logic)
    logic.SetMRMLScene(scene)
    logic.AddSliceNode(name)
    logic.GetSliceNode().SetOrientation(_SLICE_VIEWS[name])
    app_logic.GetSliceLogics().AddItem(logic)
    return logic

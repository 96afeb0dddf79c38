"""Modules: Slicer's own ones with their logics, and scripted modules loaded from their file."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import slicer
from PySide6 import QtCore, QtGui
from PySide6.QtCore import Property

from .application import qSlicerScriptedLoadableModuleWidget
from .ctk_widgets import plain_property
from .pythonqt import wrap


class CoreModule(QtCore.QObject):
    """A module of Slicer that the host has for its logic."""

    cpp_class_name: ClassVar[str] = "qSlicerLoadableModule"

    def __init__(self, name: str, logic: Any) -> None:
        super().__init__()
        self._name, self._logic = name, logic

    name = Property(str, lambda self: self._name)

    def logic(self) -> Any:
        """The module's logic."""
        return self._logic


class qSlicerScriptedLoadableModule(QtCore.QObject):
    """The C++ side of a scripted module; `parent` of the Python module."""

    title = plain_property(str, "")
    categories = plain_property("QStringList", [])
    contributors = plain_property("QStringList", [])
    dependencies = plain_property("QStringList", [])
    associatedNodeTypes = plain_property("QStringList", [])
    helpText = plain_property(str, "")
    acknowledgementText = plain_property(str, "")
    icon = plain_property("QIcon", QtGui.QIcon())
    hidden = plain_property(bool, False)
    index = plain_property(int, -1)
    widgetRepresentationCreationEnabled = plain_property(bool, True)

    def __init__(self, file: Path, scene: Any) -> None:
        super().__init__()
        self._file, self._scene = file, scene
        self._widget: qSlicerScriptedLoadableModuleWidget | None = None

    name = Property(str, lambda self: self._file.stem)
    path = Property(str, lambda self: str(self._file))

    def logic(self) -> None:
        """A scripted module's C++ logic is empty; the Python logic belongs to the widget."""

    def isWidgetRepresentationCreationEnabled(self) -> bool:
        """Whether the file has a widget class."""
        return bool(self.widgetRepresentationCreationEnabled)

    def widgetRepresentation(self) -> qSlicerScriptedLoadableModuleWidget:
        """The panel; made and set up when it is asked for first."""
        if self._widget is None:
            self._widget = self.createNewWidgetRepresentation()
        return self._widget

    def createNewWidgetRepresentation(self) -> qSlicerScriptedLoadableModuleWidget:
        """A panel of its own."""
        name = f"{self._file.stem}Widget"
        panel = qSlicerScriptedLoadableModuleWidget()
        panel.setObjectName(f"{self._file.stem}ModuleWidget")
        panel.setMRMLScene(self._scene)

        def make() -> Any:
            widget = getattr(sys.modules[self._file.stem], name)(wrap(panel))
            setattr(slicer.modules, name, widget)
            return widget

        panel._serve(make)
        panel.self().setup()
        return panel


def load_source(file: Path) -> ModuleType:
    """Load a module's file as Slicer does: its folder importable, the module known by the file's name."""
    folder = str(file.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    source = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = source
    spec.loader.exec_module(source)
    return source


def forget_source(file: Path) -> None:
    """Take the module's file and its `...Lib` package out of Python, so that the next load begins afresh."""
    for name in list(sys.modules):
        if name == file.stem or name.partition(".")[0] == f"{file.stem}Lib":
            del sys.modules[name]
    if str(file.parent) in sys.path:
        sys.path.remove(str(file.parent))

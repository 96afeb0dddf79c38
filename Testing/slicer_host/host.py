"""The host itself: starts a headless Slicer in this process, loads modules into it, and takes it away again."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import slicer
from PySide6 import QtCore, QtGui, QtWidgets
from trame_slicer.core import SlicerApp

from . import dialogs as dialogs_module
from . import modules, pythonqt
from .application import HostOptions, qSlicerApplication, qSlicerMainWindow
from .event_loop import EventLoop
from .heartbeat import Heartbeat
from .io_manager import IOManager
from .layout import LayoutManager
from .namespace import MRML_STAND_INS, Namespace
from .qt_modules import widget_stand_ins
from .subject_hierarchy import SubjectHierarchyFollower
from .ui_loader import UiLoader


@dataclass(frozen=True)
class LoadedModule:
    """A scripted module: Slicer's object for it, the Python module, its widget and the widget's logic."""

    module: Any
    instance: Any
    widget: Any
    logic: Any
    source: ModuleType


class SlicerHost:
    """A headless Slicer. One a process: Qt has one application.

    `base_python` names Slicer's folder Base/Python; the host then runs Slicer's own ScriptedLoadableModule,
    parameterNodeWrapper, i18n, packaging and util in place of its own.
    """

    def __init__(self, options: HostOptions | None = None, base_python: Path | None = None) -> None:
        self.options = options or HostOptions()
        self.dialogs = dialogs_module.dialogs
        self._loaded: dict[str, Path] = {}
        self._folder: str = ""
        self._namespace = Namespace(base_python)
        self._window: qSlicerMainWindow | None = None

    # Start and stop

    def start(self) -> None:
        """Make the application and its scene, and install `qt`, `ctk` and what `slicer` lacks."""
        self._folder = tempfile.mkdtemp(prefix="slicer_host_")
        QtCore.QSettings.setDefaultFormat(QtCore.QSettings.Format.IniFormat)
        for scope in (QtCore.QSettings.Scope.UserScope, QtCore.QSettings.Scope.SystemScope):
            QtCore.QSettings.setPath(QtCore.QSettings.Format.IniFormat, scope, self._folder)
        self._application = QtWidgets.QApplication.instance() or qSlicerApplication()
        self._events = EventLoop(self._application)
        self.core = SlicerApp()
        self.scene = self.core.scene
        self._follower = SubjectHierarchyFollower(self.scene)
        layout_manager = LayoutManager(self.scene, self.core.app_logic) if self.options.main_window else None
        logics = {
            "Volumes": self.core.volumes_logic,
            "Segmentations": self.core.segmentations_logic,
            "Application": self.core.app_logic,
        }
        self._application._serve(self.options, self._folder, self.core, IOManager(self.scene, logics), layout_manager)
        UiLoader.stand_ins = widget_stand_ins(MRML_STAND_INS)
        if self.options.main_window:
            self._window = qSlicerMainWindow()
        self._namespace.install(self.scene, self._application, self._delay_display)
        self._add_core_modules()
        self._first_ids = {self.scene.GetNthNode(i).GetID() for i in range(self.scene.GetNumberOfNodes())}

    def stop(self) -> None:
        """Unload everything and take the installed modules out of Python again."""
        self.reset()
        self._window = None
        self._namespace.remove()
        shutil.rmtree(self._folder, ignore_errors=True)

    def reset(self) -> None:
        """Bring the host to the state after `start`: no modules, an empty scene, no settings, no dialogs."""
        for name in list(self._loaded):
            self.unload_module(name)
        self.scene.Clear(False)
        for index in reversed(range(self.scene.GetNumberOfNodes())):
            node = self.scene.GetNthNode(index)
            if node is not None and node.GetID() not in self._first_ids:
                self.scene.RemoveNode(node)
        QtCore.QSettings().clear()
        self._namespace.reset()
        self.dialogs.clear()
        pythonqt.signals.errors.clear()
        self.process_events()

    def _add_core_modules(self) -> None:
        for name, logic in self._core_logics().items():
            module = modules.CoreModule(name, logic)
            self._application.moduleManager()._register(name, module)
            setattr(slicer.modules, name.lower(), pythonqt.wrap(module))
            setattr(slicer.moduleNames, name, name)

    def _delay_display(self, message: str, autoCloseMsec: int = 1000, parent: Any = None, **_: Any) -> None:
        """In place of `slicer.util.delayDisplay`: nobody reads the box, so nobody waits for it to close."""
        self.dialogs.shown.append(dialogs_module.ShownDialog("delayDisplay", "", message))
        self.process_events()

    def _core_logics(self) -> dict[str, Any]:
        core = self.core
        return {
            "Colors": core.color_logic,
            "Data": core.data_logic,
            "Models": core.register_module_logic(slicer.vtkSlicerModelsLogic()),
            "Plots": core.register_module_logic(slicer.vtkSlicerPlotsLogic()),
            "Segmentations": core.segmentations_logic,
            "SubjectHierarchy": core.subject_hierarchy_logic,
            "Tables": core.register_module_logic(slicer.vtkSlicerTablesLogic()),
            "Terminologies": core.terminologies_logic,
            "Volumes": core.volumes_logic,
        }

    # Modules

    def load_module(self, file: Path) -> LoadedModule:
        """Load a scripted module as Slicer does at its start, build its panel and enter it."""
        file = Path(file).resolve()
        name = file.stem
        source = modules.load_source(file)
        module = modules.qSlicerScriptedLoadableModule(file, self.scene)
        self._loaded[name] = file
        instance = getattr(source, name)(pythonqt.wrap(module))
        self._application.moduleManager()._register(name, module)
        setattr(slicer.modules, f"{name}Instance", instance)
        setattr(slicer.modules, name.lower(), pythonqt.wrap(module))
        setattr(slicer.moduleNames, name, name)
        self._application.startupCompleted.emit()
        slicer.app.disconnect("startupCompleted()")  # Slicer starts once: nobody is told of the next module's start
        if not hasattr(source, f"{name}Widget"):
            return LoadedModule(pythonqt.wrap(module), instance, None, None, source)
        widget = module.widgetRepresentation().self()
        if self._window is not None:
            self._window.moduleSelector().selectModule(name)
        return LoadedModule(pythonqt.wrap(module), instance, widget, getattr(widget, "logic", None), source)

    def unload_module(self, name: str) -> None:
        """Unload a scripted module: its widget's `cleanup` runs, its panel goes, its file is forgotten."""
        file = self._loaded.pop(name)
        manager = self._application.moduleManager()
        module = manager.module(name)
        if module is not None:
            manager._unregister(name)
            if module._widget is not None:
                module._widget.deleteLater()
        if self._window is not None:
            self._window.moduleSelector()._forget()
        for attribute in (f"{name}Instance", f"{name}Widget", name.lower()):
            if hasattr(slicer.modules, attribute):
                delattr(slicer.modules, attribute)
        slicer.selfTests.pop(name, None)
        modules.forget_source(file)
        self.process_events()

    # Time

    def process_events(self, seconds: float = 0.0) -> None:
        """Let the event loop run, at least once and for this long."""
        self._events.run(seconds)

    def wait_until(self, condition: Callable[[], object], timeout: float = 30.0) -> None:
        """Run the event loop until the condition holds.

        Raises:
            TimeoutError: it did not hold in time. Exceptions of slots meanwhile are raised at once.
        """
        end = time.monotonic() + timeout
        while not condition():
            self.raise_slot_error()
            if time.monotonic() > end:
                raise TimeoutError(f"The condition did not hold within {timeout:g} s.")
            self.process_events(0.05)

    def heartbeat(self) -> Heartbeat:
        """Measure, in a `with` block, how long the main thread stays away from the event loop."""
        return Heartbeat(self._application)

    @property
    def slot_errors(self) -> list[BaseException]:
        """What connected callables raised since the last reset; Slicer prints such errors and goes on."""
        return pythonqt.signals.errors

    def raise_slot_error(self) -> None:
        """Raise the first exception of a slot, if there was one."""
        if pythonqt.signals.errors:
            raise pythonqt.signals.errors.pop(0)

    # Pictures

    def render_slice(self, file: Path, volume: Any, **view: Any) -> None:
        """Save a slice through a volume with its segmentations; `view` as `rendering.save_slice` takes it."""
        from . import rendering

        rendering.save_slice(self.core, file, volume, **view)

    def render_3d(self, file: Path, **view: Any) -> None:
        """Save the 3D view; `view` as `rendering.save_3d` takes it."""
        from . import rendering

        rendering.save_3d(self.core, file, **view)

    def grab(self, widget: Any, file: Path, width: int = 0, height: int = 0, scale: float = 1.0) -> None:
        """Save a picture of a widget; a size of 0 is the widget's own wish, `scale` is pixels a unit of that size."""
        native = pythonqt.unwrap(widget)
        size = native.sizeHint()
        native.resize(width or size.width(), height or size.height())
        native.show()
        self.process_events(0.05)
        picture = QtGui.QPixmap(native.size() * scale)
        picture.setDevicePixelRatio(scale)
        native.render(picture)
        if not picture.save(str(file)):
            raise OSError("The picture cannot be written.")

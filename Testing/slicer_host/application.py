"""`slicer.app`: the application object with the members that scripted modules use."""

import platform
import sys
from dataclasses import dataclass
from typing import Any, ClassVar

from PySide6 import QtCore, QtWidgets
from PySide6.QtCore import Property, Signal

from .mrml_widgets import qMRMLWidget


@dataclass(frozen=True)
class HostOptions:
    """How the host starts, as the command line would say it.

    Attributes:
        main_window: False is `--no-main-window`: no main window, no layout manager, no message boxes.
        testing: True is `--testing`: message boxes are logged only, and confirmations answered with yes.
        version: of the Slicer that is played, major, minor and patch.
    """

    main_window: bool = True
    testing: bool = False
    version: tuple[int, int, int] = (5, 12, 0)


class CommandOptions(QtCore.QObject):
    """qSlicerCommandOptions."""

    cpp_class_name: ClassVar[str] = "qSlicerCommandOptions"

    def __init__(self, options: HostOptions) -> None:
        super().__init__()
        self._options = options
        self._run_and_exit = False

    noMainWindow = Property(bool, lambda self: not self._options.main_window)
    noSplash = Property(bool, lambda _: True)
    testingEnabled = Property(bool, lambda self: self._options.testing)
    pythonScript = Property(str, lambda _: "")
    runPythonAndExit = Property(
        bool, lambda self: self._run_and_exit, lambda self, value: setattr(self, "_run_and_exit", value)
    )


class ModuleFactoryManager(QtCore.QObject):
    """qSlicerModuleFactoryManager: which modules were loaded."""

    cpp_class_name: ClassVar[str] = "qSlicerModuleFactoryManager"

    def __init__(self, manager: "ModuleManager") -> None:
        super().__init__(manager)
        self._manager = manager

    def loadedModuleNames(self) -> list[str]:
        """The names of the modules that are loaded."""
        return self._manager.modulesNames()


class ModuleManager(QtCore.QObject):
    """qSlicerModuleManager: modules by name."""

    cpp_class_name: ClassVar[str] = "qSlicerModuleManager"
    moduleLoaded = Signal(str)
    moduleAboutToBeUnloaded = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self._modules: dict[str, QtCore.QObject] = {}
        self._factory_manager = ModuleFactoryManager(self)

    def module(self, name: str) -> QtCore.QObject | None:
        """The module of this name, or None."""
        return self._modules.get(name)

    def modulesNames(self) -> list[str]:
        """The names of all modules."""
        return list(self._modules)

    def factoryManager(self) -> QtCore.QObject:
        """The factory manager."""
        return self._factory_manager

    def _register(self, name: str, module: QtCore.QObject) -> None:
        self._modules[name] = module
        self.moduleLoaded.emit(name)

    def _unregister(self, name: str) -> None:
        self.moduleAboutToBeUnloaded.emit(name)
        self._modules.pop(name, None)


class qSlicerMainWindow(QtWidgets.QMainWindow):
    """The main window: a module selector and a status bar."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("qSlicerMainWindow")
        self._selector = ModuleSelector(self)

    def moduleSelector(self) -> QtCore.QObject:
        """The module selector."""
        return self._selector


class ModuleSelector(QtCore.QObject):
    """qSlicerModuleSelectorToolBar: which module's panel the user has before them."""

    cpp_class_name: ClassVar[str] = "qSlicerModuleSelectorToolBar"
    moduleSelected = Signal(str)

    def __init__(self, parent: QtCore.QObject) -> None:
        super().__init__(parent)
        self._selected = ""

    selectedModule = Property(str, lambda self: self._selected)

    def selectModule(self, name: str) -> None:
        """Leave the module selected and enter this one."""
        manager = QtWidgets.QApplication.instance().moduleManager()
        module = manager.module(name)
        if module is None or name == self._selected:
            return
        left = manager.module(self._selected)
        if left is not None:
            left.widgetRepresentation().exit()
        self._selected = name
        module.widgetRepresentation().enter()
        self.moduleSelected.emit(name)

    def _forget(self) -> None:
        self._selected = ""


class qSlicerApplication(QtWidgets.QApplication):
    """The application. The host calls `_serve` once the scene is there."""

    startupCompleted = Signal()
    mrmlSceneChanged = Signal(object)
    cpp_signals: ClassVar[dict[str, str]] = {"mrmlSceneChanged(vtkMRMLScene*)": "mrmlSceneChanged"}

    def __init__(self) -> None:
        super().__init__([sys.argv[0]])
        self.setApplicationName("Slicer")
        self.setOrganizationName("slicer_host")
        self.setQuitOnLastWindowClosed(False)
        self._options = HostOptions()
        self._exit_status: int | None = None

    def _serve(
        self,
        options: HostOptions,
        temporary_path: str,
        core: Any,
        io_manager: QtCore.QObject,
        layout_manager: QtCore.QObject | None,
    ) -> None:
        """Take what the host has made; `core` is trame_slicer's SlicerApp."""
        self._options, self._temporary_path, self._core = options, temporary_path, core
        self._io_manager, self._layout_manager = io_manager, layout_manager
        self._module_manager = ModuleManager()
        self._command_options = CommandOptions(options)
        self._exit_status = None
        self.setApplicationVersion(".".join(map(str, options.version)))

    temporaryPath = Property(
        str, lambda self: self._temporary_path, lambda self, path: setattr(self, "_temporary_path", path)
    )
    slicerHome = Property(str, lambda self: self._temporary_path)
    majorVersion = Property(int, lambda self: self._options.version[0])
    minorVersion = Property(int, lambda self: self._options.version[1])
    revision = Property(str, lambda _: "0")
    os = Property(str, lambda _: {"Darwin": "macosx", "Windows": "win"}.get(platform.system(), "linux"))
    arch = Property(str, lambda _: platform.machine().lower())
    documentationBaseUrl = Property(str, lambda _: "https://slicer.readthedocs.io/en/latest/")

    def moduleDocumentationUrl(self, name: str) -> str:
        """The page of a module in the documentation."""
        return f"{self.documentationBaseUrl}user_guide/modules/{name.lower()}.html"

    def mrmlScene(self) -> Any:
        """The scene."""
        return self._core.scene

    def applicationLogic(self) -> Any:
        """Slicer's application logic."""
        return self._core.app_logic

    def moduleLogic(self, name: str) -> Any:
        """The logic of a module, or None."""
        return self._core.app_logic.GetModuleLogic(name)

    def moduleManager(self) -> QtCore.QObject:
        """The module manager."""
        return self._module_manager

    def layoutManager(self) -> QtCore.QObject | None:
        """The layout manager; None without a main window."""
        return self._layout_manager

    def ioManager(self) -> QtCore.QObject:
        """The reader and writer of files."""
        return self._io_manager

    coreIOManager = ioManager

    def commandOptions(self) -> QtCore.QObject:
        """How the application was started."""
        return self._command_options

    def testingEnabled(self) -> bool:
        """Whether it was started with --testing."""
        return self._options.testing

    def userSettings(self) -> QtCore.QSettings:
        """The user's settings, those of `qt.QSettings()`."""
        return QtCore.QSettings()

    settings = userSettings

    def setRenderPaused(self, paused: bool) -> None:
        """Accept; nothing renders by itself in the host."""

    def pauseRender(self) -> None:
        """Accept; nothing renders by itself in the host."""

    def resumeRender(self) -> None:
        """Accept; nothing renders by itself in the host."""

    def exit(self, status: int = 0) -> None:  # type: ignore[override]
        """Note the exit code; the host's process goes on."""
        self._exit_status = status


class qSlicerScriptedLoadableModuleWidget(qMRMLWidget):
    """The C++ side of a scripted module's panel: calls setup, enter and exit of the Python widget."""

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        QtWidgets.QVBoxLayout(self)
        self._python: Any = None
        self._make: Any = None
        self._entered = False

    @QtCore.Property(bool)
    def isEntered(self) -> bool:
        """Whether the user is at this module."""
        return self._entered

    def _serve(self, make: Any) -> None:
        self._make = make
        self._python = make()

    def self(self) -> Any:
        """The Python widget."""
        return self._python

    def reload(self) -> None:
        """Make the Python widget anew and set it up."""
        self._python = self._make()
        self._python.setup()

    def enter(self) -> None:
        """Tell the Python widget that the user came to it."""
        self._entered = True
        self._call("enter")

    def exit(self) -> None:
        """Tell the Python widget that the user left it."""
        self._entered = False
        self._call("exit")

    def _call(self, name: str) -> None:
        method = getattr(self._python, name, None)
        if method is not None:
            method()

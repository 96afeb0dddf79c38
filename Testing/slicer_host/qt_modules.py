"""The modules `qt` and `ctk` as Slicer's Python finds them: PySide6's classes and CTK stand-ins, as in PythonQt."""

from types import ModuleType
from typing import Any

from PySide6 import QtWidgets

from . import ctk_widgets, dialogs
from .pythonqt import NATIVE_MODULES, wrapper_class
from .ui_loader import UiLoader

# What PySide6 has and PythonQt has not.
_NOT_IN_PYTHONQT = {"Signal", "Slot", "Property", "SIGNAL", "SLOT", "ClassInfo", "QEnum", "QFlag", "SignalInstance"}


class QtModule(ModuleType):
    """The module `qt`: every Qt class of the libraries that Slicer wraps."""

    def __init__(self) -> None:
        super().__init__("qt")
        self._stand_ins: dict[str, type] = {**dialogs.STAND_INS, "QUiLoader": UiLoader}

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and name not in _NOT_IN_PYTHONQT:
            native = self._stand_ins.get(name) or next(
                (getattr(module, name) for module in NATIVE_MODULES if hasattr(module, name)), None
            )
            if isinstance(native, type):
                return wrapper_class(native)
        raise AttributeError(f"module qt has no attribute {name}")


class CtkModule(ModuleType):
    """The module `ctk`, as far as the host has stand-ins."""

    def __init__(self) -> None:
        super().__init__("ctk")

    def __getattr__(self, name: str) -> Any:
        known = {**ctk_widgets.NAMED_ONLY, **ctk_widgets.STAND_INS}
        if name in known:
            return wrapper_class(known[name])
        raise AttributeError(f"module ctk has no attribute {name} in the test host")


def widget_stand_ins(mrml_widgets: dict[str, type[QtWidgets.QWidget]]) -> dict[str, type[QtWidgets.QWidget]]:
    """All classes that a form may name and PySide does not have, or that the host answers."""
    return {**dialogs.STAND_INS, **ctk_widgets.STAND_INS, **mrml_widgets}

"""What Slicer's Python has beyond the `slicer-core` wheel: put into this process, and taken out again."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import slicer
import slicer.util
from PySide6 import QtCore

from . import (
    i18n,
    modules,
    mrml_widgets,
    packaging,
    parameter_node,
    pytorch_utils,
    sample_data,
    scripted_module,
    segmentation_widgets,
)
from .application import qSlicerScriptedLoadableModuleWidget
from .guarded_scene import guarded_module_class
from .pythonqt import wrap, wrapper_class
from .qt_modules import CtkModule, QtModule

MRML_STAND_INS = {**mrml_widgets.STAND_INS, **segmentation_widgets.STAND_INS}
_CLASSES = {
    **MRML_STAND_INS,
    **mrml_widgets.NAMED_ONLY,
    "qSlicerScriptedLoadableModule": modules.qSlicerScriptedLoadableModule,
    "qSlicerScriptedLoadableModuleWidget": qSlicerScriptedLoadableModuleWidget,
}
# The order matters to Slicer's own files: each imports those before it.
_OWN_MODULES: dict[str, ModuleType] = {
    "i18n": i18n,
    "util": slicer.util,
    "ScriptedLoadableModule": scripted_module,
    "parameterNodeWrapper": parameter_node,
    "packaging": packaging,
}


class Namespace:
    """The modules `qt` and `ctk`, what the module `slicer` lacks, and the modules of extensions.

    `base_python` names Slicer's folder Base/Python, whose files are then taken in place of the host's.
    """

    def __init__(self, base_python: Path | None) -> None:
        self._base_python = base_python
        self._modules_before: dict[str, ModuleType | None] = {}
        self._slicer_before: dict[str, Any] = {}
        self._delay_display_before: Callable[..., None] | None = None

    def install(self, scene: Any, application: QtCore.QCoreApplication, delay_display: Callable[..., None]) -> None:
        """Put everything in; `delay_display` takes the place of Slicer's, which waits for a reader."""
        self._slicer_before = dict(vars(slicer))
        self._put("qt", QtModule())
        self._put("ctk", CtkModule())
        slicer.__class__ = guarded_module_class(scene)
        slicer.app = wrap(application)
        slicer.selfTests = {}
        self._put("slicer.modules", ModuleType("slicer.modules"))
        self._put("slicer.moduleNames", ModuleType("slicer.moduleNames"))
        for name, native_class in _CLASSES.items():
            setattr(slicer, name, wrapper_class(native_class))
        self._put("SampleData", sample_data)
        self._put("PyTorchUtils", pytorch_utils)
        for name, own in _OWN_MODULES.items():
            self._put(f"slicer.{name}", self._from_base(name) or own)
        self._delay_display_before = slicer.util.delayDisplay
        slicer.util.delayDisplay = delay_display

    def reset(self) -> None:
        """Forget what a test or a module put into the host's own modules."""
        pytorch_utils.available, pytorch_utils.installer = True, None
        packaging.installer = None
        i18n.translator = i18n.unchanged
        if hasattr(slicer.modules, "sampleDataSources"):
            del slicer.modules.sampleDataSources

    def remove(self) -> None:
        """Take everything out."""
        slicer.util.delayDisplay = self._delay_display_before
        for name, module in self._modules_before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module
        self._modules_before.clear()
        slicer.__class__ = ModuleType
        for name in set(vars(slicer)) - set(self._slicer_before):
            delattr(slicer, name)
        for name, value in self._slicer_before.items():
            setattr(slicer, name, value)

    def _put(self, name: str, module: ModuleType) -> None:
        self._modules_before.setdefault(name, sys.modules.get(name))
        sys.modules[name] = module
        package, _, last = name.rpartition(".")
        if package == "slicer":
            setattr(slicer, last, module)

    def _from_base(self, name: str) -> ModuleType | None:
        if self._base_python is None:
            return None
        file = self._base_python / "slicer" / f"{name}.py"
        package = self._base_python / "slicer" / name / "__init__.py"
        found = file if file.is_file() else package
        folders = [str(package.parent)] if found == package else None
        spec = importlib.util.spec_from_file_location(f"slicer.{name}", found, submodule_search_locations=folders)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        self._put(f"slicer.{name}", module)
        spec.loader.exec_module(module)
        return module

"""Whether a name that code uses exists in Slicer, such as `slicer.util.loadVolume` or `qt.Qt.Checked`.

What the `slicer-core` wheel and PySide6 have is looked up there, the rest in `slicer_names.json`. Only names that
begin at a module can be judged; what a variable holds is for the tests that run the code.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import slicer.util
import slicer_core
import vtk

from .pythonqt import NATIVE_MODULES, wrapper_class
from .slicer_names import read_list

_ROOTS = ("slicer", "qt", "ctk", "vtk", "SampleData", "PyTorchUtils", "DICOMLib")


def names_used(source: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that begins at one of Slicer's modules."""
    imported: dict[str, str] = {}
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                if name.name.partition(".")[0] in _ROOTS:
                    imported[name.asname or name.name.partition(".")[0]] = (
                        name.name if name.asname else name.name.partition(".")[0]
                    )
                    yield node.lineno, name.name
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in _ROOTS:
            for name in node.names:
                if name.name != "*":
                    imported[name.asname or name.name] = f"{node.module}.{name.name}"
                    yield node.lineno, f"{node.module}.{name.name}"
    for node in ast.walk(tree):
        dotted = _dotted(node)
        if dotted and dotted[0] in imported:
            yield node.lineno, ".".join([imported[dotted[0]], *dotted[1:]])


def _dotted(node: ast.AST) -> list[str]:
    """The parts of `a.b.c`; empty where it does not begin at a plain name."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    return [node.id, *parts] if isinstance(node, ast.Name) and parts else []


class SlicerNames:
    """Judges names by the wheel and the committed list; `own_modules` are ours, lower-case as in `slicer.modules`."""

    def __init__(self, own_modules: tuple[str, ...] = ()) -> None:
        self._list = read_list()
        self._own_modules = own_modules

    def exists(self, name: str) -> bool:
        """Whether Slicer has this name."""
        root, *parts = name.split(".")
        if not parts:
            return root in _ROOTS
        if root == "vtk":
            return _has(vtk, parts)
        if root == "qt":
            return self._in_qt(parts)
        if root == "ctk":
            return parts[0].startswith("ctk") and self._in_class(parts)
        return self._in_slicer(parts) if root == "slicer" else self._in_python(name)

    def _in_qt(self, parts: list[str]) -> bool:
        if parts[0] not in self._list["qt"]:
            return False
        native = next((getattr(m, parts[0]) for m in NATIVE_MODULES if hasattr(m, parts[0])), None)
        return native is None or _has(wrapper_class(native), parts[1:])

    def _in_slicer(self, parts: list[str]) -> bool:
        first, *rest = parts
        if hasattr(slicer_core, first):
            return _has(getattr(slicer_core, first), rest)
        if first == "app":
            return not rest or self._in_class(["qSlicerApplication", rest[0]])
        if first == "mrmlScene":
            return _has(slicer_core.vtkMRMLScene, rest)
        if first in ("modules", "moduleNames"):
            known = (*self._list["modules"], *self._own_modules)
            return not rest or rest[0].lower() in known or rest[0].removesuffix("Widget").lower() in known
        if first == "util" and rest and hasattr(slicer.util, rest[0]):
            return True
        name = ".".join(["slicer", *parts])
        return self._in_class(parts) or name in self._list["application"] or self._in_python(name)

    def _in_class(self, parts: list[str]) -> bool:
        found = self._list["classes"].get(parts[0])
        if found is None:
            return any(hasattr(getattr(m, parts[0], None), parts[1]) for m in NATIVE_MODULES) if parts[1:] else False
        if len(parts) == 1:
            return True
        bases = found["bases"]
        return parts[1] in found["members"] or any(self._in_class([base, parts[1]]) for base in bases)

    def _in_python(self, name: str) -> bool:
        """A module of Python, or a name in one; a package has the names of its files."""
        for module, found in self._list["python"].items():
            if module == name or module.startswith(f"{name}."):
                return True
            package = module.rpartition(".")[0] if module.startswith("slicer.parameterNodeWrapper.") else module
            if name.startswith(f"{package}."):
                first, *rest = name.removeprefix(f"{package}.").split(".")
                if first in found["names"]:
                    return not rest or rest[0] in found["names"][first]
        return name == "slicer.util"


def _has(thing: Any, parts: list[str]) -> bool:
    for part in parts:
        if not hasattr(thing, part):
            return False
        thing = getattr(thing, part)
    return True


def unknown_names(file: Path, names: SlicerNames) -> list[str]:
    """What a file uses that Slicer does not have, as "file:line name"."""
    used = names_used(file.read_text(encoding="utf-8"))
    used = ((line, name.partition(".__")[0]) for line, name in used)
    return sorted({f"{file.name}:{line} {name}" for line, name in used if not names.exists(name)})

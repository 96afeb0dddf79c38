"""What Slicer offers to Python besides the `slicer-core` wheel: the list `slicer_names.json`, and how it is made.

The list says for each name in which file of which repository it is defined. It is made from clones of Slicer, CTK, the
extension PyTorch and PythonQt:

    python -m slicer_host.slicer_names Slicer=FOLDER CTK=FOLDER SlicerPyTorch=FOLDER PythonQt=FOLDER
"""

import ast
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("slicer_names.json")

_CLASSES = {
    "Slicer": """
        qMRMLCheckableNodeComboBox qMRMLLayoutManager qMRMLNodeComboBox qMRMLRangeWidget qMRMLSegmentSelectorWidget
        qMRMLSegmentationShow3DButton qMRMLSegmentsTableView qMRMLSliceControllerWidget qMRMLSliceWidget
        qMRMLSliderWidget qMRMLSpinBox qMRMLWidget qSlicerAbstractCoreModule qSlicerAbstractModule
        qSlicerAbstractModuleFactoryManager qSlicerAbstractModuleRepresentation qSlicerAbstractModuleWidget
        qSlicerApplication qSlicerCommandOptions qSlicerCoreApplication qSlicerCoreCommandOptions qSlicerCoreIOManager
        qSlicerIOManager qSlicerLayoutManager qSlicerLoadableModule qSlicerMainWindow qSlicerModuleFactoryManager
        qSlicerModuleManager qSlicerModuleSelectorToolBar qSlicerObject qSlicerScriptedLoadableModule
        qSlicerScriptedLoadableModuleWidget qSlicerWidget
    """,
    "CTK": """
        ctkCheckBox ctkCheckablePushButton ctkCollapsibleButton ctkColorPickerButton ctkComboBox ctkDirectoryButton
        ctkDoubleRangeSlider ctkDoubleSlider ctkDoubleSpinBox ctkLayoutManager ctkMenuButton ctkMessageBox
        ctkPathLineEdit ctkRangeWidget ctkSliderWidget
    """,
}
# Members that Slicer adds for Python only.
_DECORATORS = "Base/QTCore/qSlicerBaseQTCorePythonQtDecorators.h"
_PYTHON = {
    "slicer.ScriptedLoadableModule": ("Slicer", "Base/Python/slicer/ScriptedLoadableModule.py"),
    "slicer.i18n": ("Slicer", "Base/Python/slicer/i18n.py"),
    "slicer.packaging": ("Slicer", "Base/Python/slicer/packaging.py"),
    "slicer.parameterNodeWrapper.default": ("Slicer", "Base/Python/slicer/parameterNodeWrapper/default.py"),
    "slicer.parameterNodeWrapper.validators": ("Slicer", "Base/Python/slicer/parameterNodeWrapper/validators.py"),
    "slicer.parameterNodeWrapper.wrapper": ("Slicer", "Base/Python/slicer/parameterNodeWrapper/wrapper.py"),
    "slicer.util": ("Slicer", "Base/Python/slicer/util.py"),
    "SampleData": ("Slicer", "Modules/Scripted/SampleData/SampleData.py"),
    "DICOMLib.DICOMUtils": ("Slicer", "Modules/Scripted/DICOMLib/DICOMUtils.py"),
    "PyTorchUtils": ("SlicerPyTorch", "PyTorchUtils/PyTorchUtils.py"),
}
# Attributes that Slicer's C++ code sets in Python, with the file that does.
_SET_BY_THE_APPLICATION = {
    "slicer.app": ("Slicer", "Base/QTCore/qSlicerCorePythonManager.cxx"),
    "slicer.mrmlScene": ("Slicer", "Base/QTCore/qSlicerCoreApplication.cxx"),
    "slicer.modules": ("Slicer", "Base/Python/slicer/__init__.py"),
    "slicer.moduleNames": ("Slicer", "Base/Python/slicer/__init__.py"),
    "slicer.selfTests": ("Slicer", "Base/Python/slicer/ScriptedLoadableModule.py"),
}
_TYPESYSTEMS = ("core", "gui", "network", "uitools")


@dataclass(frozen=True)
class Checkout:
    """A clone to read from; files are read from its HEAD."""

    folder: str

    def files(self) -> list[str]:
        """All paths."""
        return self._git("ls-tree", "-r", "--name-only", "HEAD").splitlines()

    def read(self, path: str) -> str:
        """One file."""
        return self._git("show", f"HEAD:{path}")

    def _git(self, *arguments: str) -> str:
        done = subprocess.run(["git", "-C", self.folder, *arguments], capture_output=True, check=True)
        return done.stdout.decode("utf-8", "replace")


def class_names(header: str, name: str) -> dict[str, Any]:
    """The bases of a C++ class and its public members: methods, slots, signals, properties, enumerators."""
    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", header, flags=re.DOTALL)
    head = re.search(rf"class\s+(?:\w+\s+)?{name}\b\s*(?:final)?\s*(?::\s*([^{{;]*))?\{{", text)
    if head is None:
        raise ValueError(f"{name} is not declared in its header")
    bases = re.findall(r"public\s+(?:virtual\s+)?(\w+)", head.group(1) or "")
    body = text[head.end() :]
    end = re.search(r"\n\};", body)
    body = body[: end.start()] if end else body
    members: set[str] = set(re.findall(r"Q_PROPERTY\s*\(\s*[\w:<>*, ]+?[\s*&]+(\w+)\s+READ", body))
    public = True
    for part in re.split(r"\n\s*((?:public|protected|private|signals|Q_SIGNALS)\b[^:\n]*:)", "\npublic:" + body):
        if re.match(r"(public|signals|Q_SIGNALS|protected|private)\b[^:\n]*:$", part):
            public = part.startswith(("public", "signals", "Q_SIGNALS"))
        elif public:
            members.update(re.findall(r"\b(?!Q_)([a-zA-Z]\w*)\s*\(", part))
            for enumeration in re.findall(r"enum\b[^{;]*\{([^}]*)\}", part):
                members.update(re.findall(r"(?:^|,)\s*(\w+)", enumeration))
    return {"bases": bases, "members": sorted(members - {name, "if", "return", "while", "for"})}


def python_names(source: str) -> dict[str, list[str]]:
    """The public functions, classes and constants of a Python file, with the members of each class."""
    names: dict[str, list[str]] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            methods = [m.name for m in node.body if isinstance(m, ast.FunctionDef) and not m.name.startswith("_")]
            names[node.name] = methods
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            names[node.name] = []
        elif isinstance(node, ast.Assign):
            names.update({t.id: [] for t in node.targets if isinstance(t, ast.Name) and not t.id.startswith("_")})
    return names


def make_list(checkouts: dict[str, Checkout]) -> dict[str, Any]:
    """Read the names from the clones."""
    classes: dict[str, Any] = {}
    for repository, wanted in _CLASSES.items():
        paths = {Path(path).name: path for path in checkouts[repository].files() if path.endswith(".h")}
        for name in wanted.split():
            path = paths[f"{name}.h"]
            found = class_names(checkouts[repository].read(path), name)
            classes[name] = {"source": f"{repository}/{path}", **found}
    for name, member in re.findall(r"\bstatic_(\w+?)_(\w+)\(", checkouts["Slicer"].read(_DECORATORS)):
        if name in classes:
            classes[name]["members"].append(member)
    python = {
        module: {"source": f"{repository}/{path}", "names": python_names(checkouts[repository].read(path))}
        for module, (repository, path) in _PYTHON.items()
    }
    qt: dict[str, str] = {}
    for name in _TYPESYSTEMS:
        path = f"generator/typesystem_{name}.xml"
        for found in re.findall(
            r'<(?:object|value|interface|namespace)-type\s+name="(\w+)"', checkouts["PythonQt"].read(path)
        ):
            qt.setdefault(found, f"PythonQt/{path}")
    application = {name: f"{repository}/{path}" for name, (repository, path) in _SET_BY_THE_APPLICATION.items()}
    modules = {
        path.split("/")[2].lower(): f"Slicer/{path}"
        for path in checkouts["Slicer"].files()
        if re.fullmatch(r"Modules/(Loadable|Scripted|CLI)/(\w+)/(qSlicer\2Module\.h|\2\.py|\2\.xml)", path)
    }
    return {"classes": classes, "python": python, "qt": qt, "application": application, "modules": modules}


def read_list() -> dict[str, Any]:
    """The committed list."""
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def main(arguments: list[str]) -> None:
    """Make the list anew."""
    checkouts = {name: Checkout(folder) for name, _, folder in (a.partition("=") for a in arguments)}
    FILE.write_text(json.dumps(make_list(checkouts), indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

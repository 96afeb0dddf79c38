"""What the Extensions Index and Slicer's build read: file lists, catalog entry, forms, requirements, imports."""

import ast
import json
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parents[2]
MODULE = REPOSITORY / "PPCMISegment"
FORMS = sorted((MODULE / "Resources" / "UI").glob("*.ui"))
SLICER_SOURCES = [MODULE / "PPCMISegment.py", *sorted((MODULE / "PPCMISegmentLib").glob("*.py"))]

NO_CONTROLS = {"QLabel", "QWidget", "QSplitter", "QTabWidget", "qMRMLWidget", "QGroupBox", "QFrame", "QStackedWidget"}
"""Texts and containers need no tool tip."""

BUNDLED_WITH_SLICER = {"numpy", "slicer", "qt", "ctk", "vtk", "ppcmi", "PPCMISegmentLib"}


def cmake_list(name):
    text = (MODULE / "CMakeLists.txt").read_text()
    (content,) = re.findall(rf"set\({name}\n(.*?)\n  \)", text, re.S)
    return {line.strip().replace("${MODULE_NAME}", "PPCMISegment") for line in content.splitlines()}


def below(folder, pattern):
    return {path.relative_to(MODULE).as_posix() for path in folder.rglob(pattern) if path.is_file()}


def test_every_python_file_is_installed():
    files = below(MODULE, "*.py") - below(MODULE / "Testing", "*.py")
    assert cmake_list("MODULE_PYTHON_SCRIPTS") == files


def test_every_resource_is_installed():
    assert cmake_list("MODULE_PYTHON_RESOURCES") == below(MODULE / "Resources", "*")


def test_nothing_beside_the_module_would_be_taken_for_another_module():
    assert [path.name for path in MODULE.glob("*.py")] == ["PPCMISegment.py"]


def test_the_extension_is_described_and_what_it_names_is_there():
    text = (REPOSITORY / "CMakeLists.txt").read_text()
    fields = dict(re.findall(r'set\((\w+) "([^"]*)"\)', text))
    assert re.search(r"project\((\w+)\)", text)[1] == "PPCMI"
    assert "EXTENSION_CATEGORY" not in fields
    assert fields["EXTENSION_DEPENDS"] == "PyTorch"
    assert "not a medical device" in fields["EXTENSION_DESCRIPTION"]
    for url in [fields["EXTENSION_ICONURL"], *fields["EXTENSION_SCREENSHOTURLS"].split()]:
        assert (REPOSITORY / url.replace("${PPCMI_FILES}/", "")).is_file(), url
    for name in ("README.md", "LICENSE"):
        assert (REPOSITORY / name).is_file()
    order = [
        text.index(part) for part in ("Slicer_USE_FILE", "add_subdirectory", "NEXT_MODULE", "GENERATE_CONFIG", "CPACK")
    ]
    assert order == sorted(order)


def test_the_catalog_entry_has_what_the_index_asks_for_and_nothing_else():
    entry = json.loads((REPOSITORY / "PPCMI.json").read_text())
    known = {"$schema", "build_dependencies", "build_subdirectory", "category", "dicom_support_rule", "enabled"}
    known |= {"scm_revision", "scm_type", "scm_url", "tier"}
    assert {"$schema", "category", "scm_url"} <= entry.keys() <= known
    assert entry["build_dependencies"] == ["PyTorch"]
    assert entry["tier"] in range(1, 6)


def test_requirements_are_floors_and_never_pytorch():
    lines = (MODULE / "Resources" / "requirements.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert requirements
    for requirement in requirements:
        assert requirement.name.lower() != "torch"
        assert {specifier.operator for specifier in requirement.specifier} == {">="}


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_every_control_of_a_form_says_what_it_is_for(form):
    for widget in ET.parse(form).iter("widget"):
        if widget.get("class") in NO_CONTROLS:
            continue
        properties = {item.get("name"): "".join(item.itertext()).strip() for item in widget.findall("property")}
        assert properties.get("toolTip"), f"{widget.get('name')} has no tool tip"


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_every_mrml_widget_of_a_form_gets_the_scene(form):
    root = ET.parse(form)
    with_scene = {"qMRMLNodeComboBox", "qMRMLCheckableNodeComboBox", "qMRMLSegmentsTableView"}
    needing = {widget.get("name") for widget in root.iter("widget") if widget.get("class") in with_scene}
    connected = {
        connection.findtext("receiver")
        for connection in root.iter("connection")
        if connection.findtext("signal") == "mrmlSceneChanged(vtkMRMLScene*)"
        and connection.findtext("slot") == "setMRMLScene(vtkMRMLScene*)"
    }
    assert needing <= connected


@pytest.mark.parametrize("source", SLICER_SOURCES, ids=lambda path: path.stem)
def test_opening_the_module_imports_only_what_slicer_brings(source):
    def top_level(body):
        for statement in body:
            if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
                continue
            yield statement

    for statement in top_level(ast.parse(source.read_text()).body):
        names = []
        if isinstance(statement, ast.Import):
            names = [alias.name for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom):
            names = [statement.module]
        for name in names:
            top = name.partition(".")[0]
            assert top in BUNDLED_WITH_SLICER or top in sys.stdlib_module_names, name


@pytest.mark.parametrize("source", SLICER_SOURCES, ids=lambda path: path.stem)
def test_texts_can_be_translated(source):
    """A text is looked up as it stands: put together before that, it would never be found."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "_":
            (text,) = node.args
            assert isinstance(text, ast.Constant), f"{source.name}:{node.lineno}"


@pytest.mark.parametrize("source", SLICER_SOURCES, ids=lambda path: path.stem)
def test_texts_that_are_shown_are_looked_up(source):
    """What is assigned to a text or a tool tip, or said in a message, is not a bare constant."""
    shown = {"text", "toolTip", "windowTitle", "placeholderText"}
    for node in ast.walk(ast.parse(source.read_text())):
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Attribute)
            and node.targets[0].attr in shown
        ):
            value = node.value
            bare = (
                isinstance(value, ast.Constant)
                and isinstance(value.value, str)
                and re.search("[A-Za-z]{3}", value.value)
            )
            assert not bare, f"{source.name}:{node.lineno}"

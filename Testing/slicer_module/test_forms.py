"""The forms of our panels: they load, know the scene wherever they show nodes, and explain every control."""

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

FORMS = sorted((Path(__file__).parents[2] / "PPCMISegment" / "Resources" / "UI").glob("*.ui"))
_CONTROLS = {
    "QCheckBox",
    "QComboBox",
    "QDoubleSpinBox",
    "QLineEdit",
    "QPlainTextEdit",
    "QPushButton",
    "QRadioButton",
    "QSlider",
    "QSpinBox",
    "QTableWidget",
    "QToolButton",
    "QTreeWidget",
    "ctkComboBox",
    "ctkPathLineEdit",
    "ctkSliderWidget",
    "qMRMLCheckableNodeComboBox",
    "qMRMLNodeComboBox",
    "qMRMLSegmentationShow3DButton",
}
_SHOWS_NODES = (
    "qMRMLNodeComboBox",
    "qMRMLCheckableNodeComboBox",
    "qMRMLSegmentSelectorWidget",
    "qMRMLSegmentsTableView",
)

pytestmark = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)


def root_of(form: Path) -> ET.Element:
    return ET.parse(form).getroot()


def widgets(form: Path) -> list[ET.Element]:
    return list(root_of(form).iter("widget"))


def test_a_form_loads_with_every_connection_it_names(slicer_host, form):
    import slicer.util

    top = slicer.util.loadUI(str(form))
    assert top.name == widgets(form)[0].get("name")


def test_every_control_of_a_form_has_a_tool_tip(form):
    controls = [widget for widget in widgets(form) if widget.get("class") in _CONTROLS]
    without = [w.get("name") for w in controls if not w.findtext("property[@name='toolTip']/string")]
    assert without == []


def test_every_widget_that_shows_nodes_is_given_the_scene(form):
    connections = root_of(form).iter("connection")
    given = {c.findtext("receiver") for c in connections if c.findtext("slot") == "setMRMLScene(vtkMRMLScene*)"}
    shows = {widget.get("name") for widget in widgets(form) if widget.get("class") in _SHOWS_NODES}
    assert shows <= given


def test_every_custom_widget_of_a_form_is_declared_with_its_header(form):
    root = root_of(form)
    declared = {
        c.findtext("class") for c in root.iter("customwidget") if c.findtext("header") and c.findtext("extends")
    }
    used = {str(widget.get("class")) for widget in widgets(form)}
    assert {name for name in used if name.startswith(("ctk", "qMRML", "qSlicer"))} <= declared


def test_no_two_widgets_of_a_form_have_the_same_name(form):
    names = [widget.get("name") for widget in widgets(form)]
    assert len(names) == len(set(names))

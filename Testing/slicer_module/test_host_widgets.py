"""Widgets and parameters of the headless Slicer behave as Slicer's do."""

import pytest

from slicer_module.tiny_module import TINY, add_volume


def test_a_node_box_follows_the_scene(slicer_host):
    import slicer

    box = slicer_host.load_module(TINY).widget.ui.inputSelector
    seen = []
    box.connect("currentNodeChanged(vtkMRMLNode*)", seen.append)
    first, second = add_volume("First"), add_volume("Second")
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    assert [box.nodeFromIndex(i) for i in range(box.nodeCount())] == [first, second]
    assert box.currentNode() is None
    box.setCurrentNode(second)
    assert box.currentNodeID == second.GetID()
    slicer.mrmlScene.RemoveNode(second)
    assert box.currentNode() is None
    assert seen == [second, None]


def test_a_node_box_without_none_takes_the_first_node(slicer_host):
    import slicer

    box = slicer.qMRMLNodeComboBox()
    box.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    first = add_volume("First")
    box.setMRMLScene(slicer.mrmlScene)
    add_volume("Second")
    assert box.currentNode() is first


def test_a_node_box_whose_form_forgets_the_scene_stays_empty(slicer_host):
    ui = slicer_host.load_module(TINY).widget.ui
    add_volume("First")
    assert ui.inputSelector.nodeCount() == 1
    assert ui.forgottenSelector.nodeCount() == 0


def test_a_node_box_shows_a_new_name(slicer_host):
    import qt

    ui = slicer_host.load_module(TINY).widget.ui
    add_volume("First").SetName("Renamed")
    assert ui.inputSelector.findChild(qt.QComboBox).itemText(1) == "Renamed"


def test_several_nodes_are_checked(slicer_host):
    import qt
    import slicer

    ui = slicer_host.load_module(TINY).widget.ui
    first, second = add_volume("First"), add_volume("Second")
    changes = []
    ui.volumesSelector.connect("checkedNodesChanged()", lambda: changes.append(1))
    ui.volumesSelector.setCheckState(second, qt.Qt.Checked)
    ui.volumesSelector.setCheckState(first, qt.Qt.Checked)
    assert list(ui.volumesSelector.checkedNodes()) == [first, second]
    slicer.mrmlScene.RemoveNode(second)
    assert list(ui.volumesSelector.checkedNodes()) == [first]
    assert len(changes) == 3


def test_a_collapsed_section_hides_what_is_in_it(slicer_host):
    tiny = slicer_host.load_module(TINY)
    ui = tiny.widget.ui
    tiny.widget.parent.show()
    slicer_host.process_events()
    assert ui.advancedButton.collapsed
    assert ui.inputSelector.visible
    assert not ui.remarkEdit.visible
    ui.advancedButton.collapsed = False
    assert ui.remarkEdit.visible
    tiny.widget.parent.hide()


def test_a_path_line_keeps_and_browses_paths(slicer_host):
    ui = slicer_host.load_module(TINY).widget.ui
    seen = []
    ui.pathEdit.connect("currentPathChanged(QString)", seen.append)
    ui.pathEdit.currentPath = "/data"
    slicer_host.dialogs.answer("/other")
    ui.pathEdit.browse()
    assert seen == ["/data", "/other"]
    assert slicer_host.dialogs.shown[0].title == "Select a directory"


def test_parameters_and_widgets_follow_each_other(slicer_host):
    tiny = slicer_host.load_module(TINY)
    ui, parameters = tiny.widget.ui, tiny.widget.parameterNode
    assert (ui.thresholdSlider.value, ui.countBox.value, ui.remarkEdit.text) == (12.5, 3, "as it came")
    ui.invertBox.checked = True
    ui.thresholdSlider.value = 30.0
    assert (parameters.invert, parameters.threshold) == (True, 30.0)
    parameters.count = 8
    assert ui.countBox.value == 8
    volume = add_volume("Chest")
    ui.inputSelector.setCurrentNode(volume)
    assert parameters.inputVolume is volume
    parameters.disconnectGui(tiny.widget.guiTag)
    ui.countBox.value = 2
    assert parameters.count == 8


def test_parameters_are_checked(slicer_host):
    parameters = slicer_host.load_module(TINY).widget.parameterNode
    with pytest.raises((ValueError, RuntimeError)):
        parameters.threshold = 500.0
    with pytest.raises((TypeError, ValueError, RuntimeError)):
        parameters.count = "many"
    assert (parameters.threshold, parameters.count) == (12.5, 3)


def test_parameters_survive_a_saved_scene(slicer_host, tmp_path):
    import slicer.util

    tiny = slicer_host.load_module(TINY)
    parameters = tiny.widget.parameterNode
    volumes = [add_volume("First"), add_volume("Second", value=9)]
    parameters.inputVolume, parameters.others = volumes[1], volumes
    parameters.threshold, parameters.speed, parameters.invert = 42.0, tiny.source.Speed.SLOW, True
    scene = str(tmp_path / "scene.mrb")
    assert slicer.util.saveScene(scene)
    slicer_host.unload_module("Tiny")
    slicer.mrmlScene.Clear(False)
    assert slicer.mrmlScene.GetFirstNodeByName("First") is None

    slicer.util.loadScene(scene)
    again = slicer_host.load_module(TINY)
    parameters = again.widget.parameterNode
    assert (slicer.util.arrayFromVolume(parameters.inputVolume) == 9).all()
    assert [node.GetName() for node in parameters.others] == ["First", "Second"]
    assert (parameters.threshold, parameters.speed, parameters.invert) == (42.0, again.source.Speed.SLOW, True)

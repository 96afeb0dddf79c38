"""The headless Slicer behaves as Slicer does where our module would notice: modules, scene, widgets, files."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

TINY = Path(__file__).parent / "fixtures" / "Tiny.py"


def add_volume(name: str, value: int = 7):
    import slicer.util

    return slicer.util.addVolumeFromArray(np.full((3, 4, 5), value, np.int16), name=name)


def test_a_module_is_loaded_with_its_panel_set_up_and_entered(slicer_host):
    import slicer

    tiny = slicer_host.load_module(TINY)
    assert tiny.module.title == "Tiny"
    assert tiny.widget.events == ["enter"]
    assert tiny.instance.startups == 1
    assert tiny.logic is tiny.widget.logic
    assert slicer.modules.TinyWidget is tiny.widget
    assert slicer.util.getModuleWidget("Tiny") is tiny.widget
    assert slicer.util.getModuleLogic("Tiny") is tiny.logic
    assert slicer.util.modulePath("Tiny") == str(TINY)
    assert slicer.util.selectedModule() == "Tiny"


def test_unloading_a_module_cleans_up_and_forgets_its_code(slicer_host):
    import slicer

    tiny = slicer_host.load_module(TINY)
    slicer_host.unload_module("Tiny")
    assert tiny.widget.events[-1] == "cleanup"
    assert "Tiny" not in sys.modules
    assert not hasattr(slicer.modules, "tiny")
    assert slicer_host.load_module(TINY).source is not tiny.source


def test_reloading_a_module_builds_its_panel_anew(slicer_host):
    import slicer.util

    tiny = slicer_host.load_module(TINY)
    slicer.util.reloadScriptedModule("Tiny")
    assert slicer.util.getModuleWidget("Tiny") is not tiny.widget
    assert tiny.widget.events[-1] == "cleanup"


def test_the_self_test_of_a_module_runs(slicer_host):
    import slicer

    tiny = slicer_host.load_module(TINY)
    slicer.selfTests["Tiny"](msec=0)
    assert tiny.source.TinyTest.ran


def test_a_click_runs_the_module_on_the_chosen_volume(slicer_host):
    import slicer.util

    tiny = slicer_host.load_module(TINY)
    volume = add_volume("Chest")
    tiny.widget.ui.inputSelector.setCurrentNode(volume)
    tiny.widget.ui.applyButton.click()
    assert (slicer.util.arrayFromVolume(volume) == 8).all()
    assert tiny.widget.ui.statusLabel.text == "Done"


def test_a_click_that_fails_shows_why(slicer_host):
    tiny = slicer_host.load_module(TINY)
    tiny.widget.ui.applyButton.click()
    assert slicer_host.dialogs.texts == ["Failed to compute results.\n\nThere is no volume."]
    assert isinstance(slicer_host.slot_errors.pop(), ValueError)


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


def test_closing_the_scene_is_seen_by_the_module(slicer_host):
    import slicer

    tiny = slicer_host.load_module(TINY)
    slicer.mrmlScene.Clear(False)
    assert tiny.widget.events[-1] == "scene closes"


@pytest.mark.parametrize("extension", [".nrrd", ".nii.gz", ".mha"])
def test_a_volume_is_saved_exported_and_loaded(slicer_host, tmp_path, extension):
    import slicer.util

    voxels = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    to_ras = np.array([[-0.7, 0.0, 0.0, 10.0], [0.0, -0.8, 0.0, 20.0], [0.0, 0.0, 2.5, -30.0], [0.0, 0.0, 0.0, 1.0]])
    volume = slicer.util.addVolumeFromArray(voxels, to_ras, "Chest")
    exported, saved = str(tmp_path / f"exported{extension}"), str(tmp_path / f"saved{extension}")
    assert slicer.util.exportNode(volume, exported, {})
    assert volume.GetStorageNode() is None
    assert slicer.util.saveNode(volume, saved, {})
    for file in (exported, saved):
        loaded = slicer.util.loadVolume(file, {"name": "Again"})
        assert loaded.GetName().startswith("Again")
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(loaded), voxels)
        import vtk

        matrix = vtk.vtkMatrix4x4()
        loaded.GetIJKToRASMatrix(matrix)
        np.testing.assert_allclose(slicer.util.arrayFromVTKMatrix(matrix), to_ras, atol=1e-4)


def test_a_file_that_is_not_there_raises_on_loading(slicer_host, tmp_path):
    import slicer.util

    with pytest.raises(RuntimeError, match="Failed to load"):
        slicer.util.loadVolume(str(tmp_path / "none.nrrd"), {})


def test_a_segmentation_is_made_written_and_read(slicer_host, tmp_path):
    import slicer.util

    volume = add_volume("Chest")
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Parts")
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    node.GetSegmentation().AddEmptySegment("lung", "Lung", (1.0, 0.5, 0.0))
    mask = np.zeros((3, 4, 5), np.uint8)
    mask[1, 1:3, 2:4] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, "lung", volume)
    file = str(tmp_path / "parts.seg.nrrd")
    assert slicer.util.saveNode(node, file, {})
    loaded = slicer.util.loadSegmentation(file, {})
    assert loaded.GetSegmentation().GetSegment("lung").GetName() == "Lung"
    np.testing.assert_array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(loaded, "lung", volume), mask)


def test_the_subject_hierarchy_holds_volumes_and_segmentations(slicer_host):
    import slicer

    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "Study")
    volume = add_volume("Chest")
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Parts")
    for node in (volume, segmentation):
        hierarchy.SetItemParent(hierarchy.GetItemByDataNode(node), study)
    assert len(slicer.util.getSubjectHierarchyItemChildren(study)) == 2


def test_the_logics_of_slicers_own_modules_are_there(slicer_host):
    import slicer

    assert slicer.modules.volumes.logic().IsA("vtkSlicerVolumesLogic")
    assert slicer.modules.segmentations.logic().IsA("vtkSlicerSegmentationsModuleLogic")
    terminologies = slicer.modules.terminologies.logic()
    assert terminologies.GetNumberOfCategoriesInTerminology(
        "Segmentation category and type - 3D Slicer General Anatomy list"
    )


def test_slice_views_have_logics_that_show_the_volume(slicer_host):
    import slicer

    volume = add_volume("Chest")
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    logic = slicer.app.layoutManager().sliceWidget("Red").sliceLogic()
    assert logic.GetBackgroundLayer().GetVolumeNode() is volume
    logic.SetSliceOffset(1.0)
    assert logic.GetSliceOffset() == pytest.approx(1.0)


def test_what_is_not_in_slicer_is_not_in_the_host(slicer_host):
    import ctk
    import slicer

    for thing, name in ((slicer.app, "scene"), (slicer, "volumes"), (slicer.modules, "tiny"), (ctk, "ctkButton")):
        with pytest.raises(AttributeError):
            getattr(thing, name)


def test_a_status_message_reaches_the_main_window(slicer_host):
    import slicer.util

    assert slicer.util.showStatusMessage("Ready", 1000)
    assert slicer.util.mainWindow().statusBar().currentMessage() == "Ready"


def test_requirements_are_checked_for_real_and_installed_only_by_the_test(slicer_host, tmp_path, monkeypatch):
    import slicer.packaging

    requirements = tmp_path / "requirements.txt"
    requirements.write_text("# ours\nnumpy>=1.20\n-r other.txt\nno-such-package-here>=2 ; python_version>'3'\n")
    wanted = slicer.packaging.load_requirements(requirements)
    assert [r.name for r in wanted] == ["numpy", "no-such-package-here"]
    assert slicer.packaging.pip_check("numpy>=1.20")
    assert not slicer.packaging.pip_check(wanted)


def test_declined_requirements_raise(slicer_host, tmp_path):
    import slicer.packaging

    slicer_host.dialogs.answer("cancel")
    with pytest.raises(RuntimeError):
        slicer.packaging.pip_ensure(["no-such-package-here"], requester="PPCMI Segment")
    asked = slicer_host.dialogs.shown[0]
    assert "no-such-package-here" in asked.text + asked.details


def test_the_longest_block_of_the_main_thread_is_measured(slicer_host):
    import time

    import qt

    with slicer_host.heartbeat() as heart:
        slicer_host.process_events(0.05)
    assert heart.longest_block < 0.05
    with slicer_host.heartbeat() as heart:
        qt.QTimer.singleShot(0, lambda: time.sleep(0.2))
        slicer_host.process_events(0.3)
    assert 0.2 <= heart.longest_block < 0.3


def test_the_scene_outside_the_main_thread_raises(slicer_host):
    import slicer

    errors = []

    def touch() -> None:
        try:
            slicer.mrmlScene.GetNumberOfNodes()
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=touch)
    thread.start()
    thread.join()
    assert errors
    assert slicer.mrmlScene is slicer_host.scene


def test_a_delayed_message_is_recorded_and_not_waited_for(slicer_host):
    import slicer.util

    slicer.util.delayDisplay("Encoding", 60_000)
    assert slicer_host.dialogs.texts == ["Encoding"]


def test_a_picture_of_the_panel_is_taken(slicer_host, tmp_path):
    tiny = slicer_host.load_module(TINY)
    slicer_host.grab(tiny.widget.parent, tmp_path / "panel.png", 300, 400, scale=2.0)
    from PIL import Image

    with Image.open(tmp_path / "panel.png") as picture:
        assert picture.size == (600, 800)
        assert len(picture.convert("RGB").getcolors(100_000)) > 10


def test_the_host_leaves_nothing_behind_when_it_stops():
    script = (
        "import sys\n"
        "from slicer_host.host import SlicerHost\n"
        "host = SlicerHost(); host.start()\n"
        "import slicer, qt, ctk\n"
        f"host.load_module({str(TINY)!r})\n"
        "host.stop()\n"
        "left = [n for n in ('qt', 'ctk', 'slicer.i18n', 'PyTorchUtils', 'Tiny') if n in sys.modules]\n"
        "left += [n for n in ('app', 'mrmlScene', 'modules', 'qMRMLWidget') if hasattr(slicer, n)]\n"
        "host.start(); host.stop()\n"
        "sys.exit(repr(left) if left else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_a_slice_and_the_surfaces_are_rendered_with_the_segmentation(slicer_host, tmp_path):
    import slicer.util
    from PIL import Image

    z, y, x = np.mgrid[:20, :32, :32]
    inside = np.hypot(np.hypot(x - 16, y - 16), z - 10) < 6
    volume = slicer.util.addVolumeFromArray((inside * 80 + 20).astype(np.int16), np.diag([-1.0, -1.0, 2.0, 1.0]), "V")
    volume.CreateDefaultDisplayNodes()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Parts")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    node.GetSegmentation().AddEmptySegment("ball", "Ball", (1.0, 0.0, 0.0))
    slicer.util.updateSegmentBinaryLabelmapFromArray(inside.astype(np.uint8), node, "ball", volume)
    node.CreateClosedSurfaceRepresentation()
    before = slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSliceNode")
    slicer_host.render_slice(tmp_path / "slice.png", volume, orientation="Sagittal", size=(200, 200))
    slicer_host.render_3d(tmp_path / "surface.png", size=(200, 200))
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSliceNode") == before
    for name in ("slice", "surface"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            red, green, _ = np.asarray(picture.convert("RGB")).astype(int)[100, 100]
            assert red - green > 80


@pytest.mark.skipif("SLICER_BASE_PYTHON" not in os.environ, reason="SLICER_BASE_PYTHON names no Base/Python of Slicer")
def test_slicers_own_python_files_are_in_place_of_the_hosts(slicer_host):
    import slicer

    base = os.environ["SLICER_BASE_PYTHON"]
    for name in ("ScriptedLoadableModule", "i18n", "packaging", "parameterNodeWrapper", "util"):
        assert getattr(slicer, name).__file__.startswith(base)
        assert sys.modules[f"slicer.{name}"].__file__.startswith(base)


def test_without_a_main_window_there_is_no_layout_and_messages_are_only_logged():
    script = (
        "import logging, sys\n"
        "from slicer_host.application import HostOptions\n"
        "from slicer_host.host import SlicerHost\n"
        "host = SlicerHost(HostOptions(main_window=False)); host.start()\n"
        "import slicer.util\n"
        "slicer.util.errorDisplay('It failed.')\n"
        "assert slicer.app.layoutManager() is None and slicer.util.mainWindow() is None\n"
        "assert slicer.app.commandOptions().noMainWindow and not host.dialogs.shown\n"
        f"assert host.load_module({str(TINY)!r}).widget.ui.applyButton.text == 'Apply'\n"
        "host.stop()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "It failed." in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the host runs PySide's event loop")
def test_a_thread_starves_while_the_event_loop_waits_and_moves_while_the_main_thread_does(slicer_host):
    import time

    steps, stop = [0], threading.Event()

    def count() -> None:
        while not stop.is_set():
            steps[0] += 1

    thread = threading.Thread(target=count)
    thread.start()
    slicer_host.process_events(0.5)
    in_the_loop, steps[0] = steps[0], 0
    time.sleep(0.5)
    while_python_waits = steps[0]
    stop.set()
    thread.join()
    assert in_the_loop < while_python_waits / 2

"""The panel *Segment privately* as a radiologist uses it: by its widgets, on a real scene, against a real server."""

import dataclasses
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import slicer
import vtk

from ppcmi.phantoms import SCANNERS, make_phantom
from ppcmi.writing import terminology_entry
from slicer_module.panel import check, opened_panel, segment_and_wait, status_of
from support.trained_site import TASK

TASKS = Path(__file__).parents[2] / "Resources" / "Tasks"


@pytest.fixture
def a_panel(slicer_host, a_site, monkeypatch):
    return opened_panel(slicer_host, a_site.folder, monkeypatch)


@pytest.fixture
def a_volume(slicer_host, a_site):
    return slicer.util.loadVolume(str(a_site.cases / "images" / "phantom_A_04.nii.gz"))


def segmentations():
    return slicer.util.getNodesByClass("vtkMRMLSegmentationNode")


def voxels_of(node, volume_node):
    """Label values on the volume's grid."""
    labels = np.zeros(slicer.util.arrayFromVolume(volume_node).shape, np.uint8)
    for id_ in node.GetSegmentation().GetSegmentIDs():
        mask = slicer.util.arrayFromSegmentBinaryLabelmap(node, id_, volume_node)
        labels[mask > 0] = int(id_.removeprefix("Segment_"))
    return labels


def test_opening_without_a_site_says_what_to_do(slicer_host, tmp_path, monkeypatch):
    panel = opened_panel(slicer_host, tmp_path / "nothing", monkeypatch)
    assert "no site yet" in panel.ui.siteLabel.text
    assert not panel.ui.segmentButton.enabled
    assert panel.ui.segmentButton.toolTip == panel.ui.leavesLabel.text


def test_opening_tells_what_would_leave_without_loading_pytorch(a_site):
    environment = {**os.environ, "PPCMI_SITE_DIR": str(a_site.folder), "PYTHONPATH": os.pathsep.join(sys.path)}
    program = [sys.executable, "-m", "support.module_opening"]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=True)
    opened = json.loads(done.stdout.splitlines()[-1])
    assert "20 slices" in opened["said"]
    assert opened["torch"] is False


def test_the_button_says_what_is_missing_before_it_can_be_clicked(a_panel, slicer_host, a_site):
    assert a_panel.ui.leavesLabel.text == "Load a volume first."
    volume = slicer.util.loadVolume(str(a_site.cases / "images" / "phantom_A_04.nii.gz"))
    assert a_panel.ui.segmentButton.enabled
    check(a_panel, 0, "Unchecked")
    assert a_panel.ui.leavesLabel.text == "Check at least one volume."
    slicer.mrmlScene.RemoveNode(volume)
    assert a_panel.ui.volumesTable.rowCount == 0


def test_the_line_under_the_button_names_what_leaves_in_numbers(a_panel, a_volume):
    text = a_panel.ui.leavesLabel.text
    assert "28 slices" in text
    assert "3,072" in text
    assert "No pixels" in text


def test_a_click_makes_a_segmentation_on_the_volume_s_own_grid(a_panel, slicer_host, a_site, a_volume, tmp_path):
    segment_and_wait(slicer_host, a_panel)
    assert "done" in status_of(a_panel, 0)
    (node,) = segmentations()
    a_site.command("segment", "--task", TASK, a_site.cases / "images" / "phantom_A_04.nii.gz", "-o", tmp_path)
    expected = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "phantom_A_04.nii.gz")))
    assert expected.any()
    assert np.array_equal(voxels_of(node, a_volume), expected)

    task = a_site.profile.task(TASK).task
    segmentation = node.GetSegmentation()
    present = [label for label in task.labels if (expected == label.value).any()]
    assert list(segmentation.GetSegmentIDs()) == [f"Segment_{label.value}" for label in present]
    for label in present:
        segment = segmentation.GetSegment(f"Segment_{label.value}")
        assert segment.GetName() == label.name
        np.testing.assert_allclose(segment.GetColor(), np.array(label.color) / 255, atol=1e-6)
        assert segment.GetTerminology() == terminology_entry(label)
    assert node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()) is a_volume
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    parents = {hierarchy.GetItemParent(hierarchy.GetItemByDataNode(x)) for x in (node, a_volume)}
    assert len(parents) == 1
    assert segmentation.ContainsRepresentation("Closed surface")

    table = a_panel.ui.resultsTable
    shown = {table.item(row, 0).text(): table.item(row, 1).text() for row in range(table.rowCount)}
    voxel_ml = np.prod(a_volume.GetSpacing()) / 1000
    for label in task.labels:
        count = (expected == label.value).sum()
        assert shown[label.name] == (f"{count * voxel_ml:.2f}" if count else "not found")


def test_what_is_done_is_unchecked_and_a_second_run_makes_a_second_segmentation(a_panel, slicer_host, a_volume):
    segment_and_wait(slicer_host, a_panel)
    assert a_panel.ui.leavesLabel.text == "Check at least one volume."
    check(a_panel, 0)
    segment_and_wait(slicer_host, a_panel)
    assert len(segmentations()) == 2


def test_replacing_keeps_a_backup_and_segments_that_the_user_drew(a_panel, slicer_host, a_volume):
    segment_and_wait(slicer_host, a_panel)
    (node,) = segmentations()
    node.GetSegmentation().AddEmptySegment("mine", "My own")
    before = voxels_of_module(node, a_volume)
    a_panel.ui.outputSelector.currentIndex = 1
    check(a_panel, 0)
    segment_and_wait(slicer_host, a_panel)
    assert node.GetSegmentation().GetSegment("mine") is not None
    backup = next(other for other in segmentations() if other is not node)
    assert "backup" in backup.GetName()
    assert not backup.GetDisplayVisibility()
    assert np.array_equal(voxels_of_module(backup, a_volume), before)
    assert np.array_equal(voxels_of_module(node, a_volume), before)


def voxels_of_module(node, volume_node):
    mine = [id_ for id_ in node.GetSegmentation().GetSegmentIDs() if id_.startswith("Segment_")]
    return [slicer.util.arrayFromSegmentBinaryLabelmap(node, id_, volume_node).tolist() for id_ in mine]


def test_a_confidence_volume_lies_on_the_volume(a_panel, slicer_host, a_volume):
    a_panel.ui.confidenceCheckBox.checked = True
    segment_and_wait(slicer_host, a_panel)
    (confidence,) = [n for n in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") if n is not a_volume]
    values = slicer.util.arrayFromVolume(confidence)
    assert values.shape == slicer.util.arrayFromVolume(a_volume).shape
    assert values.min() > 0.2
    assert values.max() <= 1 + 1e-6


def test_a_parent_transform_is_shared_and_nothing_is_hardened(a_panel, slicer_host, a_volume):
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(0, 3, 30)
    transform.SetMatrixTransformToParent(matrix)
    segment_and_wait(slicer_host, a_panel)
    (plain,) = segmentations()
    expected = voxels_of(plain, a_volume)
    a_volume.SetAndObserveTransformNodeID(transform.GetID())
    check(a_panel, 0)
    segment_and_wait(slicer_host, a_panel)
    node = next(other for other in segmentations() if other is not plain)
    assert node.GetParentTransformNode() is transform
    assert a_volume.GetParentTransformNode() is transform
    assert np.array_equal(voxels_of(node, a_volume), expected)


def test_several_volumes_are_done_one_after_the_other_and_a_bad_one_does_not_stop_the_others(
    a_panel, slicer_host, a_volume
):
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    image, _ = make_phantom(SCANNERS["A"], 5)
    last = slicer.util.addVolumeFromArray(image.voxels, image.geometry.ijk_to_ras, "last")
    segment_and_wait(slicer_host, a_panel)
    assert [status_of(a_panel, row).split(",")[0] for row in (0, 2)] == ["done", "done"]
    assert status_of(a_panel, 1) == "The volume has no image; load it again."
    assert "1 of the volumes could not be segmented" in a_panel.ui.messageLabel.text
    references = {node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()) for node in segmentations()}
    assert references == {a_volume, last}
    assert empty not in references


def test_a_volume_in_which_nothing_was_found_says_so(a_panel, slicer_host, a_volume):
    dark = slicer.util.arrayFromVolume(a_volume) * 0
    matrix = vtk.vtkMatrix4x4()
    a_volume.GetIJKToRASMatrix(matrix)
    slicer.util.addVolumeFromArray(dark, slicer.util.arrayFromVTKMatrix(matrix), "dark")
    segment_and_wait(slicer_host, a_panel)
    assert re.fullmatch(r"done, \d+\.\d kB sent", status_of(a_panel, 0))
    assert re.fullmatch(r"done, no structure was found in it, \d+\.\d kB sent", status_of(a_panel, 1))
    assert a_panel.ui.messageLabel.text == "Done. No structure was found in 1 of the volumes."
    table = a_panel.ui.resultsTable
    assert {table.item(row, 1).text() for row in range(table.rowCount)} == {"not found"}
    check(a_panel, 0)
    check(a_panel, 1, "Unchecked")
    segment_and_wait(slicer_host, a_panel)
    assert a_panel.ui.messageLabel.text == "Done."


def refused(panel, host):
    segment_and_wait(host, panel)
    assert segmentations() == []
    return status_of(panel, 0)


def test_a_volume_of_another_modality_is_refused(a_panel, slicer_host, a_volume):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    hierarchy.SetItemAttribute(hierarchy.GetItemByDataNode(a_volume), "DICOM.Modality", "CT")
    assert "modality CT" in refused(a_panel, slicer_host)


def test_a_volume_under_a_bending_transform_is_refused(a_panel, slicer_host, a_volume):
    bending = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLBSplineTransformNode")
    grid = vtk.vtkThinPlateSplineTransform()
    points, moved = vtk.vtkPoints(), vtk.vtkPoints()
    for x, y, z in ((0, 0, 0), (10, 0, 0), (0, 10, 0), (0, 0, 10), (5, 5, 5)):
        points.InsertNextPoint(x, y, z)
        moved.InsertNextPoint(x + x * y / 20, y, z)
    grid.SetSourceLandmarks(points)
    grid.SetTargetLandmarks(moved)
    grid.SetBasisToR()
    bending.SetAndObserveTransformToParent(grid)
    a_volume.SetAndObserveTransformNodeID(bending.GetID())
    assert "non-linear transform" in refused(a_panel, slicer_host)


def test_cancel_leaves_the_scene_as_it_was_and_the_button_comes_back(a_panel, slicer_host, a_volume):
    before = slicer.mrmlScene.GetNumberOfNodes()
    a_panel.ui.segmentButton.click()
    assert a_panel.ui.segmentButton.text == "Cancel"
    slicer_host.wait_until(lambda: "slices" in a_panel.ui.messageLabel.text)
    a_panel.ui.segmentButton.click()
    assert a_panel.ui.segmentButton.text == "Segment privately"
    assert "Cancelled" in a_panel.ui.messageLabel.text
    slicer_host.process_events(0.3)
    assert slicer.mrmlScene.GetNumberOfNodes() == before
    assert status_of(a_panel, 0) == ""
    segment_and_wait(slicer_host, a_panel)  # and it works again
    assert len(segmentations()) == 1


def test_a_volume_that_is_removed_meanwhile_leaves_nothing(a_panel, slicer_host, a_volume):
    a_panel.ui.segmentButton.click()
    slicer_host.wait_until(lambda: "slices" in a_panel.ui.messageLabel.text)
    slicer.mrmlScene.RemoveNode(a_volume)
    slicer_host.wait_until(lambda: a_panel.ui.segmentButton.text == "Segment privately")
    assert segmentations() == []


def test_a_volume_that_is_edited_meanwhile_is_not_given_a_result_of_what_it_was(a_panel, slicer_host, a_volume):
    a_panel.ui.segmentButton.click()
    slicer_host.wait_until(lambda: "slices" in a_panel.ui.messageLabel.text)
    slicer.util.arrayFromVolume(a_volume)[:] = 0
    slicer.util.arrayFromVolumeModified(a_volume)
    slicer_host.wait_until(lambda: a_panel.ui.segmentButton.text == "Segment privately")
    assert "changed while it was being segmented" in status_of(a_panel, 0)
    assert segmentations() == []


def test_closing_the_scene_ends_the_run(a_panel, slicer_host, a_volume):
    a_panel.ui.segmentButton.click()
    slicer_host.wait_until(lambda: "slices" in a_panel.ui.messageLabel.text)
    slicer.mrmlScene.Clear(False)
    assert a_panel.ui.segmentButton.text == "Segment privately"
    assert "scene was closed" in a_panel.ui.messageLabel.text
    slicer_host.process_events(0.3)
    assert segmentations() == []
    assert a_panel.ui.volumesTable.rowCount == 0


def test_a_task_without_an_active_model_is_said_before_anything_leaves(
    slicer_host, a_site, a_volume, tmp_path, monkeypatch
):
    a_site.server.command("task", "add", str(TASKS / "hippocampus-mr.json"))
    copy = dataclasses.replace(a_site, folder=Path(shutil.copytree(a_site.folder, tmp_path / "site")))
    copy.command("consortium", "create", "--task", "hippocampus-mr")
    panel = opened_panel(slicer_host, copy.folder, monkeypatch)
    panel.ui.taskSelector.currentIndex = panel.ui.taskSelector.findData("hippocampus-mr")
    assert "no active model" in panel.ui.leavesLabel.text
    assert not panel.ui.segmentButton.enabled


def test_missing_packages_are_named_and_nothing_runs(a_panel, slicer_host, a_volume, monkeypatch):
    class Lacking:
        def missing(self):
            return ["torch"]

        def ensure(self):
            from PPCMISegmentLib.Dependencies import DependencyError

            raise DependencyError("PyTorch is missing. Install the extension PyTorch.")

    a_panel._dependencies = Lacking()
    a_panel.ui.segmentButton.click()
    assert "PyTorch is missing" in a_panel.ui.messageLabel.text
    assert a_panel.ui.segmentButton.text == "Segment privately"


def test_a_saved_scene_holds_the_result_and_no_secret(a_panel, slicer_host, a_site, a_volume, tmp_path):
    segment_and_wait(slicer_host, a_panel)
    (node,) = segmentations()
    expected = voxels_of(node, a_volume)
    scene = tmp_path / "scene.mrb"
    assert slicer.util.saveScene(str(scene))
    content = _unpacked(scene, tmp_path / "unpacked")
    profile = a_site.profile
    for secret in (profile.private_key, profile.link_key(), profile.task(TASK).inner_key):
        for form in (secret, secret.hex().encode()):
            assert form not in content
    assert (a_site.folder / "token").read_bytes().strip() not in content
    assert str(a_site.folder).encode() not in content
    assert a_site.server.url.encode() not in content

    slicer.mrmlScene.Clear(False)
    slicer.util.loadScene(str(scene))
    (again,) = segmentations()
    volume = slicer.util.getNode("phantom_A_04")
    assert np.array_equal(voxels_of(again, volume), expected)
    assert again.GetSegmentation().GetNthSegment(0).GetTerminology()
    assert again.GetAttribute("PPCMI.model") == "1"


def _unpacked(archive, folder):
    """Every byte of the scene, with its compressed parts opened."""
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder)
    parts = [path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()]
    assert any(b"MRML" in part for part in parts)
    for part in list(parts):
        start = part.find(b"\x1f\x8b")
        if start >= 0:
            parts.append(gzip.decompress(part[start:]))
    return b"\n".join(parts)


def test_settings_hold_choices_and_nothing_else(a_panel, slicer_host, a_volume):
    import qt

    a_panel.ui.deviceSelector.currentIndex = a_panel.ui.deviceSelector.findData("cpu")
    a_panel.ui.quantizationSelector.currentIndex = a_panel.ui.quantizationSelector.findData("f16")
    segment_and_wait(slicer_host, a_panel)
    settings = qt.QSettings()
    keys = {key for key in settings.allKeys() if key.startswith("PPCMISegment/")}
    assert {key: settings.value(key) for key in keys} == {
        "PPCMISegment/device": "cpu",
        "PPCMISegment/quantization": "f16",
        "PPCMISegment/task": TASK,
    }


def test_the_server_going_away_ends_the_queue_and_coming_back_lets_it_go_on(
    slicer_host, a_site, a_volume, tmp_path, monkeypatch
):
    """Another address stands for a server that is down: nothing listens there."""
    folder = Path(shutil.copytree(a_site.folder, tmp_path / "site"))
    document = json.loads((folder / "site.json").read_text())
    (folder / "site.json").write_text(json.dumps({**document, "server_url": "http://127.0.0.1:9"}))
    panel = opened_panel(slicer_host, folder, monkeypatch, answers=False)
    segment_and_wait(slicer_host, panel)
    assert "cannot be reached" in panel.ui.messageLabel.text
    assert segmentations() == []
    (folder / "site.json").write_text(json.dumps(document))
    segment_and_wait(slicer_host, panel)
    assert "done" in status_of(panel, 0)


def test_too_small_a_graphics_card_offers_the_processor(a_panel, slicer_host, a_volume, monkeypatch):
    from ppcmi.errors import DeviceMemoryError
    from PPCMISegmentLib.SegmentLogic import SegmentLogic

    segment = SegmentLogic.segmentSteps

    def steps(self, node, link, choices):
        if choices.device != "cpu":
            raise DeviceMemoryError("The graphics card's memory does not hold a single slice.")
        return (yield from segment(self, node, link, choices))

    monkeypatch.setattr(SegmentLogic, "segmentSteps", steps)
    a_panel.ui.deviceSelector.currentIndex = a_panel.ui.deviceSelector.findData("auto")
    slicer_host.dialogs.answer("yes")
    segment_and_wait(slicer_host, a_panel)
    assert ["memory is too small" in text for text in slicer_host.dialogs.texts] == [True]
    assert "done" in status_of(a_panel, 0)


def test_scripts_segment_with_one_call(a_panel, slicer_host, a_volume):
    seen = []
    node = slicer.modules.PPCMISegmentWidget.logic.segment(a_volume, TASK, seen.append, device="cpu")
    assert node in segmentations()
    assert seen[-1].done == seen[-1].total == 28
    assert dataclasses.is_dataclass(seen[-1])


def test_the_module_s_own_test_passes_in_the_host(slicer_host, a_panel):
    slicer.selfTests["PPCMISegment"]()

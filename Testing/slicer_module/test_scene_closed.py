"""What panels forget when the scene is closed: node IDs begin anew, so the next patient's nodes have the same ones."""

import numpy as np
import pytest
import slicer
import vtk

from slicer_module.panel import MODULE, VOLUME, check, opened_panel, segment_and_wait, status_of
from support.trained_site import TASK

PICTURES = ("imagePicture", "leavingPicture", "serverPicture")


def load(site, called):
    volume = slicer.util.loadVolume(str(site.cases / "images" / "phantom_A_04.nii.gz"))
    volume.SetName(called)
    return volume


@pytest.fixture
def a_panel(slicer_host, a_site, monkeypatch):
    """The panel *Segment privately*."""
    return opened_panel(slicer_host, a_site.folder, monkeypatch)


@pytest.fixture
def a_preview(slicer_host, a_site, monkeypatch):
    """The panel *What leaves* with a patient's volume and the task chosen."""
    monkeypatch.setenv("PPCMI_SITE_DIR", str(a_site.folder))
    panel = slicer_host.load_module(MODULE).widget.previewPanel
    panel.refresh()
    panel.ui.volumeSelector.setCurrentNode(load(a_site, "Patient A"))
    panel.ui.taskSelector.currentIndex = panel.ui.taskSelector.findData(TASK)
    return panel


def pictures(panel):
    return [getattr(panel.ui, name).text for name in PICTURES]


def previewed(host, panel):
    """Click the button, and wait for the pictures."""
    panel.ui.previewButton.click()
    host.wait_until(lambda: not panel._steps.running, timeout=60)
    assert all(pictures(panel)), panel.ui.messageLabel.text


def test_the_next_patient_s_volume_is_not_done(a_panel, slicer_host, a_site):
    import qt

    first = load(a_site, "Patient A").GetID()
    segment_and_wait(slicer_host, a_panel)
    assert status_of(a_panel, 0).startswith("done")
    slicer.mrmlScene.Clear(False)
    assert load(a_site, "Patient B").GetID() == first
    table = a_panel.ui.volumesTable
    assert (table.item(0, VOLUME).text(), status_of(a_panel, 0)) == ("Patient B", "")
    assert table.item(0, VOLUME).checkState() == qt.Qt.Checked
    assert a_panel.ui.messageLabel.text == ""
    assert a_panel.ui.segmentButton.enabled


def test_a_volume_that_is_removed_is_forgotten_and_the_others_are_not(a_panel, slicer_host, a_site):
    volumes = [load(a_site, "Patient A"), load(a_site, "Patient B")]
    check(a_panel, 1, "Unchecked")
    segment_and_wait(slicer_host, a_panel)
    slicer.mrmlScene.RemoveNode(volumes.pop(0))
    assert a_panel._queue.checkedNodes() == []
    assert [a_panel._queue._status, a_panel._queue._unchecked] == [{}, set(volumes)]


def test_a_patient_s_pictures_go_with_the_scene(a_preview, slicer_host):
    previewed(slicer_host, a_preview)
    slicer.mrmlScene.Clear(False)
    assert pictures(a_preview) == ["", "", ""]
    assert [a_preview.ui.imageCaption.text, a_preview.ui.meaningLabel.text] == ["", ""]


def test_a_preview_that_is_under_way_when_the_scene_is_closed_shows_nothing(a_preview, slicer_host):
    a_preview.ui.previewButton.click()
    slicer.mrmlScene.Clear(False)
    slicer_host.process_events(0.5)
    assert pictures(a_preview) == ["", "", ""]
    assert a_preview.ui.messageLabel.text == ""


def test_a_patient_s_pictures_do_not_stand_under_another_one_s_name(a_preview, slicer_host, a_site):
    previewed(slicer_host, a_preview)
    a_preview.ui.volumeSelector.setCurrentNode(load(a_site, "Patient B"))
    assert pictures(a_preview) == ["", "", ""]


def test_the_slice_of_the_view_is_found_under_a_transform_as_well(a_preview):
    """A volume that is moved to one side is seen as if the view had been moved to the other."""
    volume, slider = a_preview.ui.volumeSelector.currentNode(), a_preview.ui.sliceSlider
    view = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode()
    bounds = np.zeros(6)
    volume.GetRASBounds(bounds)
    center, up = bounds.reshape(3, 2).mean(axis=1), np.array([0.0, 0.0, 15.0])

    def slice_seen_at(point):
        view.GetSliceToRAS().DeepCopy(moving_to(point))
        view.UpdateMatrices()
        a_preview.onFromViewButton()
        return slider.value

    here, below = slice_seen_at(center), slice_seen_at(center - up)
    assert here != below
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    transform.SetMatrixTransformToParent(moving_to(up))
    volume.SetAndObserveTransformNodeID(transform.GetID())
    assert slice_seen_at(center) == below


def moving_to(point):
    """A matrix that moves the origin there."""
    matrix = vtk.vtkMatrix4x4()
    for axis in range(3):
        matrix.SetElement(axis, 3, point[axis])
    return matrix

"""The table of image and segmentation pairs: a check comes to its end, and what a user chose stays chosen."""

import numpy as np
import pytest
import slicer

from slicer_module.export_panel import (
    add_phantom,
    add_segmentation,
    choose,
    opened_export,
    segment_box,
    status_of,
    wait_for_checks,
)
from support.trained_site import TASK

USUAL_SIZE = (160, 320, 320)
"""Making its segments voxels takes longer than the table waits before it follows the scene."""


@pytest.fixture
def a_panel(slicer_host, folder, monkeypatch):
    return opened_export(slicer_host, folder, monkeypatch)


@pytest.fixture
def checks(a_panel, monkeypatch):
    """Names of the cases whose check was begun, in order."""
    from PPCMISegmentLib import CasePairs
    from PPCMISegmentLib.LabelledCases import checkSteps

    begun = []

    def counted(case, *further):
        begun.append(case.name)
        return checkSteps(case, *further)

    monkeypatch.setattr(CasePairs, "checkSteps", counted)
    return begun


@pytest.fixture
def a_choice(a_panel, slicer_host, a_site):
    """A phantom, with the segment that a user drew anew chosen for the first label."""
    volume, node = add_phantom(a_site)
    draw(node, volume, "corrected", "My corrected one")
    node.GetSegmentation().AddEmptySegment("note", "A note")
    a_panel.refresh()
    wait_for_checks(slicer_host, a_panel)
    choose(segment_box(a_panel, 0), "My corrected one")
    wait_for_checks(slicer_host, a_panel)
    return volume, node


def draw(node, volume, id_, name):
    """Add a segment with some voxels."""
    mask = np.zeros(slicer.util.arrayFromVolume(volume).shape, np.uint8)
    mask[5:20, 10:20, 10:20] = 1
    node.GetSegmentation().AddEmptySegment(id_, name)
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, id_, volume)


def add_large(task):
    """A volume of usual size and its segmentation."""
    voxels = np.random.default_rng(0).integers(0, 300, USUAL_SIZE).astype(np.int16)
    volume = slicer.util.addVolumeFromArray(voxels, np.eye(4), "CT")
    masks = {}
    for number, label in enumerate(task.labels):
        masks[label.name] = np.zeros(USUAL_SIZE, bool)
        masks[label.name][:, 120 + 10 * number : 128 + 10 * number, 120:200] = True
    return volume, add_segmentation(volume, masks)


def test_a_case_of_usual_size_is_checked_once_while_the_user_looks_at_the_table(a_panel, slicer_host, a_site, checks):
    slicer.modules.PPCMISegmentWidget.parent.show()
    add_large(a_site.profile.task(TASK).task)
    slicer_host.wait_until(a_panel.pairs.pairs, timeout=30)
    wait_for_checks(slicer_host, a_panel)
    assert checks == ["CT"]


def test_what_happens_to_another_case_does_not_begin_a_check_again(a_panel, slicer_host, a_site, checks):
    slicer.modules.PPCMISegmentWidget.parent.show()
    add_large(a_site.profile.task(TASK).task)
    slicer_host.wait_until(lambda: checks, timeout=30)
    add_phantom(a_site)
    slicer_host.wait_until(lambda: len(a_panel.pairs.pairs()) == 2, timeout=30)
    wait_for_checks(slicer_host, a_panel)
    assert checks == ["CT", "phantom_A_04"]


def test_a_case_that_changes_while_it_is_checked_is_checked_again(a_panel, slicer_host, a_site, checks):
    slicer.modules.PPCMISegmentWidget.parent.show()
    _volume, node = add_large(a_site.profile.task(TASK).task)
    slicer_host.wait_until(lambda: checks, timeout=30)
    node.GetSegmentation().GetNthSegment(0).SetName("Something else")
    slicer_host.wait_until(lambda: "Choose the segment" in status_of(a_panel), timeout=30)
    assert checks == ["CT", "CT"]


def test_events_that_change_nothing_leave_the_widgets_of_the_chosen_case_alone(a_panel, slicer_host, a_site):
    slicer.modules.PPCMISegmentWidget.parent.show()
    _volume, node = add_phantom(a_site)
    slicer_host.wait_until(lambda: a_panel.pairs.pairs() and status_of(a_panel) == "ready")
    box = segment_box(a_panel, 0)
    node.Modified()
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode")
    slicer_host.process_events(0.4)
    assert segment_box(a_panel, 0) is box


@pytest.mark.parametrize("change", ["rename", "add"])
def test_the_segment_that_a_user_chose_stays_chosen_when_another_one_changes(a_panel, slicer_host, a_choice, change):
    _volume, node = a_choice
    if change == "rename":
        node.GetSegmentation().GetSegment("note").SetName("Another note")
    else:
        node.GetSegmentation().AddEmptySegment("further", "A further one")
    a_panel.refresh()
    wait_for_checks(slicer_host, a_panel)
    (pair,) = a_panel.pairs.pairs()
    assert pair.matching.segment_of(1) == "corrected"
    assert segment_box(a_panel, 0).currentText == "My corrected one"


def test_that_a_label_has_no_segment_stays_chosen_as_well(a_panel, slicer_host, a_choice):
    _volume, node = a_choice
    choose(segment_box(a_panel, 1), "(none)")
    node.GetSegmentation().GetSegment("note").SetName("Another note")
    a_panel.refresh()
    wait_for_checks(slicer_host, a_panel)
    assert [segment_box(a_panel, row).currentText for row in (0, 1)] == ["My corrected one", "(none)"]


def test_a_chosen_segment_that_is_gone_gives_way_to_the_one_that_fits(a_panel, slicer_host, a_site, a_choice):
    _volume, node = a_choice
    node.GetSegmentation().RemoveSegment("corrected")
    a_panel.refresh()
    wait_for_checks(slicer_host, a_panel)
    assert segment_box(a_panel, 0).currentText == a_site.profile.task(TASK).task.labels[0].name

"""What tests of the panel *Export* do with it again and again."""

import numpy as np
import slicer
import vtk

from slicer_module.panel import MODULE

IMAGE, LABELS, STATUS = 0, 1, 2


def opened_export(host, site_folder, monkeypatch):
    """The panel with this site profile, its tab chosen and its cases looked at."""
    monkeypatch.setenv("PPCMI_SITE_DIR", str(site_folder))
    widget = host.load_module(MODULE).widget
    widget.ui.panelsTabWidget.currentIndex = list(widget.panels.values()).index(widget.exportPanel)
    wait_for_checks(host, widget.exportPanel)
    return widget.exportPanel


def wait_for_checks(host, panel):
    """Until every row was looked at."""
    host.wait_until(lambda: all(pair.outcome is not None for pair in panel.pairs.pairs()) and not panel.pairs.checking)


def add_phantom(site, name="phantom_A_04", as_called=None):
    """A phantom and its labels in the scene, the segments called as the task calls them (or as the test says)."""
    volume = slicer.util.loadVolume(str(site.cases / "images" / f"{name}.nii.gz"))
    labels = slicer.util.loadVolume(str(site.cases / "labels" / f"{name}.nii.gz"))
    values = slicer.util.arrayFromVolume(labels).copy()
    slicer.mrmlScene.RemoveNode(labels)
    task = site.profile.task("phantom").task
    masks = {(as_called or {}).get(label.value, label.name): values == label.value for label in task.labels}
    return volume, add_segmentation(volume, masks, f"{name} drawn")


def add_segmentation(volume, masks, name="drawn"):
    """A segmentation of the volume with these masks by segment name."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    for segment_name, mask in masks.items():
        id_ = node.GetSegmentation().AddEmptySegment(segment_name, segment_name)
        if mask.any():
            slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), node, id_, volume)
    return node


def status_of(panel, row=0):
    """The status in a row of the table."""
    return panel.ui.casesTable.item(row, STATUS).text()


def names_in(panel):
    """Image and segmentation of every row."""
    table = panel.ui.casesTable
    return [(table.item(row, IMAGE).text(), table.item(row, LABELS).text()) for row in range(table.rowCount)]


def check_row(panel, row, state="Checked"):
    """Click on the check box in a row."""
    import qt

    panel.ui.casesTable.item(row, IMAGE).setCheckState(getattr(qt.Qt, state))


def choose(box, text):
    """Choose an entry of a combo box as a user does."""
    index = box.findText(text)
    assert index >= 0, [box.itemText(i) for i in range(box.count)]
    box.currentIndex = index
    box.activated(index)


def segment_box(panel, row):
    """The combo box beside a label."""
    return panel.ui.labelsTable.cellWidget(row, 1)


def to_file(panel, host, path, answer="yes"):
    """Choose a file as destination, and what the two dialogs after a click are answered."""
    panel.ui.destinationSelector.currentIndex = panel.ui.destinationSelector.findData("file")
    host.dialogs.answer(str(path), answer)


def export_and_wait(host, panel, timeout=90):
    """Click the button, and wait until it is idle again."""
    panel.ui.exportButton.click()
    wait_idle(host, panel, timeout)


def wait_idle(host, panel, timeout=90):
    """Until nothing is under way and the cases were looked at again."""
    host.wait_until(lambda: not panel._run.running, timeout=timeout)
    wait_for_checks(host, panel)


def translated(node, millimeters):
    """Put a node under a transform that moves it."""
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(0, 3, millimeters)
    transform.SetMatrixTransformToParent(matrix)
    node.SetAndObserveTransformNodeID(transform.GetID())
    return transform

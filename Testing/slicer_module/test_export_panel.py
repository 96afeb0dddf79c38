"""The panel *Export* as a radiologist uses it: by its widgets, on a real scene, against a real server."""

import json

import numpy as np
import pytest
import slicer

from ppcmi.bundle_header import read_header
from ppcmi.cohort_file import CohortKey, CohortReader
from ppcmi.consent_log import ConsentLog
from ppcmi_server.storage.keys import ServerKeys
from slicer_module.export_panel import (
    add_phantom,
    add_segmentation,
    check_row,
    choose,
    export_and_wait,
    names_in,
    opened_export,
    segment_box,
    status_of,
    to_file,
    wait_for_checks,
)
from slicer_module.panel import MODULE
from support.trained_site import TASK


@pytest.fixture
def a_panel(slicer_host, folder, monkeypatch):
    panel = opened_export(slicer_host, folder, monkeypatch)
    panel.ui.variantsSpinBox.value = 0
    return panel


def bundles_in(path, server):
    """Headers of what only the server can open."""
    reader = CohortReader(path)
    key = CohortKey.open(reader.header_bytes, ServerKeys.load(server.folder).private_key)
    return [read_header(key.open_frame(index, frame.data)[1]) for index, frame in reader.frames()]


def test_opening_needs_no_site_and_no_network(slicer_host, tmp_path, monkeypatch):
    panel = opened_export(slicer_host, tmp_path / "nothing", monkeypatch)
    assert "no site yet" in panel.ui.leavesLabel.text
    assert not panel.ui.exportButton.enabled


def test_a_segmentation_and_its_volume_are_a_case_that_is_ready(a_panel, slicer_host, a_site):
    assert "Load a volume and its segmentation" in a_panel.ui.leavesLabel.text
    add_phantom(a_site)
    a_panel.refresh()
    wait_for_checks(slicer_host, a_panel)
    assert names_in(a_panel) == [("phantom_A_04", "phantom_A_04 drawn")]
    assert status_of(a_panel) == "ready"
    assert "28 slices of 1 case leave as 6,144 protected numbers" in a_panel.ui.leavesLabel.text
    assert "No pixels" in a_panel.ui.leavesLabel.text
    assert a_panel.ui.exportButton.enabled
    task = a_site.profile.task(TASK).task
    shown = [segment_box(a_panel, row).currentText for row in range(len(task.labels))]
    assert shown == [label.name for label in task.labels]


def test_the_table_follows_the_scene_while_it_is_seen(a_panel, slicer_host, a_site):
    slicer.modules.PPCMISegmentWidget.parent.show()
    _, node = add_phantom(a_site)
    slicer_host.wait_until(lambda: a_panel.ui.casesTable.rowCount == 1 and status_of(a_panel) == "ready")
    segmentation = node.GetSegmentation()
    segmentation.GetSegment(segmentation.GetNthSegmentID(0)).SetName("Something else")
    slicer_host.wait_until(lambda: "Choose the segment" in status_of(a_panel))
    slicer.mrmlScene.RemoveNode(node)
    slicer_host.wait_until(lambda: a_panel.ui.casesTable.rowCount == 0)


def test_a_file_holds_the_case_as_the_server_can_open_it(a_panel, slicer_host, a_site, folder, tmp_path):
    add_phantom(a_site)
    a_panel.refresh()
    wait_for_checks(slicer_host, a_panel)
    path = tmp_path / "a.ppcmi"
    to_file(a_panel, slicer_host, path)
    export_and_wait(slicer_host, a_panel)
    assert a_panel.ui.messageLabel.text == "Done: the file is written."
    headers = bundles_in(path, a_site.server)
    assert [len(header.slice_indices) for header in headers] == [28]
    assert "1 case, 28 slices, each 1 time" in a_panel.ui.summaryLabel.text
    assert status_of(a_panel) == "exported"
    assert a_panel.ui.leavesLabel.text == "Check at least one case."
    question = slicer_host.dialogs.texts[-1]
    assert "28 slices of 1 case leave" in question
    assert "The labels leave in the same form" in question
    (entry,) = [e for e in ConsentLog(folder).entries() if e.answer == "yes"]
    assert (entry.action, entry.what["slices"]) == ("export", 28)


def test_what_is_exported_from_the_scene_is_what_the_files_say(a_panel, slicer_host, a_site, tmp_path):
    """The same case from the scene and by the command line gives the same latents, but for nonces."""
    from ppcmi.channel import open_channel
    from ppcmi.scales import Stream

    add_phantom(a_site)
    a_panel.refresh()
    wait_for_checks(slicer_host, a_panel)
    mine, theirs = tmp_path / "mine.ppcmi", tmp_path / "theirs.ppcmi"
    to_file(a_panel, slicer_host, mine)
    export_and_wait(slicer_host, a_panel)
    one = tmp_path / "one"
    for kind in ("images", "labels"):
        (one / kind).mkdir(parents=True)
        (one / kind / "x.nii.gz").write_bytes((a_site.cases / kind / "phantom_A_04.nii.gz").read_bytes())
    a_site.command("cohort", "export", "--task", TASK, "--cases", one, "-o", theirs, "--variants", "0")

    def latents(path):
        reader = CohortReader(path)
        key = CohortKey.open(reader.header_bytes, ServerKeys.load(a_site.server.folder).private_key)
        task = a_site.profile.task(TASK).task
        channel = open_channel(a_site.profile.link_key(), task.identity, "two-layer")
        (frame,) = [key.open_frame(index, frame.data)[1] for index, frame in reader.frames()]
        return channel.open(frame)[1]

    for stream in (Stream.IMAGE, Stream.MASK):
        first, second = (latents(path)[stream]["b"].numpy() for path in (mine, theirs))
        assert np.corrcoef(first.ravel(), second.ravel())[0, 1] > 0.99


def test_declining_writes_and_sends_nothing(a_panel, slicer_host, a_site, folder, tmp_path):
    add_phantom(a_site)
    a_panel.refresh()
    wait_for_checks(slicer_host, a_panel)
    to_file(a_panel, slicer_host, tmp_path / "a.ppcmi", answer="no")
    export_and_wait(slicer_host, a_panel)
    assert a_panel.ui.messageLabel.text == "Nothing was written or sent."
    assert not (tmp_path / "a.ppcmi").exists()
    assert ConsentLog(folder).entries()[-1].answer == "no"
    a_panel.ui.agreedCollapsibleButton.collapsed = False
    assert "declined" in a_panel.ui.agreedText.plainText.splitlines()[0]


def test_without_a_log_nothing_is_written(a_panel, slicer_host, a_site, folder, tmp_path):
    (folder / "consents.jsonl").unlink(missing_ok=True)
    (folder / "consents.jsonl").mkdir()
    add_phantom(a_site)
    a_panel.refresh()
    wait_for_checks(slicer_host, a_panel)
    to_file(a_panel, slicer_host, tmp_path / "a.ppcmi")
    export_and_wait(slicer_host, a_panel)
    assert "nothing is sent without it" in a_panel.ui.messageLabel.text
    assert not (tmp_path / "a.ppcmi").exists()


def test_segments_with_other_names_are_matched_by_hand(a_panel, slicer_host, a_site, tmp_path):
    task = a_site.profile.task(TASK).task
    first = task.labels[0]
    add_phantom(a_site, as_called={first.value: "My thing"})
    a_panel.refresh()
    wait_for_checks(slicer_host, a_panel)
    assert f"Choose the segment that is {first.name}" in status_of(a_panel)
    assert "None of the checked cases can be exported" in a_panel.ui.leavesLabel.text
    assert "color:#c62828" in a_panel.ui.findingsLabel.text
    choose(segment_box(a_panel, 0), "My thing")
    wait_for_checks(slicer_host, a_panel)
    assert status_of(a_panel) == "ready"
    choose(segment_box(a_panel, 0), "(none)")
    wait_for_checks(slicer_host, a_panel)
    assert status_of(a_panel) == "ready, with remarks"
    assert f"{first.name} has no segment" in a_panel.ui.findingsLabel.text
    to_file(a_panel, slicer_host, tmp_path / "a.ppcmi")
    export_and_wait(slicer_host, a_panel)
    assert len(bundles_in(tmp_path / "a.ppcmi", a_site.server)) == 1


def test_cases_that_are_not_ready_stay_out_and_the_summary_says_why(a_panel, slicer_host, a_site, tmp_path):
    add_phantom(a_site)
    add_phantom(a_site, "phantom_A_02", as_called={1: "<b>Mine</b>"})
    a_panel.refresh()
    wait_for_checks(slicer_host, a_panel)
    assert "stay out: 1" in a_panel.ui.leavesLabel.text
    to_file(a_panel, slicer_host, tmp_path / "a.ppcmi")
    export_and_wait(slicer_host, a_panel)
    assert "1 case, 28 slices" in a_panel.ui.summaryLabel.text
    assert "phantom_A_02: Choose the segment that is" in a_panel.ui.summaryLabel.text


def a_volume_with(a_site, masks):
    volume = slicer.util.loadVolume(str(a_site.cases / "images" / "phantom_A_04.nii.gz"))
    shape = slicer.util.arrayFromVolume(volume).shape
    arrays = {}
    for name, where in masks.items():
        arrays[name] = np.zeros(shape, bool)
        arrays[name][where] = True
    return volume, add_segmentation(volume, arrays)


def test_overlaps_are_refused_until_the_user_says_what_counts(a_panel, slicer_host, a_site):
    names = [label.name for label in a_site.profile.task(TASK).task.labels]
    a_volume_with(a_site, {names[0]: np.s_[8:20, 20:40, 20:40], names[1]: np.s_[8:20, 30:50, 20:40]})
    a_panel.refresh()
    wait_for_checks(slicer_host, a_panel)
    assert "overlap" in status_of(a_panel)
    assert not a_panel.ui.exportButton.enabled
    choose(a_panel.ui.overlapSelector, f"{names[0]} counts")
    wait_for_checks(slicer_host, a_panel)
    assert status_of(a_panel) == "ready, with remarks"
    assert "overlap in" in a_panel.ui.findingsLabel.text
    assert a_panel.ui.exportButton.enabled


def test_an_empty_segmentation_is_refused(a_panel, slicer_host, a_site):
    names = [label.name for label in a_site.profile.task(TASK).task.labels]
    a_volume_with(a_site, dict.fromkeys(names, np.s_[:0]))
    a_panel.refresh()
    wait_for_checks(slicer_host, a_panel)
    assert status_of(a_panel) == "Nothing is labelled in this case."


def test_a_segmentation_of_another_volume_is_refused(a_panel, slicer_host, a_site):
    volume, _ = add_phantom(a_site)
    volume.SetOrigin(500, 0, 0)
    a_panel.refresh()
    wait_for_checks(slicer_host, a_panel)
    assert "is it another volume" in status_of(a_panel)


def test_a_volume_is_found_by_its_grid_or_chosen(a_panel, slicer_host, a_site):
    volume, node = add_phantom(a_site)
    role = node.GetReferenceImageGeometryReferenceRole()
    node.SetNodeReferenceID(role, None)
    a_panel.refresh()
    wait_for_checks(slicer_host, a_panel)
    assert names_in(a_panel)[0][0] == "phantom_A_04"
    twin = slicer.util.loadVolume(str(a_site.cases / "images" / "phantom_A_04.nii.gz"))
    twin.SetName("twin")
    slicer.mrmlScene.RemoveNode(node)
    values = slicer.util.arrayFromVolume(volume)
    again = add_segmentation(volume, {"Liver": np.ones(values.shape, bool)})
    again.SetNodeReferenceID(role, None)
    a_panel.refresh()
    wait_for_checks(slicer_host, a_panel)
    assert names_in(a_panel)[0][0] == "(none)"
    assert "Choose the volume" in status_of(a_panel)
    choose(a_panel.ui.volumeSelector, "twin")
    wait_for_checks(slicer_host, a_panel)
    assert names_in(a_panel)[0][0] == "twin"


def test_a_model_s_result_and_a_second_segmentation_are_not_checked_by_themselves(a_panel, slicer_host, a_site):
    volume, node = add_phantom(a_site)
    for id_ in node.GetSegmentation().GetSegmentIDs():
        node.GetSegmentation().GetSegment(id_).SetTag("DICOM.SegmentAlgorithmName", "PPCMI")
    values = slicer.util.arrayFromVolume(volume)
    add_segmentation(volume, {"Liver": np.ones(values.shape, bool)}, "second")
    a_panel.refresh()
    wait_for_checks(slicer_host, a_panel)
    assert [pair.checked for pair in a_panel.pairs.pairs()] == [False, True]
    assert "physician" in a_panel.ui.findingsLabel.text
    check_row(a_panel, 0)
    a_panel.refresh()
    assert [pair.checked for pair in a_panel.pairs.pairs()] == [True, False]  # one of a volume, the user's
    check_row(a_panel, 1)
    a_panel.refresh()
    assert [pair.checked for pair in a_panel.pairs.pairs()] == [True, True]


def test_a_folder_s_cases_are_listed_and_exported(a_panel, slicer_host, a_site, tmp_path):
    a_panel.ui.sourceSelector.currentIndex = a_panel.ui.sourceSelector.findData("folder")
    assert "Choose a folder" in a_panel.ui.leavesLabel.text
    a_panel.ui.folderPathLineEdit.currentPath = str(a_site.cases)
    slicer_host.wait_until(lambda: a_panel.ui.casesTable.rowCount > 0)
    wait_for_checks(slicer_host, a_panel)
    held_out = [pair for pair in a_panel.pairs.pairs() if pair.files.fold != "train"]
    assert held_out
    assert not any(pair.checked for pair in held_out)
    for row, pair in enumerate(a_panel.pairs.pairs()):
        check_row(a_panel, row, "Checked" if pair.imageName in ("phantom_A_02", "phantom_A_01") else "Unchecked")
    to_file(a_panel, slicer_host, tmp_path / "f.ppcmi")
    export_and_wait(slicer_host, a_panel)
    assert len({header.case for header in bundles_in(tmp_path / "f.ppcmi", a_site.server)}) == 2


def test_a_folder_without_cases_says_so(a_panel, slicer_host, tmp_path):
    a_panel.ui.sourceSelector.currentIndex = a_panel.ui.sourceSelector.findData("folder")
    a_panel.ui.folderPathLineEdit.currentPath = str(tmp_path)
    slicer_host.wait_until(lambda: "no folder" in a_panel.ui.leavesLabel.text)
    assert not a_panel.ui.exportButton.enabled


def test_the_choices_are_remembered_and_nothing_else(a_panel, slicer_host, a_site, tmp_path):
    import qt

    add_phantom(a_site)
    a_panel.refresh()
    wait_for_checks(slicer_host, a_panel)
    to_file(a_panel, slicer_host, tmp_path / "a.ppcmi")
    export_and_wait(slicer_host, a_panel)
    settings = qt.QSettings()
    kept = {key: settings.value(key) for key in settings.allKeys() if key.startswith("PPCMISegment/export")}
    assert kept == {
        "PPCMISegment/exportTo": "file",
        "PPCMISegment/exportProfile": "coarse",
        "PPCMISegment/exportQuantization": "i8",
    }
    assert "phantom_A_04" not in json.dumps([str(settings.value(key)) for key in settings.allKeys()])


def test_two_patients_volumes_of_one_name_are_two_cases(slicer_host):
    """A pseudonym stands for one patient's case, however a volume is called in whichever session."""
    slicer_host.load_module(MODULE)
    from PPCMISegmentLib import VolumeNodes

    first, again, second = (np.full((40, 5, 6), value, np.int16) for value in (1, 1, 2))
    nodes = [slicer.util.addVolumeFromArray(voxels, name="T1") for voxels in (first, again, second)]
    marks = [VolumeNodes.markOf(node) for node in nodes]
    assert marks[0] == marks[1] != marks[2]
    slicer.util.arrayFromVolume(nodes[1])[39, 4, 5] = 7
    assert VolumeNodes.markOf(nodes[1]) != marks[0]

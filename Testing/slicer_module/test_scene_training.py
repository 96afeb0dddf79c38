"""Training, refining and validating on cases of the scene, by the widgets of the tab *Site* and with a real server."""

import json
import tempfile

import pytest
import slicer

from ppcmi.site import SiteProfile
from slicer_module.export_panel import add_phantom
from slicer_module.panel import MODULE
from slicer_module.site_tab import UNTRAINED, children, choose, click, opened_site_tab, said, settled, validations
from support.trained_site import TASK

OWN = tuple(f"phantom_A_{number:02}" for number in (1, 2, 3, 4))
"""Of the site's own scanner; the first two were uploaded for training."""

OTHERS = tuple(f"phantom_B_{number:02}" for number in (1, 2, 3, 4))
"""No model has seen them."""


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where this process makes its temporary folders."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def opened(slicer_host, a_copied_site, temporary, monkeypatch):
    """Opens the tab with these phantoms in the scene, the scene chosen for a task, and every row looked at.

    Which of them judges follows from their voxels, unless the test says it.
    """

    def open_it(names, task=UNTRAINED, judging=None, **other):
        volumes = {name: add_phantom(a_copied_site, name, **other)[0] for name in names}
        panel = opened_site_tab(slicer_host, a_copied_site.folder, monkeypatch)
        if judging is not None:
            from PPCMISegmentLib import SceneTraining, VolumeNodes

            mark = VolumeNodes.markOf(volumes[judging])
            monkeypatch.setattr(SceneTraining, "judges", lambda other: other == mark)
        section = panel.training
        section.ui.lengthSelector.addItem("Tiny", "0.01")
        section.ui.lengthSelector.currentIndex = section.ui.lengthSelector.findData("0.01")
        section.ui.deviceSelector.currentIndex = section.ui.deviceSelector.findData("cpu")
        choose(section, task)
        section.ui.sourceSelector.currentIndex = section.ui.sourceSelector.findData("scene")
        checked(slicer_host, section)
        return panel

    return open_it


def checked(host, section):
    """Wait until every row was looked at."""
    pairs = section.cases.pairs
    host.wait_until(lambda: pairs.pairs() and all(pair.outcome is not None for pair in pairs.pairs()), timeout=60)
    host.wait_until(lambda: not pairs.checking)


def folders(temporary):
    return list(temporary.glob("ppcmi-*"))


def apart(section):
    """Names of the cases that the sentence says are set apart."""
    text = section.ui.casesLabel.text
    assert text.startswith("Set apart to judge by, and not learned from while four images or more are checked: "), text
    return text.partition(": ")[2].partition(" (")[0].split(", ")


def test_the_source_says_which_widgets_are_seen(opened):
    section = opened(OTHERS[:1]).training
    assert section.ui.casesPathLineEdit.isHidden()
    assert not section.ui.scenePlace.isHidden()
    assert section.ui.trainButton.enabled
    section.ui.sourceSelector.currentIndex = section.ui.sourceSelector.findData("folder")
    assert not section.ui.casesPathLineEdit.isHidden()
    assert section.ui.scenePlace.isHidden()
    assert not section.ui.trainButton.enabled
    assert "split.csv" in section.ui.casesLabel.text


def test_a_codec_is_trained_on_the_scene_and_judged_on_what_was_set_apart(
    opened, slicer_host, a_copied_site, temporary
):
    panel = opened(OTHERS, judging=OTHERS[2])
    section, part = panel.training, SiteProfile.open(a_copied_site.folder).task(UNTRAINED)
    assert apart(section) == [OTHERS[2]]
    section.ui.trainButton.click()
    slicer_host.wait_until(lambda: "epoch" in said(section), timeout=120)
    (folder,) = folders(temporary)
    assert folder.stat().st_mode & 0o077 == 0
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    assert [file for file in files if file.startswith("images")] == [f"images/case_{n:04}.nii.gz" for n in range(1, 5)]
    rows = (folder / "split.csv").read_text().splitlines()
    number = 1 + [pair.imageName for pair in section.cases.pairs.pairs()].index(apart(section)[0])
    assert [row for row in rows if row.endswith(",val")] == [f"case_{number:04},val"]
    assert len([row for row in rows if row.endswith(",train")]) == 3
    settled(slicer_host, panel)
    assert "Not published." in said(section)  # a structure is in no case
    from ppcmi.codec.codec import Codec

    assert Codec.load(part.candidate_path).report["cases"] == 3
    slicer_host.wait_until(lambda: not folders(temporary), timeout=10)


def test_what_is_set_apart_does_not_depend_on_names_or_order(opened, slicer_host, a_copied_site):
    section = opened(OTHERS, judging=OTHERS[0]).training
    first = apart(section)
    slicer.mrmlScene.Clear(False)
    for name in reversed(OTHERS):
        volume, _segmentation = add_phantom(a_copied_site, name)
        volume.SetName(f"again {name}")
    section.refresh()
    checked(slicer_host, section)
    assert apart(section) == [f"again {name}" for name in first]


@pytest.fixture
def selected(slicer_host):
    """Makes the selection of cases with these marks, which are what they are called as well."""
    slicer_host.load_module(MODULE)  # its library can be imported then
    from PPCMISegmentLib.SceneTraining import ChosenCase, SceneSelection

    def select(marks, uploaded=""):
        return SceneSelection(tuple(ChosenCase(None, mark, mark, mark in uploaded) for mark in marks))

    return select


def titles(cases):
    return {chosen.title for chosen in cases}


def test_an_image_is_on_the_same_side_whatever_else_is_checked(selected):
    marks = [f"{number:08x}" for number in range(200)]
    apart, learned = titles(selected(marks).apart), titles(selected(marks).learned)
    assert apart | learned == set(marks)
    assert 20 <= len(apart) <= 60  # one in five
    for first in range(0, len(marks), 10):
        some = selected(marks[first : first + 10])
        assert titles(some.apart) <= apart
        assert titles(some.learned) <= learned


def test_segmentations_of_one_image_are_never_on_both_sides(selected, monkeypatch):
    from PPCMISegmentLib import SceneTraining

    monkeypatch.setattr(SceneTraining, "judges", lambda mark: mark == "a")
    selection = selected("dcbafedcbafe")
    assert [chosen.title for chosen in selection.apart] == ["a", "a"]
    assert "a" not in titles(selection.learned)


def test_where_none_is_set_apart_it_is_said_that_all_are_learned_from(selected, monkeypatch):
    from PPCMISegmentLib import SceneTraining

    monkeypatch.setattr(SceneTraining, "judges", lambda mark: mark == "a")
    assert selected("abc").inWords().startswith("With fewer than four images none is set apart. All are learned from:")
    assert selected("bcde").inWords().startswith("None of these images is set apart")
    assert "neither uploaded nor learned from" in selected("bcde").inWords()
    assert titles(selected("abcd", uploaded="a").learned) == set("abcd")  # a model has seen it


def test_where_all_are_set_apart_there_is_nothing_to_learn_from(selected, monkeypatch):
    from ppcmi.errors import UsageError
    from PPCMISegmentLib import SceneTraining

    monkeypatch.setattr(SceneTraining, "judges", lambda mark: True)
    with pytest.raises(UsageError, match="check others to learn from"):
        _ = selected("abcd").learned


def test_a_pair_that_cannot_be_used_is_left_out_and_named(opened, slicer_host, a_copied_site, temporary):
    add_phantom(a_copied_site, OTHERS[3], as_called={1: "Something", 2: "Else", 3: "Entirely"})
    panel = opened(OTHERS[:3], TASK)
    section = panel.training
    text = section.ui.casesLabel.text
    assert text.endswith(f"Left out, the table says why: {OTHERS[3]}."), text
    assert text.startswith("With fewer than four images none is set apart")
    slicer_host.dialogs.answer("ok")
    click(slicer_host, panel, section.ui.refineButton)
    assert said(section).startswith("\u25cf Done."), said(section)
    assert f"Left out {OTHERS[3]}: " in said(section)
    assert SiteProfile.open(a_copied_site.folder).task(TASK).decoder_path.exists()
    assert folders(temporary) == []


@pytest.mark.parametrize("when", ["reading", "epoch"])
def test_cancel_leaves_no_folder_and_no_child(opened, slicer_host, temporary, when):
    panel = opened(OTHERS)
    section, alive = panel.training, children()
    section.ui.lengthSelector.currentIndex = section.ui.lengthSelector.findData("3")
    section.ui.trainButton.click()
    if when == "reading":
        slicer_host.wait_until(lambda: any(list(f.glob("images/*")) for f in folders(temporary)), timeout=60)
    else:
        slicer_host.wait_until(lambda: "epoch" in said(section), timeout=120)
    section.ui.cancelButton.click()
    assert said(section) == "Cancelled; what there was before is as it was."
    slicer_host.wait_until(lambda: not folders(temporary) and not children() - alive, timeout=30)
    assert section.ui.trainButton.enabled
    checked(slicer_host, section)


def test_leaving_the_module_leaves_no_folder(opened, slicer_host, temporary):
    section = opened(OTHERS[:2]).training
    section.ui.trainButton.click()
    slicer_host.wait_until(lambda: folders(temporary), timeout=60)
    slicer_host.unload_module("PPCMISegment")
    slicer_host.wait_until(lambda: not folders(temporary), timeout=30)


def test_a_folder_in_which_something_is_still_written_goes_once_it_can(slicer_host, temporary, monkeypatch):
    slicer_host.load_module(MODULE)
    from PPCMISegmentLib.SceneCases import SceneCaseFolder

    with SceneCaseFolder() as folder:
        (folder.path / "images").mkdir()
        cleanup, calls = folder._temporary.cleanup, []
        monkeypatch.setattr(folder._temporary, "cleanup", lambda: cleanup() if calls else calls.append("too early"))
    assert folder.path.exists()
    slicer_host.wait_until(lambda: not folder.path.exists(), timeout=10)


def test_an_empty_scene_in_the_middle_is_said_or_does_not_matter(opened, slicer_host, temporary):
    panel = opened(OTHERS[:2])
    section = panel.training
    section.ui.trainButton.click()
    slicer.mrmlScene.Clear(False)
    settled(slicer_host, panel)
    assert said(section) == "None of the cases can be used any more; look at the table."
    assert folders(temporary) == []
    assert not section.ui.trainButton.enabled
    assert section.ui.casesLabel.text == "Load volumes with their segmentations first, or choose a folder."


def test_a_validation_scores_what_is_set_apart_and_never_what_was_uploaded(
    opened, slicer_host, a_copied_site, temporary
):
    panel = opened(OWN, TASK, judging=OWN[2])
    section, site = panel.training, SiteProfile.open(a_copied_site.folder)
    assert site.uploaded_cases(TASK) == set(OWN[:2])
    assert apart(section) == [OWN[2]]
    before = validations(site)
    click(slicer_host, panel, section.ui.validateButton)
    assert "Reported the means of 1 case" in said(section), said(section)
    assert validations(site) != before
    assert folders(temporary) == []


def test_cases_that_were_uploaded_from_the_scene_are_known_by_their_volumes(opened, slicer_host, a_copied_site):
    panel = opened(OTHERS[:2], TASK)
    section, site = panel.training, SiteProfile.open(a_copied_site.folder)
    identities = [case.identity for case in section.cases.pairs.labelledCases()]
    pseudonyms = site.pseudonyms(TASK, identities)
    site.record_cohort("0" * 32, {"task": TASK, "pseudonyms": list(pseudonyms.values())})
    for volume in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
        volume.SetName("Renamed")
    section.refresh()
    checked(slicer_host, section)
    assert section.ui.casesLabel.text.startswith("All of these cases were uploaded for training")
    before = validations(site)
    click(slicer_host, panel, section.ui.validateButton)
    assert said(section).startswith("All these cases were uploaded for training, so none of them can judge a model")
    assert validations(site) == before


def test_no_name_of_the_scene_reaches_the_settings_or_the_log(opened, slicer_host, caplog):
    import qt

    panel = opened(OTHERS[:2])
    click(slicer_host, panel, panel.training.ui.trainButton)
    settings = {key: str(qt.QSettings().value(key)) for key in qt.QSettings().allKeys()}
    assert "phantom_B" not in json.dumps(settings)
    assert "phantom_B" not in caplog.text

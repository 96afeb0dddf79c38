"""The section *Privacy check* of the panel *Export*, by its widgets, with a real check in a child process."""

import json
import re
import tempfile
from dataclasses import replace
from html import unescape
from types import SimpleNamespace

import pytest
import slicer

from ppcmi.audit.check import check_of
from ppcmi.codec.codec import Codec
from ppcmi.consent_log import ConsentLog
from ppcmi.phantoms import write_phantom_folder
from ppcmi.privacy_check import (
    FOLDER,
    BrokenControl,
    read_check,
    write_check,
)
from ppcmi.privacy_words import (
    QUICK_IN_WORDS,
    unseen_in_words,
)
from ppcmi.site import SiteProfile
from ppcmi.task import load_task, task_to_json
from ppcmi.task_profile import Membership
from ppcmi.what_leaves import NO_CHECK
from slicer_module.export_panel import add_phantom, opened_export, to_file, wait_for_checks
from slicer_module.site_tab import children
from support.audit_reports import a_report
from support.relay import relay_for
from support.trained_site import TASK, TASK_FILE

PATIENTS = 6
OTHER_TASK = "another"
PANEL_WIDTH = 450


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Phantoms, and a codec that was never trained: numbers mean nothing then, and controls fail."""
    folder, task = tmp_path_factory.mktemp("made"), load_task(TASK_FILE)
    task = replace(task, slicing=replace(task.slicing, neighbors=0))
    write_phantom_folder(folder / "cases", cases_per_site=PATIENTS // 3, seed=1)
    return folder / "cases", task, Codec(task, "autoencoder")


@pytest.fixture
def site(made, tmp_path):
    """A site alone: it has founded a task and has a codec, and its server has ended."""
    cases, task, codec = made
    with relay_for(task_to_json(task)) as relay:
        profile = relay.enrol(tmp_path, "A")
    part = profile.add_task(task, Membership("consortium", "two-layer", founder=True), bytes(32))
    codec.save(part.codec_path)
    return SimpleNamespace(cases=cases, profile=profile, folder=profile.folder, part=part)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where this process makes its temporary folders."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def opened(slicer_host, site, temporary, monkeypatch):
    """Opens the panel with phantoms in the scene, every row looked at, and a check of seconds to choose."""

    def open_it(phantoms=PATIENTS):
        names = sorted(path.name.partition(".")[0] for path in (site.cases / "images").iterdir())
        for name in names[:phantoms]:
            add_phantom(site, name)
        panel = opened_export(slicer_host, site.folder, monkeypatch)
        section = panel.privacy
        section.ui.attacksSelector.addItem("Tiny", "quick --effort 0.03 --profiles minimal")
        section.ui.attacksSelector.currentIndex = section.ui.attacksSelector.findText("Tiny")
        section.ui.deviceSelector.currentIndex = section.ui.deviceSelector.findData("cpu")
        return panel

    return open_it


def keep_a_check(site, **changes):
    check = replace(check_of(a_report(), site.part, "quick", cases=12, patients=10, seed=1), **changes)
    write_check(site.folder, TASK, check)
    return check


def cells(section):
    table = section.ui.resultTable
    return [[table.item(row, column).text() for column in range(table.columnCount)] for row in range(table.rowCount)]


def laid_out(host, panel, site):
    """Show the section as wide as Slicer shows a module."""
    panel.ui.privacyCollapsibleButton.collapsed = False
    host.grab(slicer.modules.PPCMISegmentWidget.parent, site.folder / "panel.png", PANEL_WIDTH, 4 * PANEL_WIDTH)


def finished(host, section, timeout=240):
    host.wait_until(lambda: not section.running, timeout=timeout)


def test_without_a_check_the_section_says_so_and_needs_cases(opened):
    section = opened(phantoms=0).privacy
    assert section.ui.stateLabel.text.startswith("No privacy check was made")
    assert section.ui.resultTable.isHidden()
    assert section.ui.useButton.isHidden()
    assert not section.ui.checkButton.enabled
    assert "six patients" in section.ui.checkButton.toolTip


def test_the_last_check_is_shown_and_its_profile_can_be_chosen(opened, site):
    keep_a_check(site)
    panel = opened(phantoms=0)
    section = panel.privacy
    assert "12 cases of 10 patients, 3 attacked" in section.ui.stateLabel.text
    assert unseen_in_words(False) in section.ui.stateLabel.text
    for said in (QUICK_IN_WORDS, "Only 3 patients were attacked"):
        assert said in section.ui.noticesLabel.text
    assert "could not see" not in section.ui.noticesLabel.text
    header = [section.ui.resultTable.horizontalHeaderItem(column).text() for column in (1, 2)]
    assert header == ["Dice of a\nstand-in", "Best quick\nattack, SSIM"]
    assert cells(section) == [
        ["coarse", "0.87", "0.52\n(0.49 to 0.55)", "0.44", "0.36"],
        ["minimal", "0.86", "0.40\n(0.37 to 0.43)", "0.32", "0.36"],
    ]
    section.ui.resultTable.selectRow(1)
    assert "(SSIM) to the slices of 0.40" in section.ui.sentencesLabel.text
    assert "a full check trains decoders and usually finds more" in section.ui.sentencesLabel.text
    assert "personal data about health" in section.ui.sentencesLabel.text
    assert section.ui.useButton.text == "Export with profile minimal"
    section.ui.useButton.click()
    assert panel.ui.profileSelector.currentData == "minimal"
    panel.refresh()
    assert section.ui.resultTable.currentRow() == 1
    assert section.ui.picturesLabel.isHidden()  # pictures are not kept


def test_what_has_to_be_read_before_the_numbers_stands_above_them_as_in_the_report(opened, slicer_host, site):
    check = keep_a_check(site, controls_hold=False, broken_controls=(BrokenControl("wrong key"),), could_not_see=True)
    panel = opened(phantoms=0)
    label, table = panel.privacy.ui.noticesLabel, panel.privacy.ui.resultTable
    said = unescape(re.sub(r"<[^>]+>", "", label.text))
    assert [str(notice) in said for notice in check.notices] == [True] * 4
    assert "These attacks could not see." in said
    assert "say nothing about privacy until it does: wrong key" in said
    laid_out(slicer_host, panel, site)
    assert not label.isHidden()
    assert label.geometry.bottom() < table.geometry.top()


def test_no_column_of_the_numbers_is_out_of_sight(opened, slicer_host, site):
    """At the width that Slicer gives a module, a guess must be seen beside the attack."""
    keep_a_check(site)
    panel = opened(phantoms=0)
    laid_out(slicer_host, panel, site)
    table = panel.privacy.ui.resultTable
    assert table.horizontalScrollBar().maximum == 0
    assert table.verticalScrollBar().maximum == 0


def test_texts_that_are_escaped_are_shown_as_they_were(opened):
    """A label that takes them for plain text would show &#x27; in place of an apostrophe."""
    import qt

    panel = opened(phantoms=0)
    section = panel.privacy.ui
    for label in (
        section.stateLabel, section.noticesLabel, section.messageLabel, section.sentencesLabel,
        panel.ui.leavesLabel, panel.ui.messageLabel,
    ):  # fmt: skip
        assert label.textFormat == qt.Qt.RichText, label.name


def test_a_check_of_an_earlier_codec_counts_as_none(opened, site):
    keep_a_check(site, codec="0" * 32)
    assert opened(phantoms=0).privacy.ui.stateLabel.text.startswith("No privacy check was made")


def test_a_check_runs_on_copies_that_go_and_only_numbers_stay(opened, slicer_host, site, temporary, tmp_path):
    import qt

    section = opened().privacy
    assert section.ui.checkButton.enabled, section.ui.checkButton.toolTip
    section.ui.checkButton.click()
    assert section.running
    assert section.ui.checkButton.text == "Cancel"
    assert not section.ui.progressBar.isHidden()
    slicer_host.wait_until(lambda: section.ui.progressBar.value > 0, timeout=240)
    (copies,) = temporary.glob("ppcmi-*")
    assert copies.stat().st_mode & 0o077 == 0
    assert (copies / "split.csv").read_text().splitlines()[:3] == ["id,patient", "case_0001,1", "case_0002,2"]
    finished(slicer_host, section)
    slicer_host.wait_until(lambda: not list(temporary.glob("ppcmi-*")), timeout=30)
    kept = read_check(site.folder, site.part)
    assert (kept.cases, kept.patients, kept.attacks) == (PATIENTS, PATIENTS, "quick, shortened")
    assert cells(section)[0][0] == "minimal"
    assert 'src="data:image/png;base64,' in section.ui.picturesLabel.text
    assert "What leaves" in section.ui.picturesLabel.text
    assert section.ui.picturesLabel.minimumHeight >= section.ui.picturesLabel.sizeHint.height()  # none is cut off
    stored = (site.folder / FOLDER / f"{TASK}.json").read_text()
    assert "phantom_" not in stored
    assert "base64" not in stored
    settings = json.dumps([str(qt.QSettings().value(key)) for key in qt.QSettings().allKeys()])
    assert "phantom_" not in settings
    assert "A control did not hold" in section.ui.messageLabel.text
    assert "A control did not hold" in section.ui.noticesLabel.text
    slicer_host.dialogs.answer(str(tmp_path / "kept.html"))
    section.ui.saveReportButton.click()
    assert "A control did not hold" in (tmp_path / "kept.html").read_text()


def test_cancel_leaves_no_copy_no_child_and_the_last_check(opened, slicer_host, site, temporary):
    check = keep_a_check(site)
    section, alive = opened().privacy, children()
    section.ui.checkButton.click()
    slicer_host.wait_until(lambda: children() - alive, timeout=120)
    section.ui.checkButton.click()
    assert section.ui.messageLabel.text.startswith("Cancelled")
    assert not section.running
    slicer_host.wait_until(lambda: not list(temporary.glob("ppcmi-*")) and not children() - alive, timeout=60)
    assert read_check(site.folder, site.part) == check
    assert len(cells(section)) == 2


@pytest.fixture
def checks(opened, slicer_host, site, monkeypatch):
    """Stands in for checks, which take minutes: each waits until it is let go. The site has a second task."""
    site.profile.add_task(
        replace(site.part.task, name=OTHER_TASK, title="Another task"), site.part.membership, bytes(32)
    )
    kept = keep_a_check(site)
    panel = opened(phantoms=1)
    choose_task(panel, TASK)
    wait_for_checks(slicer_host, panel)
    from PPCMISegmentLib import PrivacyCheckSection
    from PPCMISegmentLib.PrivacyCheckSteps import CheckResult

    begun = SimpleNamespace(panel=panel, words=[], tasks=[], name=kept.name, done=False)

    def steps(words, _cases, _patients, task, _worker):
        begun.words.append(words)
        begun.tasks.append(task.name)
        yield {"event": "pictures", "profile": "coarse", "pictures": [["slice", ""]]}
        while not begun.done:
            yield None
        yield {"event": "privacy", "name": begun.name}
        return CheckResult(b"the report", "")

    monkeypatch.setattr(PrivacyCheckSection, "privacyCheckSteps", steps)
    return begun


def choose_task(panel, name):
    panel.ui.taskSelector.currentIndex = panel.ui.taskSelector.findData(name)


def test_a_check_that_ends_after_another_task_was_chosen_is_not_shown_as_that_task_s(checks, site, slicer_host):
    panel = checks.panel
    section = panel.privacy
    section.start()
    choose_task(panel, OTHER_TASK)
    checks.done = True
    finished(slicer_host, section)
    assert section.ui.stateLabel.text.startswith("No privacy check was made for this task")
    assert cells(section) == []
    assert section.ui.saveReportButton.isHidden()
    assert section.ui.useButton.isHidden()
    title = site.part.task.title
    assert unescape(section.ui.messageLabel.text) == f'Privacy check of "{title}": Done; nothing was sent.'
    choose_task(panel, TASK)
    assert [row[0] for row in cells(section)] == ["coarse", "minimal"]
    assert not section.ui.picturesLabel.isHidden()
    assert not section.ui.saveReportButton.isHidden()


def test_of_a_check_that_says_less_than_the_last_one_only_the_report_is_there(checks, slicer_host):
    """A quick one after a full one: numbers, pictures and what is quoted before an export stay of one check."""
    section = checks.panel.privacy
    section.start()
    checks.name, checks.done = "a quick check", True
    finished(slicer_host, section)
    assert "An earlier check says more" in section.ui.messageLabel.text
    assert [row[0] for row in cells(section)] == ["coarse", "minimal"]
    assert section.ui.picturesLabel.isHidden()
    assert not section.ui.saveReportButton.isHidden()


def test_a_check_after_that_is_of_the_task_that_is_chosen(checks, slicer_host):
    panel = checks.panel
    panel.privacy.start()
    choose_task(panel, OTHER_TASK)
    checks.done = True
    finished(slicer_host, panel.privacy)
    wait_for_checks(slicer_host, panel)
    panel.privacy.ui.checkButton.click()
    finished(slicer_host, panel.privacy)
    assert checks.tasks == [TASK, OTHER_TASK]
    assert [words[words.index("--task") + 1] for words in checks.words] == [TASK, OTHER_TASK]


def test_pictures_of_a_check_that_was_cancelled_do_not_stand_beside_the_last_one(checks, slicer_host):
    section = checks.panel.privacy
    section.start()
    slicer_host.process_events(0.2)
    section.ui.checkButton.click()
    assert len(cells(section)) == 2
    assert section.ui.picturesLabel.isHidden()


@pytest.fixture(params=["mixup", "privacy-sf", "paper"])
def opened_without_a_check(request, opened, slicer_host, site):
    """The panel with a case and, chosen, a task that is there to compare with; beside it the site's first task."""
    method = "ppcmi" if request.param == "paper" else request.param
    task = replace(site.part.task, name=OTHER_TASK, method=method)
    mode = "paper" if request.param == "paper" else "plain"
    site.profile.add_task(task, Membership("consortium", mode, founder=True), bytes(32))
    panel = opened(phantoms=1)
    choose_task(panel, OTHER_TASK)
    wait_for_checks(slicer_host, panel)
    return panel


def test_no_check_is_offered_where_there_is_none(opened_without_a_check, slicer_host, site, temporary, tmp_path):
    panel = opened_without_a_check
    section = panel.privacy
    for enabled in (section.ui.checkButton.enabled, section.ui.optionsWidget.enabled):
        assert not enabled
    assert section.ui.checkButton.toolTip == section.ui.stateLabel.text == NO_CHECK
    section.start()
    assert not section.running
    assert slicer_host.dialogs.texts == []
    assert list(temporary.glob("ppcmi-*")) == []
    to_file(panel, slicer_host, tmp_path / "a.ppcmi", answer="no")
    assert panel.ui.exportButton.enabled, panel.ui.leavesLabel.text
    panel.ui.exportButton.click()
    _file, question = slicer_host.dialogs.texts
    assert NO_CHECK in question
    assert "No privacy check was made" not in question
    assert "do not use it with patients' data" in question
    assert ConsentLog(site.folder).entries()[-1].answer == "no"


def test_no_profile_is_offered_where_the_method_has_one_alone(opened_without_a_check, slicer_host):
    panel = opened_without_a_check
    rows = (panel.ui.profileCaptionLabel, panel.ui.profileSelector)
    assert [widget.isHidden() for widget in rows] == [True, True]
    choose_task(panel, TASK)
    wait_for_checks(slicer_host, panel)
    assert [widget.isHidden() for widget in rows] == [False, False]
    assert panel.privacy.ui.checkButton.enabled
    assert panel.privacy.ui.optionsWidget.enabled
    assert panel.privacy.ui.stateLabel.text.startswith("No privacy check was made")


def test_too_few_patients_are_said_in_a_sentence(opened, slicer_host):
    section = opened(phantoms=3).privacy
    section.ui.checkButton.click()
    finished(slicer_host, section)
    assert "at least 6 patients" in section.ui.messageLabel.text
    assert section.ui.resultTable.isHidden()


def test_before_the_first_export_a_check_is_offered_and_not_forced(opened, slicer_host, site, tmp_path):
    panel = opened(phantoms=1)
    panel.ui.destinationSelector.currentIndex = panel.ui.destinationSelector.findData("file")
    slicer_host.dialogs.answer("no", str(tmp_path / "a.ppcmi"), "no")
    assert panel.ui.exportButton.enabled, panel.ui.leavesLabel.text
    panel.ui.exportButton.click()
    assert slicer_host.dialogs.texts, panel.ui.messageLabel.text
    offer, _file, question = slicer_host.dialogs.texts
    assert "No privacy check was made for this task yet" in offer
    assert "No privacy check was made for this task with its present codec" in question
    assert panel.ui.messageLabel.text == "Nothing was written or sent."
    (entry,) = ConsentLog(site.folder).entries()
    assert entry.privacy_check == ""
    slicer_host.dialogs.answer("yes")
    panel.ui.exportButton.click()
    assert panel.privacy.running
    assert not panel.ui.privacyCollapsibleButton.collapsed
    assert len(ConsentLog(site.folder).entries()) == 1
    panel.privacy.ui.checkButton.click()


@pytest.mark.parametrize(
    ("controls_hold", "profile", "reason"),
    [
        (False, "coarse", "A control of the last privacy check did not hold"),
        (True, "full", "The last privacy check did not look at profile full"),
    ],
)
def test_a_check_that_says_nothing_of_the_profile_silences_no_question(
    opened, slicer_host, site, tmp_path, controls_hold, profile, reason
):
    keep_a_check(site, controls_hold=controls_hold)
    panel = opened(phantoms=1)
    panel.ui.destinationSelector.currentIndex = panel.ui.destinationSelector.findData("file")
    panel.ui.profileSelector.currentIndex = panel.ui.profileSelector.findData(profile)
    wait_for_checks(slicer_host, panel)
    slicer_host.dialogs.answer("no", str(tmp_path / "a.ppcmi"), "no")
    panel.ui.exportButton.click()
    offer, _file, _question = slicer_host.dialogs.texts
    assert reason in offer
    assert ConsentLog(site.folder).entries()[-1].privacy_check == ""


def test_after_a_check_the_question_quotes_it_and_the_log_names_it(opened, slicer_host, site, tmp_path):
    check = keep_a_check(site)
    panel = opened(phantoms=1)
    to_file(panel, slicer_host, tmp_path / "a.ppcmi", answer="no")
    panel.ui.exportButton.click()
    assert "SSIM 0.52, a guess 0.36" in slicer_host.dialogs.texts[-1]
    assert ConsentLog(site.folder).entries()[-1].privacy_check == check.name
    panel.ui.agreedCollapsibleButton.collapsed = False
    assert f"privacy check of {check.time[:10]}" in panel.ui.agreedText.plainText


def test_packages_are_asked_for_when_the_first_check_is_made(opened, slicer_host, monkeypatch):
    from slicer import packaging

    panel, found = opened(), packaging._is_met
    monkeypatch.setattr(packaging, "_is_met", lambda one: "scikit" not in one.name and found(one))
    panel.refresh()
    wait_for_checks(slicer_host, panel)
    assert panel.ui.exportButton.enabled  # nothing else needs them
    slicer_host.dialogs.answer("cancel")
    panel.privacy.ui.checkButton.click()
    assert not panel.privacy.running
    assert "A privacy check needs Python packages that are not installed" in panel.privacy.ui.messageLabel.text


def test_a_patient_s_volumes_stay_together(slicer_host, opened, site):
    panel = opened(phantoms=3)
    from PPCMISegmentLib.PrivacyCheckSteps import patientsOf

    pairs = panel.pairs.pairs()
    assert patientsOf(pairs) == [1, 2, 3]
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "Somebody")
    for pair in pairs[1:]:
        hierarchy.SetItemParent(hierarchy.GetItemByDataNode(pair.volumeNode), patient)
    assert patientsOf(pairs) == [1, 2, 2]


def test_the_profile_folder_is_still_one(site):
    keep_a_check(site)
    assert SiteProfile.open(site.folder).tasks()

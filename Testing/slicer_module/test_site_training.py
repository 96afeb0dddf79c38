"""The section *Codec and decoder* of the tab *Site*: trainings of seconds in a child process, with a real server."""

import shutil

import pytest
import slicer

from ppcmi import consortium
from ppcmi.site import SiteProfile
from slicer_module.panel import MODULE
from slicer_module.site_tab import (
    ABSENT,
    UNTRAINED,
    children,
    choose,
    click,
    opened_site_tab,
    said,
    settled,
    validations,
)
from support.trained_site import TASK


@pytest.fixture(scope="module")
def few_cases(a_trained_site):
    """The cases of the site's own scanner."""
    folder = a_trained_site.cases.with_name("few")
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
        for file in (a_trained_site.cases / part).glob("phantom_A_*"):
            shutil.copy(file, folder / part)
    rows = (a_trained_site.cases / "split.csv").read_text().splitlines()
    (folder / "split.csv").write_text("\n".join(row for row in rows if not row.endswith((",B", ",C"))))
    return folder


@pytest.fixture
def a_tab(slicer_host, a_copied_site, few_cases, monkeypatch):
    """The tab, with labelled cases and the shortest training chosen."""
    panel = opened_site_tab(slicer_host, a_copied_site.folder, monkeypatch)
    ui = panel.training.ui
    ui.lengthSelector.addItem("Tiny", "0.01")
    ui.lengthSelector.currentIndex = ui.lengthSelector.findData("0.01")
    ui.deviceSelector.currentIndex = ui.deviceSelector.findData("cpu")
    ui.casesPathLineEdit.currentPath = str(few_cases)
    return panel


def curves():
    """The series of the plot by name: ``(epoch, loss)`` of every point."""
    (chart,) = slicer.util.getNodesByClass("vtkMRMLPlotChartNode")
    result = {}
    for index in range(chart.GetNumberOfPlotSeriesNodes()):
        series = chart.GetNthPlotSeriesNode(index)
        table = series.GetTableNode().GetTable()
        x, y = (table.GetColumnByName(name) for name in (series.GetXColumnName(), series.GetYColumnName()))
        points = [(x.GetValue(row), y.GetValue(row)) for row in range(table.GetNumberOfRows())]
        result[series.GetName()] = [point for point in points if point[1] == point[1]]
    return result


def test_a_second_training_takes_the_place_of_the_first_one_s_curves(slicer_host):
    slicer_host.load_module(MODULE)  # its library can be imported then
    from PPCMISegmentLib.TrainingPlot import TrainingPlot

    mine = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", "Mine")
    event = {"epoch": 1, "epochs": 2, "share": 0.5, "loss": 0.25}
    plot = TrainingPlot()
    plot.start("First")
    plot.add(event, "One")
    plot.start("Second")
    plot.add(event, "Two")
    plot.add({**event, "share": 1.0, "loss": None}, "Two")  # not a number
    plot.add({**event, "epoch": 2}, "Three")
    assert curves() == {"Two": [(0.5, 0.25)], "Three": [(1.5, 0.25)]}
    assert mine in slicer.util.getNodesByClass("vtkMRMLPlotSeriesNode")
    slicer.mrmlScene.Clear(False)
    plot.add(event, "Two")
    assert slicer.util.getNodesByClass("vtkMRMLTableNode") == []


def test_a_poor_codec_is_shown_and_not_published_unless_the_user_insists(a_tab, slicer_host, a_copied_site):
    section, part = a_tab.training, SiteProfile.open(a_copied_site.folder).task(UNTRAINED)
    choose(section, UNTRAINED)
    assert section.ui.stateLabel.text == "No codec yet: train it on labelled cases."
    assert not section.ui.refineButton.enabled
    click(slicer_host, a_tab, section.ui.trainButton)
    assert f"Not published. None of the cases that were set apart has {ABSENT}" in said(section)
    assert not part.codec_path.exists()
    drawn = curves()
    assert list(drawn) == [
        "Image part",
        "Mask part",
        "This site's own network",
        "What leaves",
        "What is left of images",
    ]
    for points in drawn.values():
        assert points[-1][0] >= 1
        assert all(loss > 0 for _epoch, loss in points)
    table = section.ui.reportTable
    header = [table.horizontalHeaderItem(column).text() for column in range(table.columnCount)]
    assert header[:3] == ["profile", "PSNR dB", "SSIM"]
    assert header[3:] == [f"Dice {label.name}" for label in part.task.labels]
    assert not table.isHidden()

    slicer_host.dialogs.answer("cancel", "ok")
    click(slicer_host, a_tab, section.ui.publishButton)
    assert not part.codec_path.exists()
    click(slicer_host, a_tab, section.ui.publishButton)
    published = part.codec_path.read_bytes()
    assert "Done. Codec" in said(section)
    assert section.ui.publishRow.isHidden()
    site = SiteProfile.open(a_copied_site.folder)
    assert site.client().task(UNTRAINED)["consortium"]["codec"] == consortium.own_codec(part).fingerprint
    assert section.ui.stateLabel.text.startswith("There is a codec.")

    slicer_host.dialogs.answer("cancel")
    section.ui.trainButton.click()
    assert "has a codec already" in slicer_host.dialogs.texts[-1]
    assert not section.busy
    assert part.codec_path.read_bytes() == published


def test_cancel_ends_the_training_for_good_and_leaves_the_codec_as_it_was(a_tab, slicer_host, a_copied_site):
    section, part = a_tab.training, SiteProfile.open(a_copied_site.folder).task(TASK)
    choose(section, TASK)
    section.ui.lengthSelector.currentIndex = section.ui.lengthSelector.findData("3")
    before, alive = {path.name: path.read_bytes() for path in part.folder.iterdir()}, children()
    slicer_host.dialogs.answer("ok")
    section.ui.trainButton.click()
    assert section.ui.trainingButtons.isHidden()
    slicer_host.wait_until(lambda: "epoch" in said(section), timeout=120)
    assert len(children() - alive) == 1
    section.ui.cancelButton.click()
    assert said(section) == "Cancelled; what there was before is as it was."
    assert not section.ui.trainingButtons.isHidden()
    assert section.ui.progressRow.isHidden()
    slicer_host.wait_until(lambda: not children() - alive, timeout=30)
    assert {path.name: path.read_bytes() for path in part.folder.iterdir()} == before


def test_leaving_the_module_ends_the_training(a_tab, slicer_host):
    section, alive = a_tab.training, children()
    choose(section, UNTRAINED)
    section.ui.trainButton.click()
    slicer_host.wait_until(lambda: children() - alive, timeout=60)
    slicer_host.unload_module("PPCMISegment")
    slicer_host.wait_until(lambda: not children() - alive, timeout=30)


def test_another_tab_or_an_empty_scene_does_not_disturb_a_training(a_tab, slicer_host):
    section = a_tab.training
    choose(section, UNTRAINED)
    section.ui.trainButton.click()
    slicer_host.wait_until(lambda: "epoch" in said(section), timeout=120)
    a_tab.refresh()
    slicer.mrmlScene.Clear(False)
    assert section.busy
    settled(slicer_host, a_tab)
    assert "Not published." in said(section)


def test_refining_fits_the_decoder_and_says_what_it_brings(a_tab, slicer_host, a_copied_site):
    section, part = a_tab.training, SiteProfile.open(a_copied_site.folder).task(TASK)
    choose(section, TASK)
    assert not part.decoder_path.exists()
    click(slicer_host, a_tab, section.ui.refineButton)
    assert "Done. The server's share in this site's predictions is" in said(section), said(section)
    assert "Next:" not in said(section)
    assert part.decoder_path.exists()
    assert list(curves()) == ["This site's own network"]
    assert a_tab.ui.trainingCollapsibleButton.text.endswith("codec and own decoder")


def test_validation_shows_scores_and_reports_them_only_where_the_box_says_so(a_tab, slicer_host, a_copied_site):
    section, site = a_tab.training, SiteProfile.open(a_copied_site.folder)
    choose(section, TASK)
    before = validations(site)
    section.ui.reportCheckBox.checked = False
    click(slicer_host, a_tab, section.ui.validateButton)
    assert "Nothing was reported." in said(section), said(section)
    assert validations(site) == before
    table = section.ui.reportTable
    rows = [table.item(row, 0).text() for row in range(table.rowCount)]
    assert rows[:-1] == [label.name for label in site.task(TASK).task.labels]
    section.ui.reportCheckBox.checked = True
    click(slicer_host, a_tab, section.ui.validateButton)
    assert validations(site) != before


def test_a_folder_without_cases_is_said(a_tab, slicer_host, tmp_path):
    section = a_tab.training
    choose(section, UNTRAINED)
    section.ui.casesPathLineEdit.currentPath = ""
    assert not section.ui.trainButton.enabled
    (tmp_path / "empty").mkdir()
    section.ui.casesPathLineEdit.currentPath = str(tmp_path / "empty")
    click(slicer_host, a_tab, section.ui.trainButton)
    assert said(section) == "The data folder has no folder 'images' with images in it."


def test_a_place_that_cannot_be_written_is_said_and_nothing_else_changes(a_tab, slicer_host, a_copied_site):
    section, part = a_tab.training, SiteProfile.open(a_copied_site.folder).task(UNTRAINED)
    choose(section, UNTRAINED)
    part.candidate_path.mkdir()  # no file can take its place
    click(slicer_host, a_tab, section.ui.trainButton)
    assert said(section).startswith("A file cannot be written:")
    assert not part.codec_path.exists()


def test_only_the_founder_of_a_shared_codec_trains_it(slicer_host, a_copied_site, tmp_path, monkeypatch):
    server, founder = a_copied_site.server, SiteProfile.open(a_copied_site.folder)
    member = SiteProfile.enrol(tmp_path / "member", server.url, server.add_site("Member"))
    consortium.invite(founder, founder.client(), founder.task(TASK), consortium.find_peer(founder.client(), "Member"))
    consortium.join(member, member.client(), TASK)
    panel = opened_site_tab(slicer_host, member.folder, monkeypatch)
    section = panel.training
    assert section.ui.trainButton.isHidden()
    assert section.ui.stateLabel.text.startswith("The founder trains the codec")


def test_the_device_is_remembered_for_all_panels_and_no_folder_is(a_tab, slicer_host, a_copied_site, monkeypatch):
    import qt

    assert qt.QSettings().value("PPCMISegment/device") == "cpu"
    slicer_host.unload_module("PPCMISegment")
    panel = opened_site_tab(slicer_host, a_copied_site.folder, monkeypatch)
    assert panel.training.ui.deviceSelector.currentData == "cpu"
    paths = {key: str(qt.QSettings().value(key)) for key in qt.QSettings().allKeys()}
    assert str(a_copied_site.cases.parent) not in str(paths)

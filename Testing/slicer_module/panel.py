"""Opening our module in the host, and what tests do with its panel again and again."""

from pathlib import Path

MODULE = Path(__file__).parents[2] / "PPCMISegment" / "PPCMISegment.py"
VOLUME, STATUS = 0, 1


def opened_panel(host, site_folder, monkeypatch, *, answers=True):
    """The panel *Segment privately* with this site profile, once the server has answered."""
    monkeypatch.setenv("PPCMI_SITE_DIR", str(site_folder))
    panel = host.load_module(MODULE).widget.segmentPanel
    if site_folder.exists():
        panel.ui.deviceSelector.currentIndex = panel.ui.deviceSelector.findData("cpu")
        host.wait_until(lambda: not panel._asking.running)
        assert ("answers" in panel.ui.siteLabel.text) == answers, panel.ui.siteLabel.text
    return panel


def segment_and_wait(host, panel):
    """Click the button, and wait until it can be clicked again."""
    panel.ui.segmentButton.click()
    host.wait_until(lambda: panel.ui.segmentButton.text == "Segment privately", timeout=60)


def check(panel, row, state="Checked"):
    """Click on the check box in a row of the queue."""
    import qt

    panel.ui.volumesTable.item(row, VOLUME).setCheckState(getattr(qt.Qt, state))


def status_of(panel, row):
    """The status in a row of the queue."""
    return panel.ui.volumesTable.item(row, STATUS).text()

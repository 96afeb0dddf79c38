"""Pictures of every panel at work and after, and of a result in a slice and in 3D: ``make screenshots DATA=folder``.

A server and a site are made for it, a model is trained for minutes, and the panels are used as a radiologist would, in
the headless host. With the data set hippocampus_mr or fetal_head_us the scans are real ones; without, phantoms.
``python -m screenshots --only privacy-check --data folder`` takes the picture of that section alone.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path

from benchmarks.sites import TASKS
from ppcmi.data_folders import find_cases
from slicer_host.host import SlicerHost
from support.trained_site import REPOSITORY, TASK_FILE, TrainedSite, trained_site

MODULE = REPOSITORY / "PPCMISegment" / "PPCMISegment.py"
PICTURES = REPOSITORY / "Resources" / "Screenshots"
PICTURED = ("scans", "privacy-check", "site")
WIDTH, HEIGHT, SCALE = 500, 820, 2.0
VIEW = (640, 640)
CHECK_HEIGHT, CHECK_SCALE, CHECKED_AFTER_S = 900, 1.5, 2400.0


class Photographer:
    """Uses the module's panels and takes their pictures.

    :param scans: of the site's test cases; their names are neutral in the pictures.
    """

    def __init__(self, host: SlicerHost, site: TrainedSite, scans: list[Path], folder: Path) -> None:
        self._host, self._site, self._scans, self._folder = host, site, scans, folder
        self._module = host.load_module(MODULE)
        self._panels = self._module.widget.panels

    def take(self, chosen: Collection[str]) -> None:
        """The chosen of ``PICTURED``, in the order in which a user meets the panels."""
        takers = (self._panels_with_scans, self._privacy_check, self._site_tab)
        for name, take in zip(PICTURED, takers, strict=True):
            if name in chosen:
                take()

    def _panels_with_scans(self) -> None:
        self._segment()
        self._preview()
        self._export()

    def _segment(self) -> None:
        import slicer

        panel = self._open("Segment")
        self._host.wait_until(lambda: "answers" in panel.ui.siteLabel.text)
        for number, scan in enumerate(self._scans, start=1):
            slicer.util.loadVolume(str(scan), {"name": f"Scan {number}"})
        panel.ui.segmentButton.click()
        self._host.wait_until(lambda: "slices" in panel.ui.messageLabel.text, timeout=120)
        self._save("segment-panel-at-work")
        self._host.wait_until(lambda: panel.ui.segmentButton.text == "Segment privately", timeout=300)
        self._save("segment-panel")
        volume = slicer.util.getNode("Scan 1")
        for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
            role = node.GetReferenceImageGeometryReferenceRole()
            node.SetDisplayVisibility(node.GetNodeReference(role) is volume)
        self._host.render_slice(self._folder / "slice.png", volume, orientation="Sagittal", size=VIEW)
        self._host.render_3d(self._folder / "3d.png", size=VIEW)

    def _preview(self) -> None:
        panel = self._open("What leaves")
        panel.ui.previewButton.click()
        self._host.wait_until(lambda: panel.ui.serverCaption.text != "", timeout=120)
        self._save("preview-panel")

    def _export(self) -> None:
        import qt

        panel = self._open("Export")
        table = panel.ui.casesTable
        for row in range(table.rowCount):
            table.item(row, 0).setCheckState(qt.Qt.Checked)
        self._host.wait_until(lambda: not panel.pairs.checking, timeout=60)
        self._save("export-panel")

    def _privacy_check(self) -> None:
        panel = self._open("Export")
        source, section = panel.ui.sourceSelector, panel.privacy
        source.currentIndex = source.findData("folder")
        panel.ui.folderPathLineEdit.currentPath = str(self._site.cases)
        self._host.wait_until(lambda: section.ui.checkButton.enabled and not panel.pairs.checking, timeout=120)
        section.ui.checkButton.click()
        self._host.wait_until(lambda: not section.running, timeout=CHECKED_AFTER_S)
        button = panel.ui.privacyCollapsibleButton
        button.collapsed = False
        self._save("privacy-check", HEIGHT + CHECK_HEIGHT)  # lays the section out, whose picture comes in its place
        self._host.grab(button, self._folder / "privacy-check.png", button.width, button.height, CHECK_SCALE)
        button.collapsed = True
        source.currentIndex = source.findData("scene")  # a folder's path is no part of a picture
        self._host.wait_until(lambda: not panel.pairs.checking, timeout=60)

    def _site_tab(self) -> None:
        panel = self._open("Site")
        self._host.process_events(1.0)
        for section in ("server", "consortium"):
            panel._button(section).collapsed = False
        self._save("site-panel")

    def _open(self, title: str) -> object:
        self._module.widget.ui.panelsTabWidget.currentIndex = list(self._panels).index(title)
        self._host.process_events(0.5)
        return self._panels[title]

    def _save(self, name: str, height: int = HEIGHT) -> None:
        self._host.grab(self._module.widget.parent, self._folder / f"{name}.png", WIDTH, height, SCALE)


def main() -> int:
    """Make the site, take the pictures."""
    parser = argparse.ArgumentParser(prog="python -m screenshots", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of hippocampus_mr or fetal_head_us (default: phantoms)")
    parser.add_argument("--effort", type=float, default=0.2, help="length of the training; 1 is the usual")
    parser.add_argument("--out", type=Path, default=PICTURES, help="folder for the pictures")
    parser.add_argument(
        "--only", nargs="+", choices=PICTURED, default=PICTURED, metavar="WHAT",
        help="scans: those of the tabs Segment, What leaves and Export; privacy-check; site (default: all)",
    )  # fmt: skip
    options = parser.parse_args()
    task = TASK_FILE if options.data is None else TASK_FILE.with_name(f"{TASKS[options.data.resolve().name]}.json")
    options.out.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="ppcmi-screenshots-") as folder,
        trained_site(Path(folder), task, options.data, effort=options.effort) as site,
    ):
        os.environ["PPCMI_SITE_DIR"] = str(site.folder)
        scans = [case.image for case in find_cases(site.cases) if (case.site, case.fold) == ("A", "test")][:3]
        host = SlicerHost()
        host.start()
        Photographer(host, site, scans, options.out).take(options.only)
        host.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())

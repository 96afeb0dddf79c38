"""How the panel behaves while it works, in the headless host: opening, longest stop of the main thread, cancel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.results import SEPARATOR, Measurement, here_and_now, measurement
from ppcmi.task import load_task, task_to_json
from support.trained_site import TASK, TASK_FILE, TrainedSite, trained_site

COMMAND = "make bench-slicer"
MODULE = Path(__file__).resolve().parents[2] / "PPCMISegment" / "PPCMISegment.py"
SIZE, SLICES = 256, 60


def panel() -> list[Measurement]:
    """Everything that this module measures, at one site."""
    with (
        tempfile.TemporaryDirectory(prefix="ppcmi-bench-") as folder,
        trained_site(Path(folder), _large_task(Path(folder))) as site,
    ):
        os.environ["PPCMI_SITE_DIR"] = str(site.folder)
        return [*_opening(), *_working(site)]


def _opening() -> list[Measurement]:
    """Seconds until the module's panel is there, in a process that has not loaded PyTorch."""
    program = [sys.executable, "-m", "support.module_opening"]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return [
        _measured("opening the module", found["seconds"], "s", at_most=1),
        _measured("PyTorch loaded by opening the module", float(found["torch"]), "of 1", at_most=0),
    ]


def _working(site: TrainedSite) -> list[Measurement]:
    """Longest stop of the main thread while 256 x 256 x 60 voxels are segmented on a CPU, and how fast it cancels."""
    import slicer

    from slicer_host.host import SlicerHost

    host = SlicerHost()
    host.start()
    panel = host.load_module(MODULE).widget.segmentPanel
    panel.ui.deviceSelector.currentIndex = panel.ui.deviceSelector.findData("cpu")
    panel.ui.show3DCheckBox.checked = False
    host.wait_until(lambda: "answers" in panel.ui.siteLabel.text)
    slicer.util.addVolumeFromArray(_voxels(site), np.diag([1.0, 1.0, 3.0, 1.0]), "volume")
    button = panel.ui.segmentButton
    for measured in (False, True):  # the first run loads PyTorch and the codec
        _check_all(panel)
        with host.heartbeat() as heartbeat:
            button.click()
            host.wait_until(lambda: button.text == "Segment privately", timeout=600)
        assert "Done" in panel.ui.messageLabel.text, panel.ui.messageLabel.text
        if measured:
            longest = heartbeat.longest_block
    _check_all(panel)
    button.click()
    host.wait_until(lambda: "of 60 slices" in panel.ui.messageLabel.text, timeout=600)
    started = time.perf_counter()
    button.click()
    host.process_events()
    cancelled = time.perf_counter() - started
    host.stop()
    return [
        _measured("longest stop of the main thread, 256 x 256 x 60 on a CPU", longest, "s", at_most=0.2),
        _measured("from the click on Cancel until the panel is ready again", cancelled, "s"),
    ]


def _measured(name: str, value: float, unit: str, at_most: float | None = None) -> Measurement:
    full = SEPARATOR.join(("the panel", name))
    return measurement(full, value, unit, command=COMMAND, origin=here_and_now(), at_most=at_most)


def _check_all(panel: object) -> None:
    import qt

    table = panel.ui.volumesTable
    for row in range(table.rowCount):
        table.item(row, 0).setCheckState(qt.Qt.Checked)


def _large_task(folder: Path) -> Path:
    """The phantom task with slices of 256 x 256 pixels."""
    task = load_task(TASK_FILE)
    large = replace(task, slicing=replace(task.slicing, size=(SIZE, SIZE), spacing_mm=None))
    path = folder / f"{TASK}.json"
    path.write_text(task_to_json(large))
    return path


def _voxels(site: TrainedSite) -> np.ndarray:
    """One of the site's phantoms, enlarged."""
    import SimpleITK
    from scipy.ndimage import zoom

    image = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(site.cases / "images" / "phantom_A_04.nii.gz")))
    factors = (SLICES / image.shape[0], SIZE / image.shape[1], SIZE / image.shape[2])
    return zoom(image, factors, order=1)

"""The demo at a small size: what it writes is whole, on the scans' own grids, and shows no secret."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from demo.__main__ import main
from demo.story import Plan, own_server, server_epochs
from ppcmi.errors import CancelledError
from ppcmi.phantoms import write_phantom_folder
from ppcmi.task import task_to_json
from support.app_server import CODEC, TASK, SiteAtServer, app_server
from support.real_server import RealServer
from support.waiting import wait_until

TASK_FILE = Path(__file__).parents[2] / "Resources" / "Tasks" / "phantom.json"
SMALL = ("--effort", "0.02", "--umn-epochs", "1", "--publish-anyway")


class Links(HTMLParser):
    """Every file that a page shows or links to."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def handle_starttag(self, tag, attrs):
        self.found |= {value for name, value in attrs if name in ("src", "href")}


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """The phantoms that a small demo was played with, and the folder that it wrote."""
    folder = tmp_path_factory.mktemp("demo")
    data = folder / "data"
    write_phantom_folder(data, cases_per_site=4, seed=1)
    assert main(["--data", str(data), "--task", str(TASK_FILE), "--out", str(folder / "out"), *SMALL]) == 0
    return data, folder / "out"


def test_every_held_out_scan_has_its_segmentation_on_the_scans_own_grid(played):
    data, out = played
    results = json.loads((out / "results.json").read_text())
    assert [case["site"] for case in results["cases"]] == ["A", "B", "C"]
    for case in results["cases"]:
        image = nibabel.load(data / "images" / f"{case['case']}.nii.gz")
        folder = out / "segmentations" / case["site"]
        labels = nibabel.load(folder / f"{case['case']}.nii.gz")
        assert labels.shape == image.shape
        np.testing.assert_allclose(labels.affine, image.affine, atol=1e-5)
        segments = SimpleITK.ReadImage(str(folder / f"{case['case']}.seg.nrrd"))
        assert segments.GetMetaData("Segment0_Name") == "Organ"
        assert np.array_equal(SimpleITK.GetArrayFromImage(segments).T, np.asarray(labels.dataobj))


def test_the_results_hold_scores_by_case_site_and_structure_bytes_seconds_and_versions(played):
    results = json.loads((played[1] / "results.json").read_text())
    for case in results["cases"]:
        for way in ("private", "alone"):
            assert [score["label"] for score in case[way]] == ["Organ", "Vessel", "Lesion"]
            assert all(0 <= score["dice"] <= 1 for score in case[way] if score["dice"] is not None)
    assert [row["site"] for row in results["dice"]] == ["A", "B", "C", "all"]
    # coarse at 64 px in four bits: 8 * 4 * 4 + 16 * 2 * 2 values there, 128 * 4 * 4 + 256 * 2 * 2 back, and headers
    assert 96 < results["bytes_per_slice"]["sent"] < 300
    assert 1536 < results["bytes_per_slice"]["received"] < 2000
    assert {"train the codec", "export", "train the server's network", "segment"} <= results["seconds"].keys()
    assert {"ppcmi", "torch", "python"} <= results["versions"].keys()


def test_everything_that_the_page_shows_is_there(played):
    _, out = played
    page = (out / "index.html").read_text()
    links = Links()
    links.feed(page)
    assert len(links.found) == 1 + 3 * 3 + 1  # what left; a picture and two files a case; results.json
    assert all((out / link).is_file() for link in links.found)
    assert "nan" not in re.sub(r"<[^>]*>", "", page)
    for picture in (*out.glob("overlays/*.png"), out / "what-left.png"):
        pixels = np.asarray(Image.open(picture).convert("L"))
        assert pixels.std() > 10, f"{picture.name} is empty"


def test_no_key_and_no_path_is_left_in_what_the_demo_writes(played):
    data, out = played
    assert not [path for path in out.rglob("*") if path.suffix in (".key", ".safetensors", ".ppcmi", ".sqlite3")]
    shown = [out / "index.html", out / "results.json", *out.rglob("*.seg.nrrd")]
    assert not any(str(data).encode() in path.read_bytes() for path in shown)


def test_an_interrupted_demo_ends_its_server_and_trainings(tmp_path):
    task_file, folder = tmp_path / "task.json", tmp_path / "server"
    task_file.write_text(task_to_json(TASK))

    def play():
        with own_server(folder, task_file) as server:
            site = SiteAtServer(server.url, server.add_site("Hospital A"))
            site.client.create_consortium(TASK.name, "consortium", "two-layer", site.protection().inner.check())
            site.client.put_codec(TASK.name, b"encrypted codec", CODEC)
            site.upload(site.write_cohort(tmp_path / "a.ppcmi", [1, 2, 3]))
            server.command("train", TASK.name, "--epochs", "2000", "--detach")
            wait_until(lambda: len(processes_in(folder)) == 2 and list(folder.glob("blobs/jobs/*/*")))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play()
    assert not processes_in(folder)


def test_a_demo_that_is_told_to_end_leaves_no_keys(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    demo = subprocess.Popen(
        [sys.executable, "-m", "demo", "--out", tmp_path / "out", "--cases-per-site", "4"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(scratch), "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert any("ppcmi codec train" in line for line in demo.stdout)
    assert list(scratch.glob("ppcmi-demo-*"))
    assert processes_in(scratch)
    demo.send_signal(signal.SIGTERM)
    rest = demo.communicate(timeout=120)[1]
    assert demo.returncode == CancelledError.exit_code
    assert rest.endswith("demo: Interrupted; what it had started has ended.\n")
    assert not processes_in(scratch)
    assert not list(scratch.glob("ppcmi-demo-*"))  # PyTorch may leave an empty folder of its own


def processes_in(folder):
    """Those whose command line names the folder: the server and its trainings."""
    return subprocess.run(["pgrep", "-f", str(folder)], check=False, capture_output=True, text=True).stdout.split()


def test_the_effort_shortens_the_servers_training_too(tmp_path):
    with app_server(tmp_path / "server") as server:
        (site,) = server.add_consortium("Hospital A")
        site.upload(
            site.write_cohort(tmp_path / "a.ppcmi", [1, 2], slices=40)
        )  # 160 with their variants: three batches
        here = RealServer(server.services.config.folder)
        plan = Plan(tmp_path, TASK_FILE, effort=0.05)
        assert server_epochs(plan, here) == ("--epochs", 10)  # of 600 steps in three batches a pass
        assert server_epochs(replace(plan, effort=0.001), here) == ("--epochs", 1)
        assert server_epochs(replace(plan, effort=1.0), here) == ()
        assert server_epochs(replace(plan, umn_epochs=4), here) == ("--epochs", 4)


def test_a_folder_that_the_demo_cannot_use_is_one_clear_line(tmp_path, capsys):
    (tmp_path / "unknown").mkdir()
    assert main(["--data", str(tmp_path / "unknown"), "--out", str(tmp_path / "out")]) != 0
    assert capsys.readouterr().err.startswith("demo: No task file has the data folder's name")

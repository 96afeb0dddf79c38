"""The methods that ours is compared with run by the same commands: only the task file names another method."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import SimpleITK

from ppcmi.cli.main import main
from ppcmi.errors import SiteError
from ppcmi.phantoms import write_phantom_folder
from ppcmi.site import SiteProfile
from ppcmi.task import load_task, task_to_json
from support.real_server import real_server

TASK_FILE = Path(__file__).parents[2] / "Resources" / "Tasks" / "phantom.json"


class Site:
    """A site at the command line."""

    def __init__(self, folder, capsys):
        self.folder = folder
        self._capsys = capsys

    def __call__(self, *arguments, code=0):
        got = main([*(str(argument) for argument in arguments), "--site", str(self.folder), "--quiet"])
        captured = self._capsys.readouterr()
        assert got == code, captured.err
        return captured.out + captured.err


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cases")
    write_phantom_folder(folder, cases_per_site=4, seed=1)
    return folder


def task_of(method, folder, **changes):
    phantom = load_task(TASK_FILE)
    small = replace(phantom.slicing, size=(32, 32), spacing_mm=(4.0, 4.0))
    task = replace(phantom, name=f"phantom-{method}", method=method, slicing=small, **changes)
    path = folder / f"{method}.json"
    path.write_text(task_to_json(task))
    return task.name, path


def test_privacy_sf_trains_and_segments_by_the_same_commands(tmp_path, cases, capsys):
    name, file = task_of("privacy-sf", tmp_path)
    site = Site(tmp_path / "site", capsys)
    with real_server(tmp_path / "server", file) as server:
        site("site", "init", "--server", server.url, "--code", server.add_site("Hospital A"))
        assert "plain only" in site("consortium", "create", "--task", name, "--mode", "two-layer", code=2)
        assert "mode plain" in site("consortium", "create", "--task", name)
        own = ("--task", name, "--cases", cases, "--where", "site=A")
        tiny = ("--effort", "0.5", "--device", "cpu")
        assert "minimal" in site("codec", "train", *own, "--publish-anyway", *tiny)
        out = site("cohort", "export", *own, "-o", tmp_path / "a.ppcmi", "--variants", "0", "--upload")
        assert "profile minimal" in out
        assert "do not use it with patients' data" in out
        server.command("train", name, "--epochs", "15")
        site("model", "validate", *own)
        (model,) = SiteProfile.open(site.folder).client().models(name)
        assert (model["preset"], model["profile"]) == ("privacy-sf", "minimal")
        assert model["validations"][0]["labels"]["Organ"]["dice"] > 0.35  # a guess of the same size has less than 0.2
        server.command("model", "activate", name, "1")
        scan = cases / "images" / "phantom_A_04.nii.gz"
        assert "done" in site("segment", "--task", name, scan, "-o", tmp_path / "out")
        assert is_on_the_grid_of(scan, tmp_path / "out")


def is_on_the_grid_of(scan, folder):
    (path,) = folder.glob("*.nii.gz")
    image, labels = SimpleITK.ReadImage(str(scan)), SimpleITK.ReadImage(str(path))
    return labels.GetSize() == image.GetSize() and labels.GetOrigin() == pytest.approx(image.GetOrigin(), abs=1e-4)


def test_a_server_refuses_a_consortium_that_sends_the_products_latents_plain(tmp_path, cases, capsys):
    site = Site(tmp_path / "site", capsys)
    with real_server(tmp_path / "server", TASK_FILE) as server:
        site("site", "init", "--server", server.url, "--code", server.add_site("Hospital A"))
        client = SiteProfile.open(site.folder).client()
        with pytest.raises(Exception, match="two-layer or paper only"):
            client.create_consortium("phantom", "consortium", "plain", None)
        assert json.dumps(client.task("phantom")["consortium"]) == "null"
        refused = site("consortium", "create", "--task", "phantom", "--mode", "plain", code=2)
        assert "two-layer or paper" in refused


def test_mixup_trains_refines_and_segments_by_the_same_commands(tmp_path, cases, capsys):
    name, file = task_of("mixup", tmp_path, patch=16)
    site = Site(tmp_path / "site", capsys)
    with real_server(tmp_path / "server", file) as server:
        site("site", "init", "--server", server.url, "--code", server.add_site("Hospital A"))
        assert "mode plain" in site("consortium", "create", "--task", name)
        own = ("--task", name, "--cases", cases, "--where", "site=A")
        tiny = ("--effort", "0.05", "--device", "cpu")
        assert "mixup" in site("codec", "train", *own, "--publish-anyway", *tiny)
        scan = cases / "images" / "phantom_A_04.nii.gz"
        alone = ("--task", name, "--cases", cases, "--where", "id=phantom_A_01")
        refused = site("cohort", "export", *alone, "-o", tmp_path / "alone.ppcmi", code=SiteError.exit_code)
        assert "at least two together" in refused
        assert not (tmp_path / "alone.ppcmi").exists()
        out = site("cohort", "export", *own, "-o", tmp_path / "a.ppcmi", "--variants", "1", "--upload")
        assert "Wrote 2 cases" in out
        assert "pictures" in out
        assert "do not use it with patients' data" in out
        server.command("train", name, "--epochs", "8")
        site("codec", "refine", *own, *tiny)
        assert "mixup" in site("model", "validate", *own)
        (model,) = SiteProfile.open(site.folder).client().models(name)
        assert (model["preset"], model["profile"]) == ("mixup", "mixup")
        assert model["validations"][0]["labels"]["Organ"]["dice"] > 0.3
        server.command("model", "activate", name, "1")
        assert "done" in site("segment", "--task", name, scan, "-o", tmp_path / "out")
        assert is_on_the_grid_of(scan, tmp_path / "out")
        part = SiteProfile.open(site.folder).task(name)
        assert part.references_path.stat().st_mode & 0o077 == 0  # they are images of patients
        assert "look" in site("preview", "--task", name, scan, "-o", tmp_path / "p.png", code=2)

"""Three sites, one server process, from phantoms on disk to a private segmentation, by the commands of the README."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from ppcmi.cli.main import main
from ppcmi.phantoms import write_phantom_folder
from ppcmi.site import SiteProfile
from support.real_server import real_server

TASK_FILE = Path(__file__).parents[2] / "Resources" / "Tasks" / "phantom.json"
SITES = ("Hospital A", "Hospital B", "Hospital C")
TINY = ("--effort", "0.01", "--device", "cpu")


class Hospital:
    """A site at the command line: its profile's folder, and what its commands print."""

    def __init__(self, name, folder, capsys):
        self.name = name
        self.folder = folder / name
        self._capsys = capsys

    def __call__(self, *arguments, code=0):
        got = main([*(str(argument) for argument in arguments), "--site", str(self.folder), "--quiet"])
        captured = self._capsys.readouterr()
        assert got == code, captured.err
        return captured.err if code else captured.out

    @property
    def profile(self):
        return SiteProfile.open(self.folder)


@pytest.fixture
def cases(tmp_path):
    folder = tmp_path / "cases"
    write_phantom_folder(folder, cases_per_site=4, seed=1)  # of each: two train, one val, one test
    return folder


def test_three_sites_train_together_and_a_new_scan_is_segmented_privately(tmp_path, cases, capsys):
    a, b, c = (Hospital(name, tmp_path / "sites", capsys) for name in SITES)
    with real_server(tmp_path / "server", TASK_FILE) as server:
        for hospital in (a, b, c):
            out = hospital("site", "init", "--server", server.url, "--code", server.add_site(hospital.name))
            assert f"Enrolled as {hospital.name}" in out
            assert "knows" in hospital("site", "test")

        a("consortium", "create", "--task", "phantom")
        for hospital in (b, c):
            fingerprint = re.search(r"Fingerprint\s+(\S+)", hospital("site", "show"))[1]
            assert fingerprint in a("consortium", "invite", "--task", "phantom", hospital.name)
            hospital("consortium", "join", "--task", "phantom")
        assert len({hospital.profile.task("phantom").inner_key for hospital in (a, b, c)}) == 1

        own = {x: ("--task", "phantom", "--cases", cases, "--where", f"site={x.name[-1]}") for x in (a, b, c)}
        a("codec", "train", *own[a], "--publish-anyway", *TINY)
        codec = re.search(r"Codec\s+(\w{32})", a("consortium", "show", "--task", "phantom"))[1]
        for hospital in (a, b, c):
            file = tmp_path / f"{hospital.name}.ppcmi"
            assert "Wrote 2 cases" in hospital("cohort", "export", *own[hospital], "-o", file, "--variants", "1")
            first = hospital("cohort", "upload", file)
            assert "2 cases" in first
            assert hospital("cohort", "upload", file) == first  # again changes nothing
            assert "whole" in hospital("cohort", "list")
            assert hospital("consortium", "show", "--task", "phantom").count(codec) == 2  # published, and here

        b("codec", "refine", *own[b], *TINY, code=10)  # there is no model
        server.command("train", "phantom", "--epochs", "1")
        b("codec", "refine", *own[b], *TINY)
        out = b("model", "validate", *own[b])
        assert "Dice alone" in out
        assert "Reported the means of 1 case " in out
        assert "Reported" not in b("model", "validate", *own[b], "--fold", "train")  # those were uploaded
        (model,) = b.profile.client().models("phantom")
        assert model["state"] == "ready"
        assert [report["cases"] for report in model["validations"]] == [1]
        assert model["validations"][0]["alone"]["Organ"]["dice"] >= 0

        _learn_together(a, b, c, own)

        scan = cases / "images" / "phantom_B_04.nii.gz"
        b("segment", "--task", "phantom", scan, "-o", tmp_path / "early", code=10)  # nobody has activated the model
        server.command("model", "activate", "phantom", "1")

        # C never refined: its decoder is the consortium's, or the mean of what A and B learned.
        for hospital, folder in ((b, tmp_path / "b"), (c, tmp_path / "c")):
            assert "done" in hospital("segment", "--task", "phantom", scan, "-o", folder)
            assert "done before" in hospital("segment", "--task", "phantom", scan, "-o", folder)
            _check_results(scan, folder)

        cohort_id = next(iter(c.profile.cohorts()))
        name = next(iter(json.loads((c.folder / "pseudonyms.json").read_text())["phantom"]))
        c("cohort", "withdraw", cohort_id, "--case", name)
        c("cohort", "withdraw", cohort_id)
        assert "withdrawn" in c("cohort", "list")
        (model,) = b.profile.client().models("phantom")
        assert model["withdrawn_data"]


def _learn_together(a, b, c, own):
    """A, then B from what A shared; C, as a member without labels, takes their mean; B takes its network back."""
    task = ("--task", "phantom")
    c("network", "gather", *task, code=10)  # nobody shares one yet
    b("network", "share", *task, code=10)  # it has none: it refined on its own
    first = a("codec", "refine", *own[a], *TINY, "--together", "--rounds", "2")
    assert "No other member's network was used" in first
    too_many = b("codec", "refine", *own[b], *TINY, "--together", "--wait-for", "3", code=2)
    assert "the consortium has 2 other members so far" in too_many
    second = b(
        "codec", "refine", *own[b], *TINY, "--together", "--rounds", "2", "--wait-for", "1", "--wait-minutes", "0"
    )
    assert "Hospital A" in second  # used, or left out as the cases of B show it
    shown = c("network", "show", *task)
    assert "Hospital A" in shown
    assert "can be used" in shown
    if "uses the mean" in second:  # of networks that hardly learned: either may come of it
        assert "Hospital A and Hospital B" in c("network", "gather", *task)
        decoder = c.profile.task("phantom").decoder_path.read_bytes()
        c("network", "gather", *task)
        assert c.profile.task("phantom").decoder_path.read_bytes() == decoder  # again is the same
    else:
        c("network", "gather", *task, code=10)  # B's did not mix with A's
        assert not c.profile.task("phantom").decoder_path.exists()
    assert "network" in b("site", "consents")

    b("network", "withdraw", *task)
    assert "has no network of this site" in b("network", "withdraw", *task)
    assert "Hospital B" not in c("network", "show", *task)
    b("network", "share", *task)
    assert "Hospital B (this site)" in b("network", "show", *task)


def _check_results(scan, folder):
    image = SimpleITK.ReadImage(str(scan))
    for ending in (".seg.nrrd", ".nii.gz"):
        (path,) = folder.glob(f"*{ending}")
        labels = SimpleITK.ReadImage(str(path))
        assert labels.GetSize() == image.GetSize()
        np.testing.assert_allclose(labels.GetOrigin(), image.GetOrigin(), atol=1e-4)
        np.testing.assert_allclose(labels.GetSpacing(), image.GetSpacing(), atol=1e-5)
        np.testing.assert_allclose(labels.GetDirection(), image.GetDirection(), atol=1e-5)
        assert set(np.unique(SimpleITK.GetArrayFromImage(labels))) <= {0, 1, 2, 3}

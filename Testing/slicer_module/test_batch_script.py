"""PPCMIBatch.py in the headless Slicer, as ``--python-script`` runs it: same masks, and Slicer gets the exit code."""

import runpy
import signal
import sys

import numpy as np
import pytest

from ppcmi.reading import read_volume
from support.trained_site import PPCMI, SCRIPT


@pytest.fixture
def python_script(slicer_host, monkeypatch):
    """Runs a file as Slicer's ``--python-script FILE -- WORDS``; the code that Slicer was asked to end with."""
    codes = []
    monkeypatch.setattr(type(slicer_host._application), "exit", lambda self, status=0: codes.append(status))
    before = signal.getsignal(signal.SIGINT)

    def run(file, *words):
        monkeypatch.setattr(sys, "argv", [str(file), *(str(word) for word in words)])
        runpy.run_path(str(file), run_name="__main__")
        assert len(codes) == 1, "Slicer would go on for ever"
        return codes.pop()

    yield run
    signal.signal(signal.SIGINT, before)


def results(folder):
    """Bytes of the masks and of the confidence, which shows the least difference."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name.endswith((".nii.gz", ".seg.nrrd"))}


def test_in_slicer_the_masks_are_the_same_bytes_as_outside(a_site, python_script, tmp_path, capsys):
    words = (*a_site.options, "--confidence", "--input", *a_site.images[:2], "--output")
    assert python_script(SCRIPT, *words, tmp_path / "in") == 0
    assert "2 done; model 1" in capsys.readouterr().out
    outside = a_site.run(*PPCMI, "segment", *words, tmp_path / "out")
    assert outside.returncode == 0, outside.stderr
    assert len(results(tmp_path / "in")) == 6
    assert len(np.unique(read_volume(next((tmp_path / "in").glob("*.confidence.nii.gz"))).voxels)) > 1000
    assert results(tmp_path / "in") == results(tmp_path / "out")


def test_slicer_ends_with_the_script_s_exit_code(a_site, python_script, tmp_path, capsys):
    (tmp_path / "broken.nii.gz").write_bytes(b"no image")
    options = (*a_site.options, "--output", tmp_path / "out")
    assert python_script(SCRIPT, *options, "--input", a_site.images[0], tmp_path / "broken.nii.gz") == 20
    assert python_script(SCRIPT, *options, "--input", tmp_path / "nothing") == 4
    assert python_script(SCRIPT, *options) == 2
    assert python_script(SCRIPT, "--help") == 0
    assert "Traceback" not in capsys.readouterr().err


class Redirect:
    """What Slicer's Python has for sys.stdout and sys.stderr: PythonQt's, which can do this and no more."""

    __slots__ = ("text",)

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return False


def test_the_script_writes_to_what_slicer_has_for_streams(a_site, python_script, tmp_path, monkeypatch):
    out, err = Redirect(), Redirect()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    options = (*a_site.options, "--output", tmp_path / "out")
    codes = [python_script(SCRIPT, *options, "--input", a_site.images[0]), python_script(SCRIPT, *options)]
    codes.append(python_script(SCRIPT, "--help"))
    monkeypatch.undo()
    assert codes == [0, 2, 0]
    assert "1 done; model 1" in out.text
    assert "exit codes:" in out.text
    assert err.text.splitlines()[-1].startswith("ppcmi: There is nothing to segment")


def test_a_cohort_is_exported_in_slicer(a_site, python_script, tmp_path, capsys):
    words = (*a_site.options, "--input", a_site.cases, "--output", tmp_path / "a.ppcmi", "--variants", "0")
    assert python_script(SCRIPT, "--export-cohort", *words, "--upload") == 0
    assert "The server has cohort" in capsys.readouterr().out
    assert (tmp_path / "a.ppcmi").stat().st_size > 10_000


def test_the_script_leaves_the_scene_alone(a_site, python_script, slicer_host, tmp_path):
    before = slicer_host.scene.GetNumberOfNodes()
    assert python_script(SCRIPT, *a_site.options, "--input", a_site.images[0], "--output", tmp_path / "out") == 0
    assert slicer_host.scene.GetNumberOfNodes() == before

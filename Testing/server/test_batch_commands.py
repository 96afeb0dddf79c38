"""A batch by ``ppcmi segment`` and by PPCMIBatch.py, as programs of their own, against a real server."""

import json
import shutil
import signal
import socket
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import SimpleITK

from ppcmi.batch_manifest import MANIFEST, Manifest
from ppcmi.cohort_file import CohortReader
from ppcmi.reading import read_volume
from support.resident_memory import memory_of_a_batch
from support.trained_site import PPCMI, SCRIPT

BY_SCRIPT = (sys.executable, SCRIPT)
IN_THE_SECOND_VOLUME = 3
"""Requests: each of the scans has 24 to 32 slices, which leave in two bundles."""


@pytest.fixture(scope="module")
def by_both(a_site, tmp_path_factory):
    """Folders of the same scans segmented by the command and by the script, and how these ended."""
    found = []
    for number, words in enumerate(([*PPCMI, "segment"], [*BY_SCRIPT, "--"])):  # Slicer may leave the dashes there
        output = tmp_path_factory.mktemp("out") / str(number)
        done = a_site.run(*words, *a_site.options, "--input", *a_site.images[:3], "--output", output, "--confidence")
        assert done.returncode == 0, done.stderr
        found.append((output, done))
    return found


def results(folder):
    """Bytes of the masks and, where they were asked for, of the confidence, which shows the least difference."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name.endswith((".nii.gz", ".seg.nrrd"))}


def test_the_script_writes_the_same_bytes_as_the_command(by_both):
    (folder, _), (other, _) = by_both
    assert len(results(folder)) == 9
    assert len(np.unique(read_volume(next(folder.glob("*.confidence.nii.gz"))).voxels)) > 1000
    assert results(folder) == results(other)


def test_the_script_shows_the_same_table_as_the_command(by_both, a_site):
    (folder, done), (other, by_script) = by_both
    header, *rows, end = done.stdout.splitlines()
    assert header.split()[:2] == ["volume", "outcome"]
    assert [row.split()[0] for row in rows] == [path.name.removesuffix(".nii.gz") for path in a_site.images[:3]]
    assert end == f"3 done; model 1, profile coarse; see {folder / 'report.html'}"
    assert by_script.stdout.splitlines()[-1] == end.replace(str(folder), str(other))


def test_the_script_explains_itself(a_site):
    done = a_site.run(*BY_SCRIPT, "--help")
    assert done.returncode == 0
    assert "exit codes:" in done.stdout
    assert "--export-cohort" in done.stdout


def test_without_its_packages_the_script_says_what_to_do(a_site, tmp_path):
    script = tmp_path / "Scripts" / SCRIPT.name
    script.parent.mkdir()
    shutil.copy(SCRIPT, script)
    done = a_site.run(sys.executable, "-I", "-S", script, *a_site.options, "--input", "x", "-o", tmp_path / "out")
    assert done.returncode == 10
    assert done.stderr.startswith("PPCMIBatch: the Python package ppcmi is missing; open the module PPCMI Segment")
    assert len(done.stderr.splitlines()) == 1


def test_a_worklist_with_a_broken_scan_does_the_others_and_has_a_code_of_its_own(a_site, tmp_path):
    (tmp_path / "broken.nii.gz").write_bytes(b"no image")
    rows = f"name,image\nfirst,{a_site.images[0]}\n,broken.nii.gz\nsecond,{a_site.images[1]}\n"
    (tmp_path / "list.csv").write_text(rows)
    words = (*BY_SCRIPT, *a_site.options, "--input", tmp_path / "list.csv", "--output", tmp_path / "out")
    done = a_site.run(*words)
    assert done.returncode == 20
    assert {path.split(".")[0] for path in results(tmp_path / "out")} == {"first", "second"}
    assert done.stderr.splitlines()[-1] == "ppcmi: 1 of 3 could not be segmented; the reasons are in the report."
    assert "Traceback" not in done.stderr
    again = a_site.run(*words)
    assert again.returncode == 20
    assert again.stdout.splitlines()[-1].startswith("2 done before, 1 failed")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--task", "phantom", "--output", "out"), 2),
        (("--task", "phantom", "--input", "IMAGE", "--output", "out", "--model", "99"), 10),
    ],
)
def test_what_cannot_even_begin_is_one_line_and_a_code(a_site, words, code, tmp_path):
    texts = [str(a_site.images[0]) if word == "IMAGE" else word for word in words]
    done = a_site.run(*BY_SCRIPT, *texts, "--site", a_site.folder, "--quiet")
    assert (done.returncode, done.stdout) == (code, "")
    assert len(done.stderr.splitlines()) == 1


def test_the_script_exports_and_uploads_the_same_cases_as_the_command(a_site, tmp_path):
    words = ("--cases", a_site.cases, "--variants", "0")
    a_site.command("cohort", "export", "--task", "phantom", *words, "-o", tmp_path / "a.ppcmi")
    options = (*a_site.options, "--input", *words[1:], "--output", tmp_path / "b.ppcmi", "--upload")
    by_script = a_site.run(*BY_SCRIPT, "--export-cohort", *options)
    assert by_script.returncode == 0, by_script.stderr
    assert "The server has cohort" in by_script.stdout
    exported = [CohortReader(tmp_path / name) for name in ("a.ppcmi", "b.ppcmi")]
    assert len({reader.end.frames for reader in exported}) == 1
    assert len({frozenset(frame.case for _, frame in reader.frames()) for reader in exported}) == 1


# ---- when something goes wrong on the way


class Line:
    """A connection to the server that a test can hold (no answer comes through) or cut."""

    def __init__(self, server_url):
        self._server = (urlsplit(server_url).hostname, urlsplit(server_url).port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open = threading.Event()
        self._open.set()
        self._sockets = []
        self.mappings, self.hung_up = 0, threading.Event()
        self.hold_after = self.cut_after = None
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self):
        for one in (self._listener, *self._sockets):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)  # also wakes who waits on it
            one.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
            except OSError:
                return
            self._sockets += [client, server]
            threading.Thread(target=self._forward, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._forward, args=(server, client, False), daemon=True).start()

    def _forward(self, source, target, asks):
        try:
            while data := source.recv(1 << 16):
                if asks and b"/map?" in data:
                    self.mappings += 1
                    if self.mappings == self.cut_after:
                        self.cut()
                    if self.mappings == self.hold_after:
                        self._open.clear()
                if not asks:
                    self._open.wait()
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            target.close()
        if asks and not self._open.is_set():
            self.hung_up.set()


@contextmanager
def through_a_line(a_site, **settings):
    """The site's profile calls its server through a line while the context lasts."""
    path = a_site.folder / "site.json"
    before = path.read_text()
    line = Line(a_site.server.url)
    for name, value in settings.items():
        setattr(line, name, value)
    path.write_text(json.dumps({**json.loads(before), "server_url": f"http://127.0.0.1:{line.port}"}))
    try:
        yield line
    finally:
        path.write_text(before)
        line.cut()


def done_names(folder):
    return [name for name, record in Manifest(folder).records.items() if record.outcome == "done"]


def test_a_server_that_goes_down_in_the_middle_keeps_what_is_finished(a_site, tmp_path):
    output = tmp_path / "out"
    words = (*PPCMI, "segment", *a_site.options, *a_site.images[:3], "-o", output)
    with through_a_line(a_site, cut_after=IN_THE_SECOND_VOLUME):
        done = a_site.run(*words)
    assert done.returncode == 11
    assert done.stderr.splitlines()[-1].startswith("ppcmi: The server cannot be reached")
    assert len(done_names(output)) == 1
    assert (output / "report.html").exists()
    again = a_site.run(*words)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[-1].startswith("2 done, 1 done before")


@pytest.mark.parametrize(
    ("program", "ending"),
    [((*PPCMI, "segment"), signal.SIGTERM), (BY_SCRIPT, signal.SIGINT)],
    ids=["SIGTERM", "Ctrl-C"],
)
def test_being_ended_keeps_what_is_finished_and_the_server_sees_it(program, ending, a_site, tmp_path):
    output = tmp_path / "out"
    words = (*program, *a_site.options, "--input", *a_site.images[:3], "--output", output)
    with through_a_line(a_site, hold_after=IN_THE_SECOND_VOLUME) as line:
        process = a_site.start(*words)
        deadline = time.monotonic() + 60
        while line.mappings < IN_THE_SECOND_VOLUME:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.3)  # it waits for the answer
        process.send_signal(ending)
        out, err = process.communicate(timeout=20)
        assert line.hung_up.wait(5)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "ppcmi: Cancelled; what was finished before is kept."
    assert "1 done; model 1" in out
    (name,) = done_names(output)
    whole = {f"{name}.nii.gz", f"{name}.labels.json", f"{name}.seg.nrrd", MANIFEST, "report", "report.html"}
    assert {path.name for path in output.iterdir()} == whole
    assert a_site.run(*words).returncode == 0


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from Linux's /proc")
def test_memory_does_not_grow_with_the_number_of_volumes(a_site, tmp_path):
    image = SimpleITK.ReadImage(str(a_site.images[0]))
    large = SimpleITK.Expand(image, [3, 3, 1])  # 5 MB, so that volumes that are kept would show
    SimpleITK.WriteImage(large, str(tmp_path / "large.nii.gz"))
    held = memory_of_a_batch(a_site, tmp_path / "large.nii.gz", 30, tmp_path, [*PPCMI, "segment"])
    assert min(held[1:]) > 50  # it was measured at every volume
    assert max(held[25:]) - max(held[9:15]) < 30  # 16 volumes lie between

"""A site on a real server with a codec and an active model, trained for seconds: what segmenting needs."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from ppcmi.cli.main import main
from ppcmi.locks import hold_lock
from ppcmi.phantoms import write_phantom_folder
from ppcmi.site import SiteProfile
from ppcmi.task import load_task
from support.real_server import RealServer, real_server, serving

REPOSITORY = Path(__file__).resolve().parents[2]
TASK_FILE = REPOSITORY / "Resources" / "Tasks" / "phantom.json"
SCRIPT = REPOSITORY / "PPCMISegment" / "Scripts" / "PPCMIBatch.py"
PPCMI = (sys.executable, "-m", "ppcmi")
TASK = "phantom"
TINY = 0.1
TRAINED_AFTER_S = 500.0


@dataclass(frozen=True)
class TrainedSite:
    """A member of a consortium of one.

    :param folder: its profile.
    :param cases: labelled phantoms of three scanners, a data folder with a split; scanner A is the site's own.
    """

    server: RealServer
    folder: Path
    cases: Path

    @property
    def profile(self) -> SiteProfile:
        """The profile, opened."""
        return SiteProfile.open(self.folder)

    @property
    def images(self) -> list[Path]:
        """Scans to segment."""
        return sorted((self.cases / "images").iterdir())

    @property
    def options(self) -> tuple[str, ...]:
        """Options of every command that segments at this site."""
        return ("--task", TASK, "--site", str(self.folder), "--device", "cpu")

    def command(self, *words: object) -> str:
        """What ``ppcmi WORDS`` prints as this site; it must succeed."""
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = main([*(str(word) for word in words), "--site", str(self.folder), "--quiet"])
        assert code == 0, f"ppcmi {words[0]} {words[1]}: {err.getvalue()[-2000:]}"
        return out.getvalue()

    def start(self, *words: object, **options: object) -> subprocess.Popen[str]:
        """Start a program with the site's environment, its output to be read."""
        return subprocess.Popen(
            [str(word) for word in words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY / "PPCMISegment")},
            **options,
        )

    def run(self, *words: object) -> subprocess.CompletedProcess[str]:
        """Run a program to its end."""
        process = self.start(*words)
        out, err = process.communicate(timeout=300)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@contextmanager
def copy_of_a_trained_site(kept: Path, folder: Path) -> Iterator[TrainedSite]:
    """A :func:`trained_site` of phantoms below ``folder``; only the first call trains one, into ``kept``.

    :param kept: a folder for this, which processes may share.
    """
    key = kept / _digest_of_the_code()
    with hold_lock(kept / "lock", AssertionError("a site is being trained for too long"), patience_s=TRAINED_AFTER_S):
        if not key.exists():
            shutil.rmtree(making := kept / "making", ignore_errors=True)
            with trained_site(making):
                pass
            making.replace(key)
    shutil.copytree(key, folder, dirs_exist_ok=True)
    with serving(folder / "server") as server:
        profile = folder / "site" / "site.json"
        document = json.loads(profile.read_text())
        profile.write_text(json.dumps({**document, "server_url": server.url}))
        yield TrainedSite(server, folder / "site", folder / "cases")


def _digest_of_the_code() -> str:
    folders = (REPOSITORY / "PPCMISegment" / "ppcmi", REPOSITORY / "PPCMIServer" / "ppcmi_server")
    files = [TASK_FILE, Path(__file__), *(file for folder in folders for file in sorted(folder.rglob("*.py")))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


@contextmanager
def trained_site(
    folder: Path, task_file: Path = TASK_FILE, cases: Path | None = None, *, effort: float = TINY
) -> Iterator[TrainedSite]:
    """Make a server and a site below ``folder``; the server serves until the context ends.

    :param cases: a data folder whose site A is this site, or None: phantoms.
    :param effort: length of the codec's training; 1 is the usual.
    """
    task = load_task(task_file).name
    with real_server(folder / "server", task_file) as server:
        site = TrainedSite(server, folder / "site", cases or folder / "cases")
        if cases is None:
            write_phantom_folder(site.cases, cases_per_site=4, seed=1)
        own = ("--task", task, "--cases", site.cases, "--where", "site=A")
        site.command("site", "init", "--server", server.url, "--code", server.add_site("Hospital A"))
        site.command("consortium", "create", "--task", task)
        # Not minimized, which takes half as long: what leaves is the concern of other tests.
        site.command(
            "codec", "train", *own, "--preset", "autoencoder", "--publish-anyway", "--effort", effort, "--device", "cpu"
        )
        site.command("cohort", "export", *own, "-o", folder / "a.ppcmi", "--variants", "0", "--upload")
        server.command("train", task, "--epochs", "1")
        server.command("model", "activate", task, "1")
        yield site

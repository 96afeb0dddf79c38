"""A site that can segment: enrolled at a real server, with a codec and an active model of a few seconds' training."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ppcmi.cli.main import main
from ppcmi.codec.refinement import SiteDecoder
from ppcmi.consortium import own_codec
from ppcmi.phantoms import write_phantom_folder
from ppcmi.scales import Profile
from ppcmi.site import SiteProfile
from support.real_server import RealServer, real_server

REPOSITORY = Path(__file__).resolve().parents[2]
TASK_FILE = REPOSITORY / "Resources" / "Tasks" / "phantom.json"
SCRIPT = REPOSITORY / "PPCMISegment" / "Scripts" / "PPCMIBatch.py"
PPCMI = (sys.executable, "-m", "ppcmi")
TINY = ("--effort", "0.01")


@dataclass(frozen=True)
class SegmentingSite:
    """The server, the folder of the site's profile, and phantoms with labels."""

    server: RealServer
    folder: Path
    cases: Path

    @property
    def images(self) -> list[Path]:
        """Scans to segment."""
        return sorted((self.cases / "images").iterdir())

    @property
    def options(self) -> tuple[str, ...]:
        """Options of every command at this site."""
        return ("--task", "phantom", "--site", str(self.folder), "--device", "cpu")

    def command(self, *words: object) -> None:
        """Run ``ppcmi WORDS`` as this site; it must succeed."""
        texts = [str(word) for word in words]
        assert main([*texts, "--site", str(self.folder), "--device", "cpu", "--quiet"]) == 0, texts

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

    def give_the_server_a_share_of(self, weight: float) -> None:
        """Let the server's answer count so much in the site's predictions."""
        part = SiteProfile.open(self.folder).task("phantom")
        SiteDecoder(own_codec(part), {str(profile): weight for profile in Profile}).save(part.decoder_path)


@contextmanager
def segmenting_site(folder: Path) -> Iterator[SegmentingSite]:
    """Make one in ``folder``; the server ends with the context."""
    with real_server(folder / "server", TASK_FILE) as server:
        site = SegmentingSite(server, folder / "site", folder / "cases")
        write_phantom_folder(site.cases, cases_per_site=4, seed=1)
        own = ("--task", "phantom", "--cases", site.cases, "--where", "site=A")
        site.command("site", "init", "--server", server.url, "--code", server.add_site("Hospital"))
        site.command("consortium", "create", "--task", "phantom")
        site.command("codec", "train", *own, "--publish-anyway", *TINY)
        site.command("cohort", "export", *own, "-o", folder / "a.ppcmi", "--variants", "0", "--upload")
        server.command("train", "phantom", "--epochs", "1")
        server.command("model", "activate", "phantom", "1")
        yield site

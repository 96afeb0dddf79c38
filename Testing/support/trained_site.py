"""A site on a real server with a codec and an active model, trained for seconds: what segmenting needs."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from ppcmi.cli.main import main
from ppcmi.phantoms import write_phantom_folder
from ppcmi.site import SiteProfile
from support.real_server import RealServer, real_server

TASK_FILE = Path(__file__).parents[2] / "Resources" / "Tasks" / "phantom.json"
TASK = "phantom"
TINY = ("--effort", "0.1", "--device", "cpu")


@dataclass(frozen=True)
class TrainedSite:
    """A member of a consortium of one.

    :param folder: its profile.
    :param cases: labelled phantoms of its own scanner, a data folder with a split.
    """

    server: RealServer
    folder: Path
    cases: Path

    @property
    def profile(self) -> SiteProfile:
        """The profile, opened."""
        return SiteProfile.open(self.folder)

    def command(self, *arguments: object) -> str:
        """What a ``ppcmi`` command prints; it must succeed."""
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = main([*(str(argument) for argument in arguments), "--site", str(self.folder), "--quiet"])
        assert code == 0, f"ppcmi {arguments[0]} {arguments[1]}: {err.getvalue()[-2000:]}"
        return out.getvalue()


@contextmanager
def trained_site(folder: Path, task: Path = TASK_FILE) -> Iterator[TrainedSite]:
    """Make a server and a site below ``folder``; the server serves until the context ends.

    :param task: a file of the task ``phantom``.
    """
    with real_server(folder / "server", task) as server:
        site = TrainedSite(server, folder / "site", folder / "cases")
        write_phantom_folder(site.cases, cases_per_site=4, seed=1)
        own = ("--task", TASK, "--cases", site.cases, "--where", "site=A")
        site.command("site", "init", "--server", server.url, "--code", server.add_site("Hospital A"))
        site.command("consortium", "create", "--task", TASK)
        site.command("codec", "train", *own, "--publish-anyway", *TINY)
        site.command("cohort", "export", *own, "-o", folder / "a.ppcmi", "--variants", "0")
        site.command("cohort", "upload", folder / "a.ppcmi")
        server.command("train", TASK, "--epochs", "1")
        server.command("model", "activate", TASK, "1")
        yield site

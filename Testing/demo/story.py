"""What happens in the demo, in order: every step is a command of the README, printed before it runs.

The commands of a site run in this process, as the same person would type them; the server is a process of its own on
loopback. Keys and site profiles live in a temporary folder and are gone with it.
"""

from __future__ import annotations

import math
import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from sqlalchemy import func, select

from ppcmi.cli.main import main as ppcmi
from ppcmi.data_folders import CaseFiles, find_cases
from ppcmi.errors import CancelledError, PpcmiError
from ppcmi.scales import Profile
from ppcmi.site import SiteProfile
from ppcmi.task import Task, load_task
from ppcmi_server.cli.main import main as ppcmi_server
from ppcmi_server.config import load_config
from ppcmi_server.database.engine import Database
from ppcmi_server.database.schema import Frame
from ppcmi_server.training import jobs
from ppcmi_server.training.leases import lives_here
from ppcmi_server.umn.config import usual_config, usual_preset
from support.real_server import RealServer, real_server

END_S = 30.0
"""Longer than a training takes to notice that it was stopped; if not, it ends when its server's folder is gone."""


class DemoError(PpcmiError):
    """The demo cannot go on."""

    exit_code = 1


@dataclass(frozen=True)
class Plan:
    """What the demo is played with.

    :param data: folder with images/, labels/ and split.csv (columns id, fold, site).
    :param effort: length of every training; 1 is the product's usual.
    :param umn_epochs: length of the server's training, or None for its usual times the effort.
    :param publish_anyway: use the codec even if it keeps a structure badly, for a quick look.
    """

    data: Path
    task_file: Path
    effort: float = 1.0
    umn_epochs: int | None = None
    publish_anyway: bool = False

    @cached_property
    def task(self) -> Task:
        """The task that is played."""
        return load_task(self.task_file)

    @property
    def letters(self) -> list[str]:
        """Sites by their name in split.csv.

        :raises DemoError: if the table names no sites or a site lacks cases to learn from or to be judged on.
        """
        letters = sorted({case.site for case in self._all_cases if case.site})
        if not letters:
            raise DemoError("The data folder's split.csv has no column 'site' that says which case is whose.")
        for letter in letters:
            for fold in ("train", "test"):
                if not self.cases(letter, fold):
                    raise DemoError(f"Site {letter} has no labelled case in fold '{fold}' of split.csv.")
        return letters

    def cases(self, letter: str, fold: str) -> list[CaseFiles]:
        """A site's labelled cases of a fold."""
        return [c for c in self._all_cases if c.site == letter and c.fold == fold and c.label is not None]

    @cached_property
    def _all_cases(self) -> list[CaseFiles]:
        return find_cases(self.data)


@dataclass
class Stopwatch:
    """Seconds by stage, summed over the sites."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a stage."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started


class Hospital:
    """A site at its command line."""

    def __init__(self, letter: str, folder: Path) -> None:
        self.letter = letter
        self.name = f"Hospital {letter}"
        self._folder = folder / letter

    def __call__(self, *words: object) -> None:
        """Run ``ppcmi WORDS`` as this site."""
        texts = [str(word) for word in words]
        say(f"\n{self.name}$ ppcmi {_shown(texts)}")
        _require(ppcmi([*texts, "--site", str(self._folder)]), "ppcmi")

    @property
    def profile(self) -> SiteProfile:
        """The site's profile."""
        return SiteProfile.open(self._folder)


@contextmanager
def own_server(folder: Path, task_file: Path) -> Iterator[RealServer]:
    """The server, until the context ends; its trainings, which are processes of their own, end with it."""
    with real_server(folder, task_file) as server:
        try:
            yield server
        finally:
            _end_trainings(folder)


def _end_trainings(folder: Path) -> None:
    config = load_config(folder, os.environ)
    database = Database(config)
    with database.reading() as session:
        unfinished = jobs.unfinished_jobs(session)
    for job in unfinished:
        with database.writing() as session:
            jobs.request_stop(session, job.id)
    database.close()
    deadline = time.monotonic() + END_S
    while any(lives_here(config, job) for job in unfinished) and time.monotonic() < deadline:
        time.sleep(0.1)


def train_together(plan: Plan, server: RealServer, hospitals: list[Hospital], clock: Stopwatch) -> None:
    """From enrolment to an active model that every site has validated."""
    task, scratch = plan.task.name, server.folder.parent
    first, *others = hospitals
    with clock.stage("enrol, found, invite"):
        for hospital in hospitals:
            code = server.add_site(hospital.name)
            hospital("site", "init", "--server", server.url, "--code", code)
        first("consortium", "create", "--task", task)
        for other in others:
            first("consortium", "invite", "--task", task, other.name)
            other("consortium", "join", "--task", task)
    with clock.stage("train the codec"):
        anyway = ("--publish-anyway",) if plan.publish_anyway else ()
        first("codec", "train", *_own_cases(plan, first), "--effort", plan.effort, *anyway)
    for hospital in hospitals:
        file = scratch / f"{hospital.letter}.ppcmi"
        with clock.stage("export"):
            hospital("cohort", "export", *_own_cases(plan, hospital), "-o", file)
        with clock.stage("upload"):
            hospital("cohort", "upload", file)
    with clock.stage("train the server's network"):
        operator(server, "train", task, *server_epochs(plan, server))
    for hospital in hospitals:
        with clock.stage("refine the sites' decoders"):
            hospital("codec", "refine", *_own_cases(plan, hospital), "--effort", plan.effort)
        if plan.cases(hospital.letter, "val"):
            with clock.stage("validate"):
                hospital("model", "validate", *_own_cases(plan, hospital))
    operator(server, "model", "activate", task, 1)


def segment_held_out(plan: Plan, hospitals: list[Hospital], out: Path, clock: Stopwatch) -> None:
    """Every site segments its held-out scans privately, into ``out/SITE``."""
    for hospital in hospitals:
        images = [case.image for case in plan.cases(hospital.letter, "test")]
        with clock.stage("segment"):
            hospital("segment", "--task", plan.task.name, *images, "-o", out / hospital.letter)


def server_epochs(plan: Plan, server: RealServer) -> tuple[object, ...]:
    """How long the server trains: as long as was asked for, else its usual number of steps times the effort."""
    if plan.umn_epochs is not None:
        return ("--epochs", plan.umn_epochs)
    if plan.effort == 1:
        return ()
    database = Database(load_config(server.folder, os.environ))
    with database.reading() as session:
        slices = session.scalar(select(func.sum(Frame.slices))) or 1
    database.close()
    usual = usual_config(usual_preset(plan.task.method), Profile.COARSE)
    batches = math.ceil(slices * (1 - usual.validation_share) / usual.batch_size)
    return ("--epochs", max(1, round(plan.effort * max(usual.epochs, usual.minimum_steps / batches))))


def operator(server: RealServer, *words: object) -> None:
    """Run ``ppcmi-server WORDS`` on the embedded server."""
    texts = [str(word) for word in words]
    say(f"\nOperator$ ppcmi-server {_shown(texts)}")
    _require(ppcmi_server([*texts, "--dir", str(server.folder)]), "ppcmi-server")


def say(text: str) -> None:
    """A line of the story, in order with what the commands write."""
    print(text, flush=True)


def _own_cases(plan: Plan, hospital: Hospital) -> tuple[object, ...]:
    return ("--task", plan.task.name, "--cases", plan.data, "--where", f"site={hospital.letter}")


def _shown(words: list[str]) -> str:
    """A command as it would be typed; long lists of files are cut short."""
    quoted = [shlex.quote(Path(word).name if word.startswith("/") else word) for word in words]
    return " ".join(quoted if len(quoted) <= 14 else [*quoted[:5], "...", *quoted[-3:]])


def _require(code: int, command: str) -> None:
    sys.stdout.flush()
    if code == CancelledError.exit_code:
        raise KeyboardInterrupt
    if code != 0:
        raise DemoError(f"The last '{command}' command failed, see its message above.")

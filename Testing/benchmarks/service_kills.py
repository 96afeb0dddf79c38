"""Random kills of server, client and worker during uploads, withdrawals and trainings: what is lost of what was
acknowledged. ``python -m benchmarks.service_kills``, numbers in docs/results/service.json.

Everything is a real process on loopback and ends by SIGKILL; the moments are random, the seed is not.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from sqlalchemy import func, select

from benchmarks.results import SEPARATOR, Measurement, here_and_now, measure, measurement
from ppcmi.client import Patience
from ppcmi.cohort_file import CohortReader
from ppcmi.errors import PpcmiError
from ppcmi.site import SiteProfile
from ppcmi_server import tasks
from ppcmi_server.access import identity
from ppcmi_server.config import load_config
from ppcmi_server.database.schema import Cohort, JobEpoch, Model
from ppcmi_server.services import Services, open_services
from ppcmi_server.training import jobs, leases, worker
from ppcmi_server.training.jobs import TrainingRequest
from support.app_server import TASK
from support.killable import KillableServer, killable_server, start_process
from support.uploads import (
    RecordingClient,
    UploadingSite,
    add_task,
    differences,
    make_server,
    missing_of,
    orphans,
)

COMMAND = "python -m benchmarks.service_kills"
KILLS = 200
SEED = 7
LONGEST_S = 900.0
SETTINGS = {"limits": {"chunk_bytes": 60_000}, "training": {"workers": 0}}
"""Chunks are small, so that there are many; the workers here are started, and killed, by hand."""
STUBBORN = Patience(connect_s=5, read_s=20, attempts=3, pause_s=0.05)
GIVES_UP = Patience(connect_s=5, read_s=20, attempts=1)


@dataclass
class Tally:
    """What happened."""

    kills: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    cases: int = 0
    cases_lost: int = 0
    pieces_lost: int = 0
    twice: int = 0
    withdrawn: int = 0
    left_of_withdrawn: int = 0
    orphans: int = 0
    epochs: int = 0
    models: int = 0
    seconds: float = 0.0


def random_kills(folder: Path, kills: int, seed: int) -> Tally:
    """So many kills of a server in ``folder``, each of server, client or worker, then a look at what is there."""
    make_server(folder / "server", SETTINGS)
    services = open_services(load_config(folder / "server"))
    add_task(services)
    try:
        with killable_server(folder / "server") as server:
            story = _Story(folder, services, server, random.Random(seed))
            return story.play(kills)
    finally:
        services.database.close()


class _Story:
    """One site that uploads cohort after cohort, withdraws some, while its server trains on them."""

    def __init__(self, folder: Path, services: Services, server: KillableServer, chance: random.Random) -> None:
        self._folder = folder
        self._services = services
        self._server = server
        self._chance = chance
        self._tally = Tally()
        with services.database.writing() as session:
            code = identity.add_site(session, "Hospital A")
        self._site = UploadingSite(folder / "site", server.url, code)
        self._files: list[Path] = []
        self._taken_back: dict[str, bool] = {}
        self._uploading: BaseProcess | None = None
        self._training: BaseProcess | None = None

    def play(self, kills: int) -> Tally:
        start = time.monotonic()
        while self._tally.kills.total() < kills and time.monotonic() - start < LONGEST_S:
            self._go_on()
            time.sleep(self._chance.uniform(0.02, 0.6))
            if self._chance.random() < 0.2:
                self._withdraw_one()
            self._kill(self._chance.choice(["server", "server", "client", "worker"]))
            self._compare()
        self._tally.seconds = time.monotonic() - start
        for process in (self._uploading, self._training):
            if process is not None:
                process.kill()
                process.join()
        for path in self._files:
            if self._site.client.cohort(self._id_of(path))["state"] != "withdrawn":
                self._site.upload(path)
        self._look()
        return self._tally

    def _go_on(self) -> None:
        """Have an upload and a training under way."""
        if self._uploading is None or not self._uploading.is_alive():
            if self._uploading is None or self._uploading.exitcode == 0:
                self._files.append(self._folder / f"{len(self._files)}.ppcmi")
                slices = [self._chance.randint(1, 8) for _ in range(self._chance.randint(1, 6))]
                self._site.write_cohort(self._files[-1], slices, first=10 * len(self._files))
            self._uploading = start_process(_upload, self._site.profile.folder, self._files[-1])
        if self._training is None or not self._training.is_alive():
            self._training = start_process(_train, self._folder / "server")

    def _kill(self, whom: str) -> None:
        self._tally.kills[whom] += 1
        if whom == "server":
            self._server.restart()
            return
        process = self._uploading if whom == "client" else self._training
        if process is not None:
            process.kill()
            process.join()

    def _withdraw_one(self) -> None:
        """Begin to take a cohort back and kill the server meanwhile."""
        whole = [path for path in self._files[:-1] if self._id_of(path) not in self._taken_back]
        if not whole:
            return
        cohort_id = self._id_of(self._chance.choice(whole))
        self._server.die_at(self._chance.randint(1, 12))
        client = RecordingClient(self._server.url, self._site.token, patience=GIVES_UP)
        try:
            client.withdraw(cohort_id)
        except PpcmiError:
            self._taken_back[cohort_id] = False
        else:
            self._taken_back[cohort_id] = True
        if not self._server.spare():
            self._tally.kills["server"] += 1
            self._server.restart()

    def _compare(self) -> None:
        """What the upload's client knows to be stored, and the server does not."""
        acknowledged = _acknowledged(self._files[-1])
        if acknowledged:
            state = self._site.client.cohort(str(acknowledged[0][0]))
            self._tally.pieces_lost += len(missing_of(acknowledged, state))

    def _look(self) -> None:
        """At the end, at everything."""
        tally, services = self._tally, self._services
        for path in self._files:
            cohort_id, source = self._id_of(path), CohortReader(path)
            tally.acknowledged += len(_acknowledged(path))
            withdrawn = self._site.client.cohort(cohort_id)["state"] == "withdrawn"
            if cohort_id in self._taken_back and (withdrawn or self._taken_back[cohort_id]):
                tally.withdrawn += 1
                self._site.client.withdraw(cohort_id)
                tally.left_of_withdrawn += len(services.blobs.names(f"cohorts/{cohort_id}"))
                continue
            tally.cases += source.end.cases
            tally.cases_lost += source.end.cases if differences(services, cohort_id, source) else 0
        services.cohorts.sweep(older_than_s=0)
        tally.orphans = len(orphans(services))
        with services.database.reading() as session:
            tally.twice = (session.scalar(select(func.count()).select_from(Cohort)) or 0) - len(self._files)
            tally.epochs = session.scalar(select(func.count()).select_from(JobEpoch)) or 0
            tally.models = session.scalar(select(func.count()).select_from(Model)) or 0

    def _id_of(self, path: Path) -> str:
        return self._site.client.create_cohort(TASK.name, CohortReader(path).header_bytes)


class _NotingClient(RecordingClient):
    """Writes down what was acknowledged: its own process will not be there to be asked."""

    notes: Path

    def _keep(self, *what: object) -> None:
        with self.notes.open("a", encoding="utf-8") as file:
            file.write(json.dumps(what) + "\n")


def _upload(profile: Path, path: Path) -> None:
    site = SiteProfile.open(profile)
    client = _NotingClient(site.identity.server_url, (profile / "token").read_text().strip(), patience=STUBBORN)
    client.notes = path.with_suffix(".acknowledged")
    try:
        UploadingSite.send(site, site.task(TASK.name), path, client)
    except PpcmiError:
        sys.exit(1)  # the server was killed for longer than this client waits; the next one goes on


def _acknowledged(path: Path) -> list[tuple[object, ...]]:
    notes = path.with_suffix(".acknowledged")
    lines = notes.read_text(encoding="utf-8").splitlines() if notes.exists() else []
    return [tuple(json.loads(line)) for line in lines if line.endswith("]")]


def _train(folder: Path) -> None:
    """A worker that goes on with what another left, or begins anew."""
    services = open_services(load_config(folder).on_device("cpu"))
    while True:
        with services.database.writing() as session:
            lease = _claim(session)
        if lease is None:
            time.sleep(0.1)
            continue
        worker.main([str(folder), str(lease.job), lease.worker, str(lease.fence), "--device", "cpu"])


def _claim(session: object) -> leases.Lease | None:
    unfinished = jobs.unfinished_jobs(session)
    try:
        task = tasks.find_task(session, TASK.name)
        job = unfinished[0] if unfinished else jobs.queue_job(session, task, TrainingRequest(epochs=4, seed=1))[0]
    except PpcmiError:
        return None  # there is no whole cohort yet
    return leases.claim(session, job)


def kills() -> list[Measurement]:
    """The story of 200 kills."""
    with tempfile.TemporaryDirectory(prefix="ppcmi-kills-") as scratch:
        tally = random_kills(Path(scratch), KILLS, SEED)
    origin = here_and_now()

    def row(column: str, value: float, unit: str, at_most: float | None = None) -> Measurement:
        name = SEPARATOR.join((f"{KILLS} random kills", column)) if at_most is None else f"{column} in {KILLS} kills"
        return measurement(name, value, unit, command=COMMAND, origin=origin, at_most=at_most)

    return [
        row("acknowledged cases lost", tally.cases_lost, "cases", 0),
        row("acknowledged frames and chunks lost", tally.pieces_lost, "pieces", 0),
        row("cohorts stored twice", tally.twice, "cohorts", 0),
        row("blobs without a row after the sweep", tally.orphans, "blobs", 0),
        row("bytes left of what was withdrawn", tally.left_of_withdrawn, "blobs", 0),
        *(row(f"of the {whom}", count, "count") for whom, count in sorted(tally.kills.items())),
        row("cases whole at the end", tally.cases, "count"),
        row("calls acknowledged", tally.acknowledged, "count"),
        row("cohorts withdrawn", tally.withdrawn, "count"),
        row("epochs trained", tally.epochs, "count"),
        row("models made", tally.models, "count"),
        row("seconds", tally.seconds, "s"),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure."""
    return measure("service", {"kills": kills}, arguments)


if __name__ == "__main__":
    sys.exit(main())

"""A server with everything that the dashboard shows: sites, cohorts, trainings, models with scores, an operator."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import select

from ppcmi_server import clock, models, tasks
from ppcmi_server.access import identity, operators
from ppcmi_server.database.schema import Cohort as StoredCohort
from ppcmi_server.database.schema import Job, JobCohort, JobEpoch, Model
from support.app_server import CODEC, TASK, AppServer, SiteAtServer

CONFIG = {
    "preset": "default", "profile": "coarse", "epochs": 8, "seed": 1, "batch_size": 64, "learning_rate": 0.0015,
    "weight_decay": 0.05, "warm_up": 0.05, "minimum_steps": 600, "mixup": 0.3, "noise": 0.1, "average": 0.005,
    "validation_share": 0.1, "patience": 0,
}  # fmt: skip


@dataclass
class World:
    """A served application, its operator's token, its member sites and what they uploaded."""

    server: AppServer
    token: str
    sites: list[SiteAtServer]
    cohorts: list[str] = field(default_factory=list)
    operator_id: int = 0
    """Another operator than the one of the token."""
    running: int = 0

    @property
    def url(self) -> str:
        return self.server.url

    def writing(self):
        return self.server.services.database.writing()

    def reading(self):
        return self.server.services.database.reading()

    def add_job(self, state: str, epochs: int, report: dict | None = None, message: str | None = None) -> int:
        """A job as a worker would have left it; its number."""
        with self.writing() as session:
            task = tasks.find_task(session, TASK.name)
            job = Job(task_id=task.id, state=state, config=CONFIG, report=report, message=message, created=clock.now())
            job.worker = "a worker on another machine" if state == "running" else None
            job.finished = clock.now() if state in ("done", "failed", "stopped") else None
            session.add(job)
            session.flush()
            usable = select(StoredCohort.id).where(StoredCohort.state == "whole", StoredCohort.excluded.is_(None))
            session.add_all(JobCohort(job_id=job.id, cohort_id=cohort) for cohort in session.scalars(usable))
            number = job.id
        for epoch in range(1, epochs + 1):
            self.add_epoch(number, epoch)
        return number

    def end_job(self, number: int, state: str) -> None:
        """As a worker that notices that it has lost the job, or has done it."""
        with self.writing() as session:
            job = session.get_one(Job, number)
            job.state, job.finished = state, clock.now()

    def add_epoch(self, job: int, epoch: int) -> None:
        """A point of a job's curve, as a worker records it."""
        falling = 0.18 + 0.7 * math.exp(-0.55 * epoch)
        by_site = {site.site_id: falling * (1.05 + 0.12 * place) for place, site in enumerate(self.sites)}
        with self.writing() as session:
            session.add(
                JobEpoch(
                    job_id=job, epoch=epoch, train_loss=falling, validation_loss=1.1 * falling, seconds=31.5,
                    by_site=by_site,
                )
            )  # fmt: skip

    def add_model(self, job: int, number: int) -> None:
        """The model that came of a job."""
        with self.writing() as session:
            task = tasks.find_task(session, TASK.name)
            session.add(
                Model(
                    task_id=task.id, number=number, job_id=job, state="ready", preset="default", profile="coarse",
                    mode="two-layer", scope="consortium", codecs={CODEC: None}, config=CONFIG, seed=1,
                    code_version="ppcmi-server 0.1.0", file="absent", file_digest="0123456789abcdef" * 4, cases=6,
                    slices=24, created=clock.now(),
                )
            )  # fmt: skip

    def activate(self, number: int) -> None:
        with self.writing() as session:
            models.activate(session, tasks.find_task(session, TASK.name), number)

    def report(self, suspect: SiteAtServer) -> dict:
        """What a training says of the sites, one of which is suspect."""
        return {
            "sites": [
                {
                    "site": site.site_id, "slices": 8, "weight": 1.0, "validation_loss": 0.21, "without": 0.2,
                    "verdict": "suspect" if site is suspect else "fine",
                    "reason": "its masks do not follow from its images, as if they belonged to other slices or cases"
                    if site is suspect else None,
                }
                for site in self.sites
            ],
            "text": [f"Site {suspect.site_id} stands out."],
        }  # fmt: skip


def scores(dice: float, alone: float) -> dict:
    """What a site reports of a model."""
    return {
        "cases": 8,
        "labels": {"Organ": {"dice": dice, "hd95_mm": 2.4}, "Vessel": {"dice": dice - 0.1, "hd95_mm": 3.1}},
        "alone": {"Organ": {"dice": alone, "hd95_mm": 3.0}, "Vessel": {"dice": alone - 0.1, "hd95_mm": 3.0}},
    }


def make_world(server: AppServer, folder: Path) -> World:
    """Three members with a cohort each, two models with scores, a suspect site, an invited one."""
    with server.services.database.writing() as session:
        token = operators.add_operator(session, "Night shift")
        operators.add_operator(session, "Prometheus", ["observe"])
        other = operators.list_operators(session)[-1].id
    names = ("University Hospital North", "St. Mary's Radiology", "Regional Clinic West")
    world = World(server, token, server.add_consortium(*names), operator_id=other)
    for place, site in enumerate(world.sites):
        cohort = site.write_cohort(folder / f"{place}.ppcmi", [1, 2])
        world.cohorts.append(site.upload(cohort))
    with server.services.database.writing() as session:
        identity.add_site(session, "City Hospital South")
    first = world.add_job("done", 8)
    world.add_model(first, 1)
    second = world.add_job("done", 8, world.report(world.sites[2]))
    world.add_model(second, 2)
    for number, (north, mary) in {1: (0.86, 0.84), 2: (0.91, 0.80)}.items():
        world.sites[0].client.report_validation(TASK.name, number, scores(north, 0.83))
        world.sites[1].client.report_validation(TASK.name, number, scores(mary, 0.82))
    return world

"""What the pages show of a training: how far it is, its curve, and what its report says of each site."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ppcmi_server import models
from ppcmi_server.config import ServerConfig
from ppcmi_server.dashboard import view
from ppcmi_server.dashboard.charts import Curve, Line
from ppcmi_server.dashboard.site_facts import site_names
from ppcmi_server.database.schema import Cohort, Job, JobCohort, JobEpoch, Model, Task
from ppcmi_server.intake.cohorts import trainable
from ppcmi_server.training import jobs

_SITE_ID = re.compile(r"\b[0-9a-f]{16}\b")


@dataclass(frozen=True)
class SiteVerdict:
    """What a training's report says of a site.

    :param without: error on this site's cases of a map that the other sites teach, see
        :class:`ppcmi_server.training.contributions.SiteReport`.
    :param cohorts: how many of its cohorts would be in a training that began now.
    """

    site_id: str
    name: str
    slices: int | None
    weight: float | None
    validation_loss: float | None
    without: float | None
    suspect: bool
    reason: Markup | None
    cohorts: int


@dataclass(frozen=True)
class JobFacts:
    """A training job as its page shows it.

    :param position: place in the queue, from 1.
    :param left_s: about how many seconds are left.
    """

    job: Job
    task: Task
    state: str
    position: int | None
    epochs: tuple[JobEpoch, ...]
    epochs_in_all: int
    left_s: float | None
    curve: Curve
    site_names: Mapping[str, str]
    verdicts: tuple[SiteVerdict, ...]
    text: tuple[Markup, ...]
    model: Model | None
    cohorts: int

    @property
    def unfinished(self) -> bool:
        """Whether it may still change."""
        return self.job.state in jobs.UNFINISHED

    @property
    def sites_of_curve(self) -> list[str]:
        """Ids of the sites that have losses of their own, by name."""
        found = {site for point in self.epochs for site in (point.by_site or {})}
        return sorted(found, key=lambda site: self.site_names.get(site, site))


@dataclass(frozen=True)
class JobRow:
    """A training job as the list shows it; ``loss`` is the training's newest."""

    job: Job
    task: Task
    state: str
    position: int | None
    epochs_done: int
    epochs_in_all: int
    loss: float | None
    cohorts: int
    model: int | None
    suspect: bool


def job_rows(session: Session, config: ServerConfig, count: int, before: int | None) -> list[JobRow]:
    """The newest jobs.

    :param before: only jobs with smaller numbers.
    """
    query = select(Job, Task).join(Task, Task.id == Job.task_id).order_by(Job.id.desc()).limit(count)
    found = list(session.execute(query if before is None else query.where(Job.id < before)))
    numbers = [job.id for job, _ in found]
    epochs = select(JobEpoch.job_id, func.count(), func.max(JobEpoch.epoch)).where(JobEpoch.job_id.in_(numbers))
    done = {row[0]: (row[1], row[2]) for row in session.execute(epochs.group_by(JobEpoch.job_id))}
    cohorts = select(JobCohort.job_id, func.count()).where(JobCohort.job_id.in_(numbers)).group_by(JobCohort.job_id)
    counts = {row[0]: row[1] for row in session.execute(cohorts)}
    models_of = select(Model.job_id, Model.number).where(Model.job_id.in_(numbers))
    made = {row[0]: row[1] for row in session.execute(models_of)}
    places = jobs.queue_positions(session)
    rows = []
    for job, task in found:
        epochs_done, last = done.get(job.id, (0, None))
        newest = None if last is None else session.get(JobEpoch, (job.id, last))
        rows.append(
            JobRow(
                job, task, state_of(config, job), places.get(job.id), epochs_done, int(job.config.get("epochs", 0)),
                None if newest is None else newest.train_loss, counts.get(job.id, 0), made.get(job.id),
                bool(suspects(job)),
            )
        )  # fmt: skip
    return rows


def job_facts(session: Session, config: ServerConfig, job: Job, task: Task) -> JobFacts:
    """What is known of a job."""
    epochs = tuple(models.curve(session, job.id))
    names = site_names(session)
    in_all = int(job.config.get("epochs", 0))
    report = job.report or {}
    usable = _usable(session, task.id)
    return JobFacts(
        job=job,
        task=task,
        state=state_of(config, job),
        position=jobs.queue_positions(session).get(job.id),
        epochs=epochs,
        epochs_in_all=in_all,
        left_s=_left(job, epochs, in_all),
        curve=_curve(epochs, in_all, names),
        site_names=names,
        verdicts=tuple(_verdict(names, usable, part) for part in report.get("sites", ())),
        text=tuple(with_names(sentence, names) for sentence in report.get("text", ())),
        model=models.model_of_job(session, job.id),
        cohorts=session.scalar(select(func.count()).select_from(JobCohort).where(JobCohort.job_id == job.id)) or 0,
    )


def state_of(config: ServerConfig, job: Job) -> str:
    """A job's state, with what was asked of it, or came over it, and was not dealt with yet."""
    if job.state == "running" and not jobs.is_alive(config, job):
        return "interrupted"
    return "pausing" if job.pause_requested and job.state != "paused" else job.state


def suspects(job: Job) -> list[str]:
    """Ids of the sites that a training's report calls suspect."""
    return [part["site"] for part in (job.report or {}).get("sites", ()) if part.get("verdict") == "suspect"]


def usable_cohorts(session: Session, task_id: int, site_id: str) -> Sequence[Cohort]:
    """A site's cohorts that a training which began now would take."""
    return session.scalars(
        select(Cohort).where(Cohort.task_id == task_id, Cohort.site_id == site_id, trainable())
    ).all()


def with_names(sentence: str, names: Mapping[str, str]) -> Markup:
    """A sentence of a report, with the sites' names in place of their ids."""
    parts, start = [], 0
    for found in _SITE_ID.finditer(sentence):
        parts += [escape(sentence[start : found.start()]), view.name(names.get(found[0], found[0]))]
        start = found.end()
    return Markup("").join([*parts, escape(sentence[start:])])


def _usable(session: Session, task_id: int) -> dict[str, int]:
    """How many cohorts of each site a training which began now would take."""
    query = select(Cohort.site_id, func.count()).where(Cohort.task_id == task_id, trainable())
    return {row[0]: row[1] for row in session.execute(query.group_by(Cohort.site_id))}


def _verdict(names: Mapping[str, str], usable: Mapping[str, int], part: Mapping[str, Any]) -> SiteVerdict:
    reason = part.get("reason")
    return SiteVerdict(
        site_id=part["site"],
        name=names.get(part["site"], part["site"]),
        slices=part.get("slices"),
        weight=part.get("weight"),
        validation_loss=part.get("validation_loss"),
        without=part.get("without"),
        suspect=part.get("verdict") == "suspect",
        reason=None if reason is None else with_names(reason, names),
        cohorts=usable.get(part["site"], 0),
    )


def _left(job: Job, epochs: Sequence[JobEpoch], in_all: int) -> float | None:
    if job.state != "running" or not epochs or in_all <= len(epochs):
        return None
    newest = [point.seconds for point in epochs[-5:]]
    return (in_all - len(epochs)) * sum(newest) / len(newest)


def _curve(epochs: Sequence[JobEpoch], in_all: int, names: Mapping[str, str]) -> Curve:
    sites = sorted({site for point in epochs for site in (point.by_site or {})}, key=lambda s: names.get(s, s))
    return Curve(
        in_all,
        (
            Line("Training", _finite((point.epoch, point.train_loss) for point in epochs)),
            Line("Held-out cases", _finite((point.epoch, point.validation_loss) for point in epochs)),
            *(
                Line(names.get(site, site), _finite((point.epoch, (point.by_site or {}).get(site)) for point in epochs))
                for site in sites
            ),
        ),
    )


def _finite(points: Any) -> tuple[tuple[int, float], ...]:
    return tuple((epoch, float(loss)) for epoch, loss in points if loss is not None and math.isfinite(loss))

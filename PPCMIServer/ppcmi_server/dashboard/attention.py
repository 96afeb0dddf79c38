"""What needs the operator, which the overview says first: each concern is a sentence and where to go for it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ppcmi_server import audit, clock, models
from ppcmi_server.config import ServerConfig
from ppcmi_server.dashboard.scores import validated
from ppcmi_server.dashboard.site_facts import SiteFacts, site_names
from ppcmi_server.dashboard.training import suspects, usable_cohorts
from ppcmi_server.dashboard.view import plural, size
from ppcmi_server.database.schema import AuditEvent, Cohort, Job, Member, Model, Site, Task
from ppcmi_server.errors import OperatorError
from ppcmi_server.intake.quota import room_of
from ppcmi_server.operation.backup import CREATED
from ppcmi_server.operation.checks import EXPIRES_SOON_DAYS
from ppcmi_server.operation.doctor import BACKUP_DAYS
from ppcmi_server.operation.tls import read_certificate

Level = Literal["problem", "look"]
STALLED_AFTER_DAYS = 1.0
QUEUED_TOO_LONG_DAYS = 1 / 24


@dataclass(frozen=True)
class Concern:
    """One thing to do.

    :param level: ``problem`` if something does not work or may do harm, ``look`` if it can wait.
    :param about: a name that goes before the sentence, if any.
    :param link: the page for it, below the dashboard's root.
    """

    level: Level
    about: str | None
    sentence: str
    link: str
    action: str


def concerns(
    session: Session, config: ServerConfig, sites: Sequence[SiteFacts], chain: audit.AuditState, mapper_alive: bool
) -> list[Concern]:
    """Everything that needs the operator, problems first."""
    found = [
        *_of_the_server(session, config, chain, mapper_alive),
        *_of_trainings(session),
        *_of_models(session),
        *_of_sites(sites),
        *_of_uploads(session),
    ]
    return sorted(found, key=lambda concern: concern.level != "problem")


def _of_the_server(
    session: Session, config: ServerConfig, chain: audit.AuditState, mapper_alive: bool
) -> Iterator[Concern]:
    if not mapper_alive:
        yield Concern("problem", None, "Mapping has ended; start the server again.", "/load", "Show the load")
    for disk in room_of(config).disks():
        if disk.below_reserve:
            yield Concern(
                "problem", None,
                f"{size(disk.free)} are free on the disk of {disk.what}, less than the reserve of "
                f"{size(disk.reserve)}: uploads are refused. Make room.",
                "/load", "Show the room",
            )  # fmt: skip
    if chain.first_broken is not None:
        yield Concern(
            "problem", None,
            f"The audit log does not hold together from event {chain.first_broken} on: somebody changed it.",
            "/audit", "Show the log",
        )  # fmt: skip
    yield from _of_backups(session)
    if config.tls.certificate is not None:
        yield from _of_the_certificate(config)


def _of_backups(session: Session) -> Iterator[Concern]:
    last = session.scalar(select(func.max(AuditEvent.at)).where(AuditEvent.action == CREATED))
    if last is None:
        yield Concern(
            "look", None, "There is no backup yet; 'ppcmi-server backup FILE' makes one.", "/audit", "Show the log"
        )
    elif last < clock.in_future(-BACKUP_DAYS):
        sentence = f"The last backup is older than {BACKUP_DAYS} days; 'ppcmi-server backup FILE' makes another."
        yield Concern("look", None, sentence, f"/audit?action={CREATED}", "Show the log")


def _of_the_certificate(config: ServerConfig) -> Iterator[Concern]:
    try:
        days = read_certificate(config.file(config.tls.certificate or "")).days_left(dt.datetime.now(dt.UTC))
    except OperatorError as error:
        yield Concern("problem", None, str(error), "/load", "Show the load")
        return
    if days < 0:
        yield Concern("problem", None, "The server's certificate has expired; sites cannot connect.", "/load", "Show")
    elif days < EXPIRES_SOON_DAYS:
        yield Concern("look", None, f"The server's certificate expires in {plural(int(days), 'day')}.", "/load", "Show")


def _of_trainings(session: Session) -> Iterator[Concern]:
    names = site_names(session)
    for task in session.scalars(select(Task).order_by(Task.name)):
        job = session.scalar(select(Job).where(Job.task_id == task.id).order_by(Job.id.desc()).limit(1))
        if job is None:
            continue
        if job.state == "failed":
            said = f"job {job.id} failed. {job.message or ''}".strip()
            yield Concern("problem", task.name, said, f"/jobs/{job.id}", "Show the job")
        if job.state == "paused":
            said = f"job {job.id} is paused. {job.message or ''}".strip()
            yield Concern("problem" if job.message else "look", task.name, said, f"/jobs/{job.id}", "Show the job")
        if job.state == "queued" and job.created < clock.in_future(-QUEUED_TOO_LONG_DAYS):
            sentence = f"job {job.id} has waited for more than an hour; does a server with workers run?"
            yield Concern("look", task.name, sentence, f"/jobs/{job.id}", "Show the job")
        yield from _suspects(session, task, names)


def _suspects(session: Session, task: Task, names: Mapping[str, str]) -> Iterator[Concern]:
    """Sites that the newest report calls suspect, as long as their cohorts are not excluded."""
    reported = select(Job).where(Job.task_id == task.id, Job.report.is_not(None)).order_by(Job.id.desc()).limit(1)
    job = session.scalar(reported)
    for site_id in [] if job is None else suspects(job):
        if job is not None and usable_cohorts(session, task.id, site_id):
            yield Concern(
                "problem", names.get(site_id, site_id), f"job {job.id} ({task.name}) reports its data as suspect.",
                f"/jobs/{job.id}", "Read the report",
            )  # fmt: skip


def _of_models(session: Session) -> Iterator[Concern]:
    for task in session.scalars(select(Task).order_by(Task.name)):
        active = models.active_model(session, task)
        newest = session.scalar(select(Model).where(Model.task_id == task.id).order_by(Model.number.desc()).limit(1))
        if active is not None and active.withdrawn_data:
            yield Concern(
                "look", task.name,
                f"a site took back data that the active model {active.number} was trained on; train anew.",
                f"/models/{task.name}/{active.number}", "Show the model",
            )  # fmt: skip
        if newest is None or newest.state != "ready":
            continue
        found = validated(session, newest)
        members = len(found.scores) + len(found.missing)
        said = (
            f"model {newest.number} is validated by every member; activate it or not."
            if not found.missing
            else f"model {newest.number} is validated by {len(found.scores)} of {plural(members, 'member')}."
        )
        yield Concern("look", task.name, said, f"/models/{task.name}/{newest.number}", "Show the model")
    yield from _without_members(session)


def _without_members(session: Session) -> Iterator[Concern]:
    founded = select(Member.task_id)
    for task in session.scalars(select(Task).where(Task.id.not_in(founded)).order_by(Task.name)):
        yield Concern(
            "look", task.name, "no site has founded its consortium yet.", f"/tasks/{task.name}", "Show the task"
        )


def _of_sites(sites: Sequence[SiteFacts]) -> Iterator[Concern]:
    for facts in sites:
        if facts.near_quota and facts.state != "revoked":
            yield Concern(
                "problem" if facts.share >= 1 else "look", facts.site.name,
                f"{size(facts.stored_bytes)} of its quota of {size(facts.quota_bytes)} are used.",
                f"/sites/{facts.site.id}", "Show the site",
            )  # fmt: skip
        if facts.state == "invited" and facts.code_until is None:
            yield Concern(
                "look", facts.site.name, "its enrolment code has expired.", f"/sites/{facts.site.id}", "Make another"
            )


def _of_uploads(session: Session) -> Iterator[Concern]:
    moment = clock.in_future(-STALLED_AFTER_DAYS)
    last = func.coalesce(Cohort.touched, Cohort.created)
    rows = session.execute(
        select(Site, func.count()).join(Cohort, Cohort.site_id == Site.id)
        .where(Cohort.state == "open", last < moment).group_by(Site.id).order_by(Site.name)
    )  # fmt: skip
    for site, count in rows:
        sentence = f"{plural(count, 'upload')} got nothing new for a day or longer."
        yield Concern("look", site.name, sentence, f"/cohorts?site={site.id}", "Show the cohorts")

"""What the pages show of a task: its consortium, members, shared networks, cohorts and models."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ppcmi.task import Task as TaskDocument
from ppcmi.task import parse_task
from ppcmi_server import models, shared_networks, tasks
from ppcmi_server.database.schema import Cohort, Consortium, Member, Model, Site, Task
from ppcmi_server.intake.cohorts import trainable


@dataclass(frozen=True)
class TaskFacts:
    """A task with its consortium, and how much of each there is.

    :param taking_part: how many of the members do still; those that were revoked are listed all the same.
    """

    task: Task
    document: TaskDocument
    consortium: Consortium | None
    founder: str | None
    members: tuple[tuple[Site, str], ...]
    taking_part: int
    networks: int
    cohorts: int
    cases: int
    slices: int
    active: Model | None
    models: int


def task_facts(session: Session, task: Task) -> TaskFacts:
    """What is known of a task."""
    consortium = session.get(Consortium, task.id)
    founder = None if consortium is None else session.get(Site, consortium.founder_id)
    members = session.execute(
        select(Site, Member.joined).join(Member, Member.site_id == Site.id).where(Member.task_id == task.id)
        .order_by(Site.name)
    )  # fmt: skip
    cohorts, cases, slices = session.execute(
        select(func.count(), func.sum(Cohort.cases), func.sum(Cohort.slices)).where(
            Cohort.task_id == task.id, trainable()
        )
    ).one()
    return TaskFacts(
        task=task,
        document=parse_task(task.document),
        consortium=consortium,
        founder=None if founder is None else founder.name,
        members=tuple((site, joined) for site, joined in members),
        taking_part=tasks.members(session, task),
        networks=0 if consortium is None else len(shared_networks.networks_of(session, consortium)),
        cohorts=cohorts,
        cases=cases or 0,
        slices=slices or 0,
        active=models.active_model(session, task),
        models=len(models.list_models(session, task)),
    )

"""Models: what each was trained on, what the sites say of it, and which one answers them."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from ppcmi_server import models, tasks
from ppcmi_server.dashboard.guard import UsesChange, UsesVisit
from ppcmi_server.dashboard.pages import page_router
from ppcmi_server.dashboard.pages.tasks import TaskName
from ppcmi_server.dashboard.scores import Validated, all_validated, validated
from ppcmi_server.dashboard.training import job_facts
from ppcmi_server.database.schema import Cohort, Job, JobCohort, Model, Site, Task
from ppcmi_server.errors import conflict

SHOWN = 30
"""Models of each task in the list; every other has its page."""

Number = Annotated[int, Path(ge=1, lt=1 << 31)]

router = page_router()


@router.get("/models")
def list_models(visit: UsesVisit) -> Response:
    """Every task's models, the newest first."""
    with visit.services.database.reading() as session:
        found = [_listed(session, task) for task in tasks.list_tasks(session)]
    return visit.page("models.html", tasks=found, shown=SHOWN)


@router.get("/models/{name}/roll-back")
def confirm_roll_back(name: TaskName, visit: UsesVisit) -> Response:
    """Ask before the model that was active before is so again."""
    with visit.services.database.reading() as session:
        task = tasks.find_task(session, name)
        number, active = models.number_before(session, task), models.active_model(session, task)
        if number is None or active is None:
            raise conflict("nothing-before", "No model was active before this one; activate one from the list instead.")
        found = validated(session, models.find_model(session, task, number))
    return visit.page(
        "confirm.html",
        heading=f"Roll back to model {number}?",
        subject=f"{name}, model {active.number} is active",
        sentences=[
            f"Model {active.number} is retired. Model {number}, which was active before it, answers the sites again.",
            "Requests that are under way are answered by the model that they began with.",
        ],
        warnings=found.warnings,
        button=f"Roll back to model {number}",
        action=f"/models/{name}/roll-back",
        back="/models",
        fields={},
    )


@router.post("/models/{name}/roll-back")
def roll_back(name: TaskName, change: UsesChange) -> Response:
    """Go back to the model that was active before."""
    with change.services.database.writing() as session:
        number = models.roll_back(session, tasks.find_task(session, name), actor=change.actor)
    return change.done(f"/models/{name}/{number}", f"Model {number} is active again.")


@router.get("/models/{name}/{number}")
def show_model(name: TaskName, number: Number, visit: UsesVisit) -> Response:
    """One model."""
    with visit.services.database.reading() as session:
        task = tasks.find_task(session, name)
        model = models.find_model(session, task, number)
        content = {
            "task": task,
            "found": validated(session, model),
            "trained_on": _trained_on(session, model),
            "job": job_facts(session, visit.services.config, session.get_one(Job, model.job_id), task),
        }
    return visit.page("model.html", **content)


@router.get("/models/{name}/{number}/activate")
def confirm_activation(name: TaskName, number: Number, visit: UsesVisit) -> Response:
    """Ask before the sites are answered by another model."""
    with visit.services.database.reading() as session:
        task = tasks.find_task(session, name)
        found = validated(session, models.find_model(session, task, number))
        active = models.active_model(session, task)
    before = "No model is active now." if active is None else f"Model {active.number} is retired; you can roll back."
    return visit.page(
        "confirm.html",
        heading=f"Activate model {number}?",
        subject=f"{name}, model {number}",
        sentences=[f"It answers every member of {name} from the next request on.", before],
        warnings=found.warnings,
        button=f"Activate model {number}",
        action=f"/models/{name}/{number}/activate",
        back=f"/models/{name}/{number}",
        fields={},
    )


@router.post("/models/{name}/{number}/activate")
def activate(name: TaskName, number: Number, change: UsesChange) -> Response:
    """Make a model the one that maps."""
    with change.services.database.writing() as session:
        models.activate(session, tasks.find_task(session, name), number, actor=change.actor)
    return change.done(f"/models/{name}/{number}", f"Model {number} is active.")


def _listed(session: Session, task: Task) -> tuple[Task, list[Validated], int | None]:
    """A task's newest models, with the active one however old it is, and the number of the one to go back to."""
    every = models.list_models(session, task)[::-1]
    listed = [model for place, model in enumerate(every) if place < SHOWN or model.state == "active"]
    return task, all_validated(session, listed), models.number_before(session, task)


def _trained_on(session: Session, model: Model) -> list[tuple[Cohort, Site, bool]]:
    """The cohorts with their sites, and whether something of them was taken back since."""
    rows = session.execute(
        select(Cohort, Site, JobCohort.withdrawn)
        .join(JobCohort, JobCohort.cohort_id == Cohort.id)
        .join(Site, Site.id == Cohort.site_id)
        .where(JobCohort.job_id == model.job_id)
        .order_by(Site.name, Cohort.created)
    )
    return [(cohort, site, withdrawn) for cohort, site, withdrawn in rows]

"""Tasks: what can be segmented, and who takes part."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Response

from ppcmi.task import parse_task
from ppcmi_server import tasks
from ppcmi_server.dashboard.guard import UsesChange, UsesVisit
from ppcmi_server.dashboard.pages import page_router
from ppcmi_server.dashboard.task_facts import task_facts

TaskName = Annotated[str, Path(pattern="^[a-z0-9][a-z0-9-]{0,62}$")]

router = page_router()


@router.get("/tasks")
def list_tasks(visit: UsesVisit) -> Response:
    """Every task, and the form for another."""
    with visit.services.database.reading() as session:
        facts = [task_facts(session, task) for task in tasks.list_tasks(session)]
    return visit.page("tasks.html", tasks=facts)


@router.post("/tasks")
def add_task(change: UsesChange) -> Response:
    """Offer a task to the sites."""
    document = parse_task(change.form.text("document"))
    with change.services.database.writing() as session:
        tasks.add_task(session, document, actor=change.actor)
    return change.done(f"/tasks/{document.name}", "The task is there; sites can found its consortium now.")


@router.get("/tasks/{name}")
def show_task(name: TaskName, visit: UsesVisit) -> Response:
    """One task."""
    with visit.services.database.reading() as session:
        facts = task_facts(session, tasks.find_task(session, name))
    return visit.page("task.html", facts=facts)

"""Models: the trained networks of a task, what they were trained on, the sites' scores, and which one is active."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from ppcmi.errors import TrainingError
from ppcmi.task import Task as TaskDocument
from ppcmi_server import audit, clock
from ppcmi_server.access.identity import Caller
from ppcmi_server.database.schema import AuditEvent, JobEpoch, Model, Site, Task, Validation
from ppcmi_server.errors import RefusalError, not_found, unprocessable
from ppcmi_server.tasks import membership

ACTIVATED, ROLLED_BACK = "model.activate", "model.roll-back"


def list_models(session: Session, task: Task) -> list[Model]:
    """A task's models, oldest first."""
    return list(session.scalars(select(Model).where(Model.task_id == task.id).order_by(Model.number)))


def find_model(session: Session, task: Task, number: int | None) -> Model:
    """The model of that number, or the active one.

    :raises RefusalError: 404.
    """
    wanted = select(Model).where(Model.task_id == task.id)
    model = session.scalar(wanted.where(Model.state == "active" if number is None else Model.number == number))
    if model is None and number is None:
        raise RefusalError(404, "no-active-model", "Not found", "No model is active for this task; ask the operator.")
    if model is None:
        raise not_found("model")
    return model


def active_model(session: Session, task: Task) -> Model | None:
    """The active model, if any."""
    return session.scalar(select(Model).where(Model.task_id == task.id, Model.state == "active"))


def activate(session: Session, task: Task, number: int, actor: str = audit.OPERATOR) -> None:
    """Make a model the one that maps; the one before it is retired. Requests under way are answered by theirs.

    :raises TrainingError: if there is no such model.
    """
    _make_active(session, task, number)
    audit.record(session, actor, ACTIVATED, task=task.name, model=number)


def roll_back(session: Session, task: Task, actor: str = audit.OPERATOR) -> int:
    """Make the model active that was so before the one that is; its number. Once more goes back further.

    :raises TrainingError: if there was none before.
    """
    number = number_before(session, task)
    if number is None:
        raise TrainingError("No model was active before this one; 'ppcmi-server model activate' takes any there is.")
    _make_active(session, task, number)
    audit.record(session, actor, ROLLED_BACK, task=task.name, model=number)
    return number


def number_before(session: Session, task: Task) -> int | None:
    """The model that :func:`roll_back` would go back to, if any."""
    history = _activations(session, task)
    return history[-2] if len(history) > 1 else None


def _make_active(session: Session, task: Task, number: int) -> None:
    chosen = session.scalar(select(Model).where(Model.task_id == task.id, Model.number == number))
    if chosen is None:
        raise TrainingError("There is no such model; 'ppcmi-server model list' shows those there are.")
    for model in session.scalars(select(Model).where(Model.task_id == task.id, Model.state == "active")):
        model.state = "retired"
    chosen.state = "active"


def _activations(session: Session, task: Task) -> list[int]:
    """Models that were activated and not rolled back since, in order, as the audit log has it; the last is active."""
    told = select(AuditEvent).where(AuditEvent.action.in_((ACTIVATED, ROLLED_BACK))).order_by(AuditEvent.id)
    history: list[int] = []
    for event in session.scalars(told):
        if event.objects.get("task") != task.name:
            continue
        if event.action == ROLLED_BACK:
            history.pop()
        elif history[-1:] != [event.objects["model"]]:
            history.append(event.objects["model"])
    return history


def next_number(session: Session, task_id: int) -> int:
    """Number of a task's next model."""
    return (session.scalar(select(func.max(Model.number)).where(Model.task_id == task_id)) or 0) + 1


def single_codec(model: Model) -> str | None:
    """The codec that a model was trained with, where there is only one for all members."""
    return next(iter(model.codecs)) if model.scope == "consortium" and len(model.codecs) == 1 else None


def model_of_job(session: Session, job_id: int) -> Model | None:
    """The model that came of a job, if any."""
    return session.scalar(select(Model).where(Model.job_id == job_id))


def curve(session: Session, job_id: int) -> list[JobEpoch]:
    """A job's losses by epoch."""
    return list(session.scalars(select(JobEpoch).where(JobEpoch.job_id == job_id).order_by(JobEpoch.epoch)))


def validations(session: Session, model: Model) -> list[tuple[Validation, Site]]:
    """Each site's newest scores of a model."""
    newest = select(func.max(Validation.id)).where(Validation.model_id == model.id).group_by(Validation.site_id)
    wanted = select(Validation, Site).join(Site, Site.id == Validation.site_id).where(Validation.id.in_(newest))
    return [(validation, site) for validation, site in session.execute(wanted.order_by(Validation.id))]


def add_validation(session: Session, task_name: str, caller: Caller, number: int, numbers: Mapping[str, Any]) -> None:
    """Keep a site's scores of a model, in place of those that it sent before.

    :raises RefusalError: 403, 404, or 422 if a label is not one of the task's.
    """
    found = membership(session, task_name, caller)
    model = find_model(session, found.task, number)
    _require_labels(found.document, [*numbers["labels"], *numbers["alone"]])
    earlier = (Validation.model_id == model.id, Validation.site_id == caller.site_id)
    session.execute(delete(Validation).where(*earlier))
    session.add(Validation(model_id=model.id, site_id=caller.site_id, numbers=dict(numbers), created=clock.now()))
    audit.record(session, caller.site_id, "model.validate", task=found.task.name, model=number)


def _require_labels(task: TaskDocument, names: Sequence[str]) -> None:
    if not set(names) <= {label.name for label in task.labels}:
        raise unprocessable("A label of the scores is not one of the task's; update the task at the site.")

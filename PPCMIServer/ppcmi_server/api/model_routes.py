"""Models: what was trained, and how it does at the sites; mapping with them is in :mod:`ppcmi_server.api.map_route`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from sqlalchemy.orm import Session

from ppcmi_server import models, tasks
from ppcmi_server.api.access import AnyCaller, UsesServices, ValidateCaller
from ppcmi_server.api.bodies import JsonRoute
from ppcmi_server.api.documents import CurvePoint, ModelAnswer, Nothing, ValidationAnswer, ValidationRequest
from ppcmi_server.api.problems import describe_problems
from ppcmi_server.api.task_routes import TaskName
from ppcmi_server.database.schema import Model

router = APIRouter(
    prefix="/v1/tasks", tags=["models"], route_class=JsonRoute, responses=describe_problems(401, 403, 404, 422)
)

ModelNumber = Annotated[int, Path(ge=1, lt=1 << 31, examples=[3])]


@router.get("/{name}/models")
def list_models(name: TaskName, caller: AnyCaller, services: UsesServices) -> list[ModelAnswer]:
    """Every model of a task, for members."""
    with services.database.reading() as session:
        found = tasks.membership(session, name, caller)
        return [_answer(session, model) for model in models.list_models(session, found.task)]


@router.post("/{name}/models/{number}/validations", status_code=201)
def add_validation(
    name: TaskName, number: ModelNumber, body: ValidationRequest, caller: ValidateCaller, services: UsesServices
) -> Nothing:
    """Report a site's scores of a model: numbers only."""
    numbers = body.model_dump(exclude_none=True)
    with services.database.writing() as session:
        models.add_validation(session, name, caller, number, numbers)
    return Nothing()


def _answer(session: Session, model: Model) -> ModelAnswer:
    return ModelAnswer.model_validate(
        {
            "number": model.number,
            "profile": model.profile,
            "preset": model.preset,
            "state": model.state,
            "created": model.created,
            "codec": models.single_codec(model),
            "cases": model.cases,
            "slices": model.slices,
            "withdrawn_data": model.withdrawn_data,
            "curve": [
                CurvePoint(
                    epoch=point.epoch,
                    train_loss=point.train_loss,
                    validation_loss=point.validation_loss,
                    seconds=point.seconds,
                )
                for point in models.curve(session, model.job_id)
            ],
            "validations": [
                ValidationAnswer.model_validate(
                    {"site": site.name, "created": validation.created, **validation.numbers}
                )
                for validation, site in models.validations(session, model)
            ],
        }
    )

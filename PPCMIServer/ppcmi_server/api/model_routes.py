"""Models: what was trained, how it does at the sites, and mapping with it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from ppcmi.bundle_header import BundleHeader, BundleLimits, read_header
from ppcmi.channel import Channel
from ppcmi.errors import BundleError
from ppcmi.latents import Latents
from ppcmi.scales import Profile, Stream
from ppcmi.task import Task as TaskDocument
from ppcmi_server import models, tasks
from ppcmi_server.api.access import AnyCaller, SegmentCaller, UsesBodyMemory, UsesMapper, UsesServices, ValidateCaller
from ppcmi_server.api.bodies import OCTETS, OCTETS_ANSWER, OCTETS_BODY, BinaryRoute, JsonRoute, read_body
from ppcmi_server.api.documents import CurvePoint, ModelAnswer, Nothing, ValidationAnswer, ValidationRequest
from ppcmi_server.api.problems import describe_problems
from ppcmi_server.api.task_routes import TaskName
from ppcmi_server.cohorts import require_shapes
from ppcmi_server.database.schema import Model
from ppcmi_server.errors import conflict
from ppcmi_server.identity import Caller
from ppcmi_server.services import Services

router = APIRouter(
    prefix="/v1/tasks", tags=["models"], route_class=JsonRoute, responses=describe_problems(401, 403, 404, 422)
)
binary = APIRouter(
    prefix="/v1/tasks", tags=["models"], route_class=BinaryRoute, responses=describe_problems(401, 403, 404, 422)
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


@binary.post(
    "/{name}/map",
    openapi_extra=OCTETS_BODY,
    response_class=Response,
    responses={200: OCTETS_ANSWER, **describe_problems(409, 413, 429, 503)},
)
async def map_bundle(
    name: TaskName,
    request: Request,
    caller: SegmentCaller,
    services: UsesServices,
    mapper: UsesMapper,
    memory: UsesBodyMemory,
    model: Annotated[int | None, Query(ge=1, lt=1 << 31, examples=[3])] = None,
) -> Response:
    """Map a bundle of image latents to one of mask latents; without ``model`` the active one maps."""
    work = await run_in_threadpool(_prepare, services, name, caller, model)
    limits = services.config.limits
    with mapper.admit(), memory.account() as take:
        body = await read_body(request, limits.bundle_bytes, limits.idle_seconds, take)
        header, images = await run_in_threadpool(work.open, body)
        answer = asyncio.wrap_future(mapper.submit(work.model.id, header.codec, images))
        masks = await _unless_disconnected(request, answer)
        return Response(await run_in_threadpool(work.seal, header, masks), media_type=OCTETS)


@dataclass(frozen=True)
class _Work:
    """One mapping request: the model, and the channel with the site."""

    task: TaskDocument
    model: Model
    channel: Channel

    def open(self, body: bytes) -> tuple[BundleHeader, Latents]:
        """The request's header and image latents, in the inner key's space.

        :raises BundleError: if it is not a valid bundle of image latents.
        :raises RefusalError: 409 if it does not fit the model.
        """
        header = read_header(body, BundleLimits(bytes=len(body)))
        self._require_fit(header)
        header, streams = self.channel.open(body)
        return header, streams[Stream.IMAGE]

    def seal(self, header: BundleHeader, masks: Latents) -> bytes:
        """The reply."""
        return self.channel.seal_reply(masks, header, self.model.number)

    def _require_fit(self, header: BundleHeader) -> None:
        if header.task != self.task.identity or header.mode != self.model.mode:
            raise conflict("task-differs", "The bundle is of another task, version or mode than the model.")
        if header.streams != (Stream.IMAGE,):
            raise BundleError("A bundle to be mapped holds image latents and nothing else.")
        if header.codec not in self.model.codecs:
            raise conflict(
                "codec-differs", "The model was not trained with this codec; ask the operator for a new model."
            )
        if header.profile.scales != Profile(self.model.profile).scales:
            raise conflict("profile-differs", f"The model is for the privacy profile '{self.model.profile}'; use that.")
        if header.inner_check != self.model.codecs[header.codec]:
            raise conflict(
                "key-mismatch", "The bundle was protected with another inner key than the model was trained with."
            )
        require_shapes(header, self.task)


def _prepare(services: Services, name: str, caller: Caller, number: int | None) -> _Work:
    with services.database.reading() as session:
        found = tasks.membership(session, name, caller)
        model = models.find_model(session, found.task, number)
    channel = services.channels(caller, found.document.identity, "paper" if model.mode == "paper" else "two-layer")
    return _Work(found.document, model, channel)


async def _unless_disconnected(request: Request, answer: asyncio.Future[Latents]) -> Latents:
    """The answer; if the client goes away first, the request is cancelled."""
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        waited: set[asyncio.Future[Any]] = {answer, gone}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ClientDisconnect
        return answer.result()
    finally:
        gone.cancel()
        answer.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


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

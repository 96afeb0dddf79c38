"""Mapping a bundle: read, open, wait, map, seal.

What a bundle says of itself is checked in its head, before room for a single latent is made. The same bundle sent again
gets the same masks, under a nonce that follows from them: nothing is kept of a request that could be replayed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from ppcmi.bundle_header import BundleHeader, BundleLimits, read_header
from ppcmi.channel import Channel
from ppcmi.errors import BundleError
from ppcmi.latents import Latents
from ppcmi.modes import mode_named
from ppcmi.scales import Profile, Stream
from ppcmi.task import Task as TaskDocument
from ppcmi_server import models, tasks
from ppcmi_server.access.identity import Caller
from ppcmi_server.api.access import SegmentCaller, UsesBodyMemory, UsesMapper, UsesServices
from ppcmi_server.api.bodies import OCTETS_ANSWER, OCTETS_BODY, BinaryRoute, OctetsInPieces, read_body
from ppcmi_server.api.problems import describe_problems
from ppcmi_server.api.task_routes import TaskName
from ppcmi_server.api.volume import MappedVolume
from ppcmi_server.database.schema import Model
from ppcmi_server.errors import conflict
from ppcmi_server.intake.cohort_checks import require_shapes
from ppcmi_server.mapping.fair_queue import Answer
from ppcmi_server.mapping.mapper import Mapper
from ppcmi_server.services import Services

router = APIRouter(
    prefix="/v1/tasks", tags=["models"], route_class=BinaryRoute, responses=describe_problems(401, 403, 404, 422)
)


def _mapped_volume_of(request: Request) -> MappedVolume:
    volume: MappedVolume = request.app.state.mapped_volume
    return volume


async def _account_of(memory: UsesBodyMemory) -> AsyncIterator[Callable[[int], None]]:
    """What a body takes is given back when the answer is sent."""
    with memory.account() as take:
        yield take


@router.post(
    "/{name}/map",
    openapi_extra=OCTETS_BODY,
    response_class=Response,
    responses={200: OCTETS_ANSWER, **describe_problems(408, 409, 413, 415, 429, 503)},
)
async def map_bundle(
    name: TaskName,
    request: Request,
    caller: SegmentCaller,
    services: UsesServices,
    mapper: UsesMapper,
    volume: Annotated[MappedVolume, Depends(_mapped_volume_of)],
    take: Annotated[Callable[[int], None], Depends(_account_of)],
    model: Annotated[int | None, Query(ge=1, lt=1 << 31, examples=[3])] = None,
) -> Response:
    """Map a bundle of image latents to one of mask latents; without ``model`` the active one maps."""
    limits, timing = services.config.limits, services.metrics.timing
    work = await run_in_threadpool(_prepare, services, name, caller, model)
    with mapper.admit(caller.site_id) as place:
        with timing("read"):
            body = await read_body(request, limits.bundle_bytes, limits.idle_seconds, take)
        header = work.read(body)
        await run_in_threadpool(volume.take, caller.site_id, len(header.slice_indices))
        with timing("open"):
            images = await run_in_threadpool(work.open, body)
        del body
        answer = mapper.submit(place, work.model.id, header.codec, images)
        masks = await _wait(request, answer, mapper, limits.queue_seconds)
        with timing("seal"):
            return OctetsInPieces(await run_in_threadpool(work.seal, header, masks))


@dataclass(frozen=True)
class _Work:
    """One mapping request: the model, and the channel with the site."""

    task: TaskDocument
    model: Model
    channel: Channel

    def read(self, body: bytes) -> BundleHeader:
        """The request's header.

        :raises BundleError: if it is not that of a bundle of image latents.
        :raises RefusalError: 409 if it does not fit the model.
        """
        header = read_header(body, BundleLimits(bytes=len(body)))
        self._require_fit(header)
        return header

    def open(self, body: bytes) -> Latents:
        """The image latents, in the inner key's space.

        :raises BundleError: if they are not valid.
        """
        _, streams = self.channel.open(body)
        images = streams[Stream.IMAGE]
        if not images.finite:  # the link layer may have added up what was finite
            raise BundleError("The bundle holds values too large for latents; check the image and the codec.")
        return images

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
    channel = services.channels(caller, found.document.identity, mode_named(model.mode))
    return _Work(found.document, model, channel)


async def _wait(request: Request, answer: Answer, mapper: Mapper, queue_seconds: float) -> Latents:
    """The answer; if the client goes away first, or it is not begun in time, the request is dropped.

    :raises RefusalError: 429 if it is not begun within ``queue_seconds``.
    """
    gone = asyncio.ensure_future(_disconnected(request))
    masks = asyncio.wrap_future(answer)
    try:
        waited: set[asyncio.Future[Any]] = {masks, gone}
        await asyncio.wait(waited, timeout=queue_seconds, return_when=asyncio.FIRST_COMPLETED)
        if not masks.done() and not gone.done():
            if not answer.started:
                raise mapper.too_late()
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if not masks.done():
            raise ClientDisconnect
        return masks.result()
    finally:
        gone.cancel()
        masks.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

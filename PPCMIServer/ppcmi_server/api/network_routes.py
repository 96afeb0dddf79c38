"""Shared networks: what members leave for each other, encrypted end to end; the server cannot open it."""

from __future__ import annotations

import secrets
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from ppcmi_server import shared_networks
from ppcmi_server.access.identity import Caller
from ppcmi_server.api.access import AnyCaller, ContributeCaller, UsesServices
from ppcmi_server.api.bodies import (
    OCTETS_ANSWER,
    OCTETS_BODY,
    BinaryRoute,
    JsonRoute,
    answer_with_blob,
    declared_size,
    deleted_if_refused,
    receive_blob,
)
from ppcmi_server.api.documents import SharedNetworkAnswer
from ppcmi_server.api.problems import describe_problems
from ppcmi_server.api.task_routes import CODEC_HEADER, Fingerprint, TaskName
from ppcmi_server.errors import not_found
from ppcmi_server.services import Services

router = APIRouter(
    prefix="/v1/tasks", tags=["consortium"], route_class=JsonRoute, responses=describe_problems(401, 403, 404, 422)
)
binary = APIRouter(
    prefix="/v1/tasks", tags=["consortium"], route_class=BinaryRoute, responses=describe_problems(401, 403, 404, 422)
)

Sharer = Annotated[str, Path(pattern=r"^[0-9a-f]{16}$", examples=["0f1e2d3c4b5a6978"])]


@binary.put("/{name}/network", status_code=204, openapi_extra=OCTETS_BODY, responses=describe_problems(409, 413, 507))
async def put_network(
    name: TaskName, fingerprint: Fingerprint, request: Request, caller: ContributeCaller, services: UsesServices
) -> Response:
    """Share the caller's network, in place of its earlier one; X-PPCMI-Codec names the codec that it belongs to."""
    await run_in_threadpool(_require_room, services, name, caller, fingerprint, declared_size(request))
    blob = f"networks/{secrets.token_hex(16)}"
    size = await receive_blob(request, services.blobs, blob, services.config.limits.network_bytes, "network")
    await run_in_threadpool(_share, services, name, caller, fingerprint, blob, size)
    return Response(status_code=204)


@router.get("/{name}/networks")
def list_networks(name: TaskName, caller: AnyCaller, services: UsesServices) -> list[SharedNetworkAnswer]:
    """The networks that members share, of the consortium's present codec, the oldest first."""
    with services.database.reading() as session:
        return [
            SharedNetworkAnswer(
                site_id=site.id,
                site_name=site.name,
                shared=network.shared,
                version=network.version,
                bytes=network.stored_bytes,
            )
            for network, site in shared_networks.list_networks(session, name, caller)
        ]


@binary.get("/{name}/networks/{site_id}", responses={200: OCTETS_ANSWER}, response_class=StreamingResponse)
def get_network(name: TaskName, site_id: Sharer, caller: AnyCaller, services: UsesServices) -> StreamingResponse:
    """The network of one member, as it was sent; the codec that it belongs to is in the header X-PPCMI-Codec."""
    with services.database.reading() as session:
        network = shared_networks.find_network(session, name, caller, site_id)
    try:
        return answer_with_blob(services.blobs, network.blob, {CODEC_HEADER: network.codec})
    except FileNotFoundError:
        raise not_found("network") from None  # taken back or replaced since its row was read


@router.delete("/{name}/network", status_code=204)
def withdraw_network(name: TaskName, caller: ContributeCaller, services: UsesServices) -> None:
    """Take the caller's network back: its bytes are gone. Nothing changes where there is none."""
    with services.database.writing() as session:
        blob = shared_networks.withdraw(session, name, caller)
    if blob is not None:
        services.blobs.delete(blob)


def _require_room(services: Services, name: str, caller: Caller, fingerprint: str, size: int) -> None:
    room = services.cohorts.room
    with services.database.reading() as session:
        shared_networks.require_shareable(session, room, name, caller, fingerprint, size)
    room.require_space(size)


def _share(services: Services, name: str, caller: Caller, fingerprint: str, blob: str, size: int) -> None:
    room = services.cohorts.room
    with deleted_if_refused(services.blobs, blob), services.database.writing() as session:
        replaced = shared_networks.share(session, room, name, caller, fingerprint, blob, size)
    if replaced is not None:
        services.blobs.delete(replaced)

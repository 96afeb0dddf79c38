"""Tasks and consortia: what can be segmented, and with whom."""

from __future__ import annotations

import json
import secrets
from typing import Annotated

from fastapi import APIRouter, Header, Path, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from ppcmi_server import models, tasks
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
from ppcmi_server.api.documents import (
    ActiveModel,
    ConsortiumRequest,
    ConsortiumState,
    InvitationAnswer,
    InvitationRequest,
    Nothing,
    TaskAnswer,
)
from ppcmi_server.api.problems import describe_problems
from ppcmi_server.database.schema import Consortium, Site, Task
from ppcmi_server.errors import not_found, unprocessable
from ppcmi_server.services import Services

CODEC_HEADER = "X-PPCMI-Codec"

router = APIRouter(prefix="/v1/tasks", route_class=JsonRoute, responses=describe_problems(401, 403, 404, 422))
binary = APIRouter(prefix="/v1/tasks", route_class=BinaryRoute, responses=describe_problems(401, 403, 404, 422))

TaskName = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", examples=["phantom"])]
Fingerprint = Annotated[str, Header(alias=CODEC_HEADER, pattern=r"^[0-9a-f]{32}$", examples=["00" * 16])]


@router.get("", tags=["tasks"])
def list_tasks(caller: AnyCaller, services: UsesServices) -> list[TaskAnswer]:
    """Every task."""
    with services.database.reading() as session:
        return [_answer(session, task, caller) for task in tasks.list_tasks(session)]


@router.get("/{name}", tags=["tasks"])
def get_task(name: TaskName, caller: AnyCaller, services: UsesServices) -> TaskAnswer:
    """One task with its active model and consortium."""
    with services.database.reading() as session:
        return _answer(session, tasks.find_task(session, name), caller)


@router.post("/{name}/consortium", status_code=201, tags=["consortium"], responses=describe_problems(409))
def found_consortium(
    name: TaskName, body: ConsortiumRequest, caller: ContributeCaller, services: UsesServices
) -> Nothing:
    """Found the task's consortium, as its first member."""
    with services.database.writing() as session:
        tasks.found_consortium(session, name, caller, scope=body.scope, mode=body.mode, inner_check=body.inner_check)
    return Nothing()


@router.post("/{name}/invitations", status_code=201, tags=["consortium"], responses=describe_problems(409))
def invite(name: TaskName, body: InvitationRequest, caller: ContributeCaller, services: UsesServices) -> Nothing:
    """Leave a message for another site, sealed to its key: the server cannot open it."""
    if not 0 < len(body.sealed) <= services.config.limits.sealed_bytes:
        raise unprocessable("An invitation has at most 64 KiB.")
    with services.database.writing() as session:
        tasks.invite(session, name, caller, body.to, body.sealed)
    return Nothing()


@router.get("/{name}/invitation", tags=["consortium"])
def get_invitation(name: TaskName, caller: AnyCaller, services: UsesServices) -> InvitationAnswer:
    """The caller's newest invitation."""
    with services.database.reading() as session:
        invitation, sender = tasks.newest_invitation(session, name, caller)
    return InvitationAnswer(sealed=invitation.sealed, sender=sender.name)


@router.post("/{name}/members", status_code=204, tags=["consortium"])
def join(name: TaskName, _: Nothing, caller: ContributeCaller, services: UsesServices) -> None:
    """Join after an invitation."""
    with services.database.writing() as session:
        tasks.join(session, name, caller)


@binary.put(
    "/{name}/codec",
    status_code=204,
    tags=["consortium"],
    openapi_extra=OCTETS_BODY,
    responses=describe_problems(409, 413, 507),
)
async def put_codec(
    name: TaskName, fingerprint: Fingerprint, request: Request, caller: ContributeCaller, services: UsesServices
) -> Response:
    """Publish the codec, encrypted by its founder; the server cannot read it."""
    await run_in_threadpool(_require_publisher, services, name, caller, declared_size(request))
    blob = f"codecs/{secrets.token_hex(16)}"
    await receive_blob(request, services.blobs, blob, services.config.limits.codec_bytes, "codec")
    await run_in_threadpool(_publish, services, name, caller, fingerprint, blob)
    return Response(status_code=204)


@binary.get("/{name}/codec", tags=["consortium"], responses={200: OCTETS_ANSWER}, response_class=StreamingResponse)
def get_codec(name: TaskName, caller: AnyCaller, services: UsesServices) -> StreamingResponse:
    """The published codec, encrypted; its fingerprint is in the header X-PPCMI-Codec."""
    with services.database.reading() as session:
        consortium = tasks.membership(session, name, caller).consortium
    if consortium.codec is None or consortium.codec_blob is None:
        raise not_found("codec")
    return answer_with_blob(services.blobs, consortium.codec_blob, {CODEC_HEADER: consortium.codec})


def _require_publisher(services: Services, name: str, caller: Caller, size: int) -> None:
    with services.database.reading() as session:
        tasks.require_codec_publisher(tasks.membership(session, name, caller), caller)
    services.cohorts.room.require_space(size)


def _publish(services: Services, name: str, caller: Caller, fingerprint: str, blob: str) -> None:
    with deleted_if_refused(services.blobs, blob), services.database.writing() as session:
        unneeded = tasks.set_codec(session, name, caller, fingerprint, blob)
    for earlier in unneeded:
        services.blobs.delete(earlier)


def _answer(session: Session, task: Task, caller: Caller) -> TaskAnswer:
    active = models.active_model(session, task)
    consortium = session.get(Consortium, task.id)
    return TaskAnswer(
        task=json.loads(task.document),
        active_model=None
        if active is None
        else ActiveModel.model_validate(
            {
                "number": active.number,
                "profile": active.profile,
                "scope": active.scope,
                "mode": active.mode,
                "codec": models.single_codec(active),
            }
        ),
        consortium=None
        if consortium is None
        else ConsortiumState.model_validate(
            {
                "codec": consortium.codec,
                "scope": consortium.scope,
                "mode": consortium.mode,
                "founder": session.get_one(Site, consortium.founder_id).name,
                "members": tasks.members(session, task),
                "member": tasks.is_member(session, task, caller.site_id),
            }
        ),
    )

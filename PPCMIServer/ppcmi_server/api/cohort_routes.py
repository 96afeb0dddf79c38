"""Cohorts: upload, state, withdrawal. A cohort is its owner's alone; for everyone else it does not exist."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, HTTPException, Path, Request, Response
from starlette.concurrency import run_in_threadpool

from ppcmi_server.api.access import ContributeCaller, UsesBodyMemory, UsesServices
from ppcmi_server.api.bodies import OCTETS_BODY, BinaryRoute, JsonRoute, declared_size, read_body
from ppcmi_server.api.documents import CohortAnswer, CohortCreated, CohortRequest, CommitAnswer, CommitRequest
from ppcmi_server.api.problems import describe_problems
from ppcmi_server.api.task_routes import TaskName
from ppcmi_server.intake.chunks import ChunkPlace

router = APIRouter(prefix="/v1", tags=["cohorts"], route_class=JsonRoute, responses=describe_problems(401, 404, 422))
binary = APIRouter(prefix="/v1", tags=["cohorts"], route_class=BinaryRoute, responses=describe_problems(401, 404, 422))

CohortId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$", examples=["00112233445566778899aabbccddeeff"])]
Pseudonym = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$", examples=["ffeeddccbbaa99887766554433221100"])]
SHA256_HEX = r"^[0-9a-f]{64}$"
FrameIndex = Annotated[int, Path(ge=0, lt=1 << 20, examples=[0])]


@router.post("/tasks/{name}/cohorts", status_code=201, responses=describe_problems(403, 409, 507))
def announce(
    name: TaskName, body: CohortRequest, caller: ContributeCaller, services: UsesServices, response: Response
) -> CohortCreated:
    """Announce a cohort by its file's header; the same header again gives the same id, with status 200."""
    cohort_id, new = services.cohorts.announce(name, caller, body.header)
    if not new:
        response.status_code = 200
    return CohortCreated(cohort_id=cohort_id)


@router.get("/cohorts/{cohort_id}")
def state(cohort_id: CohortId, caller: ContributeCaller, services: UsesServices) -> CohortAnswer:
    """What the server has of a cohort."""
    found = services.cohorts.state(cohort_id, caller)
    partial = {str(index): [list(extent) for extent in extents] for index, extents in found.partial.items()}
    return CohortAnswer.model_validate(
        {**vars(found), "partial": partial, "chunk_bytes": services.config.limits.chunk_bytes}
    )


@binary.put(
    "/cohorts/{cohort_id}/frames/{index}",
    status_code=201,
    response_class=Response,
    openapi_extra=OCTETS_BODY,
    responses=describe_problems(409, 413, 503, 507),
)
async def put_frame(
    cohort_id: CohortId,
    index: FrameIndex,
    request: Request,
    caller: ContributeCaller,
    services: UsesServices,
    memory: UsesBodyMemory,
) -> Response:
    """Send one frame of the file; it is durable when the answer comes. The same again: status 200."""
    limits = services.config.limits
    uploads = services.cohorts.uploads
    await run_in_threadpool(uploads.require_room, cohort_id, caller, index, declared_size(request))
    with memory.account() as take:
        body = await read_body(request, limits.frame_bytes, limits.idle_seconds, take)
        new = await run_in_threadpool(uploads.put_frame, cohort_id, caller, index, body)
        services.metrics.uploaded(len(body))
    return Response(status_code=201 if new else 200)


@binary.put(
    "/cohorts/{cohort_id}/frames/{index}/chunks/{offset}",
    status_code=201,
    response_class=Response,
    openapi_extra=OCTETS_BODY,
    responses=describe_problems(409, 413, 503, 507),
)
async def put_chunk(
    cohort_id: CohortId,
    index: FrameIndex,
    offset: Annotated[int, Path(ge=0, lt=1 << 40, examples=[8388608])],
    frame_bytes: Annotated[int, Header(alias="X-PPCMI-Frame-Bytes", ge=1, lt=1 << 40, examples=[20000000])],
    frame_digest: Annotated[str, Header(alias="X-PPCMI-Frame-Digest", pattern=SHA256_HEX, examples=["00" * 32])],
    digest: Annotated[str, Header(alias="X-PPCMI-Digest", pattern=SHA256_HEX, examples=["00" * 32])],
    request: Request,
    caller: ContributeCaller,
    services: UsesServices,
    memory: UsesBodyMemory,
) -> Response:
    """Send a part of a frame, from its byte at the offset on; it is durable when the answer comes.

    The same again: status 200. With the last one that was missing the frame is whole, as if it had come at once.
    """
    limits = services.config.limits
    if frame_bytes > limits.frame_bytes:
        raise HTTPException(413, headers={"Connection": "close"})
    place = ChunkPlace(index, offset, bytes.fromhex(digest), frame_bytes, bytes.fromhex(frame_digest))
    uploads = services.cohorts.uploads
    await run_in_threadpool(uploads.require_room_for_chunk, cohort_id, caller, place, declared_size(request))
    with memory.account() as take:
        body = await read_body(request, limits.chunk_bytes, limits.idle_seconds, take)
        new = await run_in_threadpool(uploads.put_chunk, cohort_id, caller, place, body, take)
        services.metrics.uploaded(len(body))
    return Response(status_code=201 if new else 200)


@router.post("/cohorts/{cohort_id}/commit", responses=describe_problems(409))
def commit(cohort_id: CohortId, body: CommitRequest, caller: ContributeCaller, services: UsesServices) -> CommitAnswer:
    """Declare a cohort whole, by the number and digest of its frames; from now on it is trained on."""
    cases, slices = services.cohorts.commit(cohort_id, caller, body.frames, body.digest)
    return CommitAnswer(cases=cases, slices=slices)


@router.delete("/cohorts/{cohort_id}", status_code=204)
def withdraw(cohort_id: CohortId, caller: ContributeCaller, services: UsesServices) -> None:
    """Take a cohort back: its bytes are gone, models trained on it are marked."""
    services.cohorts.withdraw(cohort_id, caller)


@router.delete("/cohorts/{cohort_id}/cases/{pseudonym}", status_code=204, responses=describe_problems(409))
def withdraw_case(cohort_id: CohortId, pseudonym: Pseudonym, caller: ContributeCaller, services: UsesServices) -> None:
    """Take one case back."""
    services.cohorts.withdraw_case(cohort_id, caller, pseudonym)

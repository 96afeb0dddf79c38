"""Health, what kind of server this is, enrolment, and who is who."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request

from ppcmi_server import __version__, audit
from ppcmi_server.access import identity
from ppcmi_server.api.access import AnyCaller, UsesFailedAttempts, UsesMapper, UsesServices, address_of, certificate_of
from ppcmi_server.api.bodies import JsonRoute
from ppcmi_server.api.documents import EnrolAnswer, EnrolRequest, Health, Info, Me, Readiness, SiteAnswer, Storable
from ppcmi_server.api.problems import describe_problems
from ppcmi_server.database.schema import Site
from ppcmi_server.errors import RefusalError
from ppcmi_server.intake.quota import stored_bytes
from ppcmi_server.mapping.mapper import shutting_down
from ppcmi_server.operation.readiness import ReadinessCheck

FORBIDDEN = 403

public = APIRouter(route_class=JsonRoute)
router = APIRouter(prefix="/v1", route_class=JsonRoute, responses=describe_problems(422))


@public.get("/healthz", tags=["service"])
def healthz() -> Health:
    """The process answers."""
    return Health()


@public.get("/readyz", tags=["service"], responses=describe_problems(503))
def readyz(request: Request, mapper: UsesMapper) -> Readiness:
    """Database, storage and mapper work; whether uploads have room."""
    if not mapper.alive:
        raise shutting_down()
    check: ReadinessCheck = request.app.state.readiness
    found = check()
    if found.failing:
        parts = " and ".join(found.failing)
        raise RefusalError(
            503, "not-ready", "Not available", f"The server's {parts} cannot be used now; try again later.",
            {"Retry-After": "10"},
        )  # fmt: skip
    return Readiness(uploads="open" if found.room_for_uploads else "closed")


@router.get("/info", tags=["service"])
def info(services: UsesServices) -> Info:
    """Service, version, protocol and public key."""
    return Info(version=__version__, public_key=services.keys.public_key)


@router.post("/enrol", status_code=201, tags=["sites"], responses=describe_problems(403, 429))
def enrol(body: EnrolRequest, request: Request, services: UsesServices, attempts: UsesFailedAttempts) -> EnrolAnswer:
    """Trade a one-time code for an identity; the link key follows from both public keys and the salt."""
    attempts.require_room(address_of(request))
    certificate = certificate_of(request, services)
    try:
        with services.database.writing() as session:
            made = identity.enrol(session, body.code, body.public_key, services.keys, certificate)
    except RefusalError as refusal:
        if refusal.status == FORBIDDEN:
            attempts.note(address_of(request))
        raise
    return EnrolAnswer(
        site_id=made.site_id,
        site_name=made.site_name,
        token=made.token,
        server_public_key=services.keys.public_key,
        link_salt=made.link_salt,
    )


@router.get("/me", tags=["sites"], responses=describe_problems(401))
def me(caller: AnyCaller, services: UsesServices) -> Me:
    """The caller's site, scopes and storage, and the digest of the audit log's newest event: a receipt to keep."""
    with services.database.reading() as session:
        head = audit.head(session)
        stored = stored_bytes(session, caller.site_id)
        quota = services.cohorts.room.quota_of(session.get_one(Site, caller.site_id))
    return Me(
        site_id=caller.site_id,
        site_name=caller.site_name,
        scopes=list(caller.scopes),
        audit_head=head,
        stored_bytes=stored,
        quota_bytes=quota,
    )


@router.get("/sites", tags=["sites"], responses=describe_problems(401, 404))
def find_site(
    caller: AnyCaller,
    services: UsesServices,
    name: Annotated[Storable, Query(min_length=1, max_length=100, examples=["Hospital B"])],
) -> SiteAnswer:
    """The site of that name, to invite it."""
    with services.database.reading() as session:
        site = identity.find_site(session, name)
    return SiteAnswer(site_id=site.id, site_name=site.name, public_key=site.public_key or b"")

"""Who calls, and what they may use: the dependencies that routes declare."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from ppcmi_server.api.bodies import BodyMemory
from ppcmi_server.errors import RefusalError, forbidden
from ppcmi_server.identity import SITE_SCOPES, Caller, authenticate, was_revoked
from ppcmi_server.mapping import Mapper
from ppcmi_server.services import Services

_BEARER = HTTPBearer(auto_error=False, description="The token from enrolment.")


def services_of(request: Request) -> Services:
    """The server's services."""
    services: Services = request.app.state.services
    return services


def mapper_of(request: Request) -> Mapper:
    """The server's mapper."""
    mapper: Mapper = request.app.state.mapper
    return mapper


def body_memory_of(request: Request) -> BodyMemory:
    """The account of bodies in memory."""
    memory: BodyMemory = request.app.state.body_memory
    return memory


UsesServices = Annotated[Services, Depends(services_of)]
UsesMapper = Annotated[Mapper, Depends(mapper_of)]
UsesBodyMemory = Annotated[BodyMemory, Depends(body_memory_of)]


def caller_with(scope: str | None) -> Callable[..., Caller]:
    """A dependency: the site whose token came along, if the token has ``scope``."""
    if scope is not None and scope not in SITE_SCOPES:
        raise ValueError("an unknown scope")

    def caller(request: Request, services: UsesServices, _: Annotated[Any, Depends(_BEARER)]) -> Caller:
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        found, revoked = None, False
        if kind.lower() == "bearer" and 0 < len(token) <= 200 and token.isascii():
            with services.database.reading() as session:
                found = authenticate(session, token)
                revoked = found is None and was_revoked(session, token)
        if revoked:
            raise RefusalError(
                401, "revoked", "Not authorized", "The site's access was revoked; ask the server's operator.",
                {"WWW-Authenticate": "Bearer"},
            )  # fmt: skip
        if found is None:
            raise RefusalError(
                401, "unauthorized", "Not authorized", "The token is missing or not valid; enrol the site again.",
                {"WWW-Authenticate": "Bearer"},
            )  # fmt: skip
        if scope is not None and scope not in found.scopes:
            raise forbidden(f"The site's token does not have the scope '{scope}'.")
        return found

    return caller


AnyCaller = Annotated[Caller, Depends(caller_with(None))]
SegmentCaller = Annotated[Caller, Depends(caller_with("segment"))]
ContributeCaller = Annotated[Caller, Depends(caller_with("contribute"))]
ValidateCaller = Annotated[Caller, Depends(caller_with("validate"))]

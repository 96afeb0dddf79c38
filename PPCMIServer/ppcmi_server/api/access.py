"""Who calls, and what they may use: the dependencies that routes declare."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import BackgroundTasks, Depends, Request
from fastapi.security import HTTPBearer
from sqlalchemy.orm import Session

from ppcmi_server.access.client_certificate import client_certificate
from ppcmi_server.access.identity import Caller, authenticate, bind_certificate, revocation_of
from ppcmi_server.access.operators import Operator, authenticate_operator
from ppcmi_server.access.site_tokens import note_use
from ppcmi_server.access.tokens import OPERATOR_SCOPES, SITE_SCOPES, Use, find_token, is_valid
from ppcmi_server.api.bodies import BodyMemory
from ppcmi_server.api.rates import FailedAttempts, Rate
from ppcmi_server.errors import RefusalError, forbidden, unauthorized
from ppcmi_server.mapping.mapper import Mapper
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


def failed_attempts_of(request: Request) -> FailedAttempts:
    """The account of failed attempts."""
    attempts: FailedAttempts = request.app.state.failed_attempts
    return attempts


UsesFailedAttempts = Annotated[FailedAttempts, Depends(failed_attempts_of)]


def address_of(request: Request) -> str:
    """Where a request comes from, for :class:`~ppcmi_server.api.rates.FailedAttempts` and nothing else."""
    return "" if request.client is None else request.client.host


def caller_with(scope: str | None) -> Callable[..., Caller]:
    """A dependency: the site whose token came along, if the token has ``scope``."""
    if scope is not None and scope not in SITE_SCOPES:
        raise ValueError("an unknown scope")

    def caller(
        request: Request, after: BackgroundTasks, services: UsesServices, _: Annotated[Any, Depends(_BEARER)]
    ) -> Caller:
        token = _token_of(request)
        with services.database.reading() as session:
            found = authenticate(session, token)
            if found is None:
                raise _no_entry(session, request, token)
        _count(request, found.token_id)
        _require_own_certificate(request, services, found)
        _note_use(services, found.token_id, found.use, after)
        if scope is not None and scope not in found.scopes:
            raise forbidden(f"The site's token does not have the scope '{scope}'.")
        return found

    return caller


def operator_with(scope: str) -> Callable[..., Operator]:
    """A dependency: the operator whose token came along, if the token has ``scope``."""
    if scope not in OPERATOR_SCOPES:
        raise ValueError("an unknown scope")

    def operator(
        request: Request, after: BackgroundTasks, services: UsesServices, _: Annotated[Any, Depends(_BEARER)]
    ) -> Operator:
        token = _token_of(request)
        with services.database.reading() as session:
            found = authenticate_operator(session, token)
            if found is None:
                raise _no_entry(session, request, token)
        _count(request, found.token_id)
        _note_use(services, found.token_id, found.use, after)
        if scope not in found.scopes:
            raise forbidden(f"The operator's token does not have the scope '{scope}'.")
        return found

    return operator


def _token_of(request: Request) -> str:
    """The text of the token that came along; empty without one."""
    kind, _, token = request.headers.get("Authorization", "").partition(" ")
    return token if kind.lower() == "bearer" else ""


def _no_entry(session: Session, request: Request, token: str) -> RefusalError:
    """Why a token opens nothing: whoever holds one that was valid may know that it is so no longer.

    A wrong one counts as a failed attempt; what is right gets in however many of those came from the same address.
    """
    found = find_token(session, token)
    if found is None:
        return _unknown_token(request, token)
    revocation = revocation_of(session, found)
    if revocation is not None:
        return revocation
    if not is_valid(found):
        return unauthorized("expired", "The token has expired; ask whoever made it for a new one.")
    if found.site_id is None:
        return forbidden("This is for sites, and the token is an operator's.")
    return forbidden("This is for operators, and the token is a site's.")


def _unknown_token(request: Request, token: str) -> RefusalError:
    attempts = failed_attempts_of(request)
    if token:
        try:
            attempts.require_room(address_of(request))
        except RefusalError as refusal:
            return refusal
        attempts.note(address_of(request))
    return unauthorized("unauthorized", "The token is missing or not valid; enrol the site again.")


def _count(request: Request, token_id: int) -> None:
    rate: Rate = request.app.state.request_rate
    rate.take(str(token_id))


def certificate_of(request: Request, services: Services) -> str | None:
    """SHA-256 (hex) of the certificate that a site shows; None where the server asks for none.

    :raises RefusalError: 403 if the server asks for one and there is none.
    """
    if services.config.tls.client_certificates == "off":
        return None
    shown = client_certificate(request.scope)
    if shown is None:
        raise forbidden("This server asks for a certificate of the site's own; give it as --cert and --key.")
    return shown


def _require_own_certificate(request: Request, services: Services, caller: Caller) -> None:
    """A site that enrolled before certificates were asked for is bound to the first that it shows."""
    shown = certificate_of(request, services)
    if shown is None:
        return
    bound = caller.certificate
    if bound is None:
        with services.database.writing() as session:
            bound = bind_certificate(session, caller.site_id, shown)
    if not hmac.compare_digest(bound, shown):
        raise forbidden("The certificate is not this site's; a new one has to be announced to the server's operator.")


def _note_use(services: Services, token_id: int, use: Use, after: BackgroundTasks) -> None:
    """A first use is noted at once: it begins the end of the token before. For a later one nobody waits."""
    if use == "first":
        _note(services, token_id)
    elif use == "news":
        after.add_task(_note, services, token_id)


def _note(services: Services, token_id: int) -> None:
    with services.database.writing() as session:
        note_use(session, token_id)


AnyCaller = Annotated[Caller, Depends(caller_with(None))]
SegmentCaller = Annotated[Caller, Depends(caller_with("segment"))]
ContributeCaller = Annotated[Caller, Depends(caller_with("contribute"))]
ValidateCaller = Annotated[Caller, Depends(caller_with("validate"))]

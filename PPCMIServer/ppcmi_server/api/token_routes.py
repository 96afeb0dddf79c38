"""A site's own tokens: replacing the one it uses, and narrower ones for its workstations."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from ppcmi_server import audit
from ppcmi_server.access import site_tokens
from ppcmi_server.api.access import AnyCaller, UsesServices
from ppcmi_server.api.bodies import JsonRoute
from ppcmi_server.api.documents import AuditReceipt, NewToken, Nothing, TokenAnswer, TokenRequest, TokenText
from ppcmi_server.api.problems import describe_problems
from ppcmi_server.errors import not_found

router = APIRouter(prefix="/v1", route_class=JsonRoute, responses=describe_problems(401, 422, 429))

TokenId = Annotated[str, Path(pattern=r"^[0-9a-f]{16}$", examples=["0123456789abcdef"])]
Digest = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", examples=["00" * 32])]


@router.post("/token", status_code=201, tags=["tokens"], responses=describe_problems(409))
def rotate_token(_: Nothing, caller: AnyCaller, services: UsesServices) -> TokenText:
    """A new token for the caller's, which works on until an hour after the new one was first used."""
    with services.database.writing() as session:
        return TokenText(token=site_tokens.rotate(session, caller))


@router.post("/token/retire", status_code=204, tags=["tokens"])
def retire_token(_: Nothing, caller: AnyCaller, services: UsesServices) -> None:
    """End the token that the caller's replaced, at once."""
    with services.database.writing() as session:
        site_tokens.retire(session, caller)


@router.post("/tokens", status_code=201, tags=["tokens"], responses=describe_problems(403, 409))
def add_token(body: TokenRequest, caller: AnyCaller, services: UsesServices) -> NewToken:
    """A token for a workstation; it is shown once."""
    with services.database.writing() as session:
        made, text = site_tokens.add(session, caller, body.label, body.scopes, body.days)
    return NewToken(token=text, id=site_tokens.public_id(made))


@router.get("/tokens", tags=["tokens"], responses=describe_problems(403))
def list_tokens(caller: AnyCaller, services: UsesServices) -> list[TokenAnswer]:
    """The site's tokens that work, without the tokens themselves."""
    with services.database.reading() as session:
        return [
            TokenAnswer(
                id=site_tokens.public_id(token),
                label=token.label,
                scopes=list(token.scopes),
                created=token.created,
                expires=token.expires,
                last_used=token.last_used,
                current=token.id == caller.token_id,
            )
            for token in site_tokens.valid_tokens(session, caller)
        ]


@router.delete("/tokens/{token_id}", status_code=204, tags=["tokens"], responses=describe_problems(403, 404, 409))
def revoke_token(token_id: TokenId, caller: AnyCaller, services: UsesServices) -> None:
    """End a token of the site's, at once."""
    with services.database.writing() as session:
        site_tokens.revoke(session, caller, token_id)


@router.get("/audit/{digest}", tags=["service"], responses=describe_problems(404))
def find_in_audit_log(digest: Digest, _: AnyCaller, services: UsesServices) -> AuditReceipt:
    """Whether the audit log still has the event of that digest: if not, it was rolled back or written anew."""
    with services.database.reading() as session:
        found = audit.event_of(session, digest)
    if found is None:
        raise not_found("event")
    return AuditReceipt(event=found)

"""Operators: who may use the dashboard and read the numbers for monitoring."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Response

from ppcmi_server.access import operators, tokens
from ppcmi_server.dashboard.guard import UsesChange, UsesVisit
from ppcmi_server.dashboard.pages import page_router
from ppcmi_server.database.schema import Token
from ppcmi_server.errors import conflict, not_found

TokenId = Annotated[int, Path(ge=1, lt=1 << 31)]
ROLES = {"operate": ("operate", "observe"), "observe": ("observe",)}
TOKEN_STEPS = (
    "Hand it over on a way that you trust; the server keeps only its SHA-256.",
    "With the scope 'operate' it opens this dashboard, with 'observe' it reads /metrics and nothing else.",
)

router = page_router()


@router.get("/operators")
def list_operators(visit: UsesVisit) -> Response:
    """Every operator's token, and the form for another."""
    with visit.services.database.reading() as session:
        found = [(token, _state(token)) for token in operators.list_operators(session)]
    return visit.page("operators.html", operators=found, own=visit.login.operator.token_id)


@router.post("/operators")
def add_operator(change: UsesChange) -> Response:
    """Add an operator; the token is shown once."""
    scopes = ROLES.get(change.form.text("role"), ROLES["observe"])
    label, days = change.form.text("label"), change.form.number("days")
    with change.services.database.writing() as session:
        token = operators.add_operator(session, label, scopes, days, actor=change.actor)
    return change.done(
        "/operators", "The operator is added. This is the token; it is shown this once.", token, TOKEN_STEPS
    )


@router.get("/operators/{token_id}/revoke")
def confirm_revocation(token_id: TokenId, visit: UsesVisit) -> Response:
    """Ask before an operator is revoked."""
    with visit.services.database.reading() as session:
        token = session.get(Token, token_id)
    if token is None or token.site_id is not None:
        raise not_found("operator")
    return visit.page(
        "confirm.html",
        heading="Revoke this operator?",
        subject=token.label,
        sentences=[
            "The token and every login that was made with it end at once.",
            "This cannot be undone; add the operator anew to let them in again.",
        ],
        warnings=[],
        button="Revoke the operator",
        action=f"/operators/{token_id}/revoke",
        back="/operators",
        fields={},
    )


@router.post("/operators/{token_id}/revoke")
def revoke_operator(token_id: TokenId, change: UsesChange) -> Response:
    """End an operator's access; never one's own."""
    if token_id == change.login.operator.token_id:
        raise conflict(
            "own-token", "You cannot revoke the token that you are logged in with; have another operator do it."
        )
    with change.services.database.writing() as session:
        operators.revoke_operator(session, token_id, actor=change.actor)
    return change.done("/operators", "The operator is revoked.")


def _state(token: Token) -> str:
    if token.revoked:
        return "revoked"
    return "valid" if tokens.is_valid(token) else "expired"

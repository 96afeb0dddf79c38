"""The audit log: who did what, when, and whether the log is whole."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from ppcmi_server import audit
from ppcmi_server.api.documents import Storable
from ppcmi_server.dashboard.guard import UsesVisit
from ppcmi_server.dashboard.pages import page_router
from ppcmi_server.dashboard.site_facts import site_names
from ppcmi_server.database.schema import AuditEvent, Token

SHOWN = 100

router = page_router()


@router.get("/audit")
def list_events(
    request: Request,
    visit: UsesVisit,
    actor: Annotated[Storable, Query(max_length=32)] = "",
    action: Annotated[Storable, Query(max_length=40)] = "",
    before: Annotated[int | None, Query(ge=1, lt=1 << 62)] = None,
) -> Response:
    """Events, the newest first."""
    with visit.services.database.reading() as session:
        found = _events(session, actor, action, before)
        names = _names(session)
        actions = list(session.scalars(select(AuditEvent.action).distinct().order_by(AuditEvent.action)))
        actors = list(session.scalars(select(AuditEvent.actor).distinct().order_by(AuditEvent.actor)))
        state = request.app.state.dashboard.chain.now(session)
    return visit.page(
        "audit.html", events=found[:SHOWN], names=names, actions=actions, actors=actors, actor=actor, action=action,
        state=state, next_before=found[SHOWN - 1].id if len(found) > SHOWN else None, before=before,
    )  # fmt: skip


def _events(session: Session, actor: str, action: str, before: int | None) -> list[AuditEvent]:
    """One more than a page shows, if there are more."""
    query = select(AuditEvent).order_by(AuditEvent.id.desc()).limit(SHOWN + 1)
    if actor:
        query = query.where(AuditEvent.actor == actor)
    if action:
        query = query.where(AuditEvent.action == action)
    return list(session.scalars(query if before is None else query.where(AuditEvent.id < before)))


def _names(session: Session) -> dict[str, str]:
    """Names of actors and of the sites that events are about."""
    names = site_names(session)
    labels = session.execute(select(Token.id, Token.label).where(Token.site_id.is_(None)))
    return names | {f"{audit.OPERATOR}-{number}": f"operator {label}" for number, label in labels}

"""Audit log: who did what, when, to which objects. Rows are only ever added."""

from __future__ import annotations

from sqlalchemy.orm import Session

from ppcmi_server import clock
from ppcmi_server.database.schema import AuditEvent

OPERATOR = "operator"


def record(session: Session, actor: str, action: str, **objects: str | int) -> None:
    """Add an event in the transaction of what it tells of.

    :param actor: a site's id, or :data:`OPERATOR`.
    :param objects: ids of what it was done to, never what users typed.
    """
    session.add(AuditEvent(at=clock.now(), actor=actor, action=action, objects=objects))

"""Audit log: who did what, when, to which objects. Rows are only ever added, and each holds on to those before it.

An event's digest is SHA-256 over the digest before it and the event as canonical JSON, so whoever knows a digest knows
of every event up to there: none of them can be changed, dropped or moved without another digest. Sites keep the
newest one that they saw; a log that was rolled back, or written anew from the start, does not have it any longer.
The order is the ids', not the clock's. Events from before there were digests count as what comes before the first one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import event, func, select
from sqlalchemy.orm import Session

from ppcmi_server import clock
from ppcmi_server.database.schema import AuditEvent
from ppcmi_server.errors import OperatorError

OPERATOR = "operator"
START = bytes(hashlib.sha256().digest_size)
"""What stands for the digest before the first event."""
_POSTGRESQL_LOCK = 0x7070636D69  # any number, always the same
_PENDING = "audit-events"
_AT_ONCE = 1000


@dataclass(frozen=True)
class AuditState:
    """What a look at a whole log found.

    :param unchained: how many events at the start have no digest of their own.
    :param first_broken: id of the first event that does not follow from those before it; None if all do.
    :param head: digest (hex) of the last event; empty without one.
    """

    events: int
    unchained: int
    first_broken: int | None
    head: str


def record(session: Session, actor: str, action: str, **objects: str | int) -> None:
    """Add an event in the transaction of what it tells of, at its end.

    :param actor: a site's id, :data:`OPERATOR`, or an operator's :attr:`~ppcmi_server.access.operators.Operator.actor`.
    :param objects: ids of what it was done to, never what users typed.
    """
    pending: list[AuditEvent] = session.info.setdefault(_PENDING, [])
    if not pending:
        event.listen(session, "before_commit", _append, once=True)
        event.listen(session, "after_rollback", _forget, once=True)
    pending.append(AuditEvent(at=clock.now(), actor=actor, action=action, objects=objects))


def events(session: Session, before: int | None, count: int) -> list[AuditEvent]:
    """The newest ``count`` events, newest first.

    :param before: only events with smaller ids.
    """
    query = select(AuditEvent).order_by(AuditEvent.id.desc()).limit(count)
    return list(session.scalars(query if before is None else query.where(AuditEvent.id < before)))


def head(session: Session) -> str | None:
    """Digest (hex) of the newest event."""
    newest = _newest(session)
    return None if newest is None or newest.digest is None else newest.digest.hex()


def event_of(session: Session, digest: str) -> int | None:
    """Id of the event with a digest (hex): None if no event of the log has it."""
    return session.scalar(select(AuditEvent.id).where(AuditEvent.digest == bytes.fromhex(digest)))


def verify(session: Session) -> AuditState:
    """Whether every event follows from those before it."""
    return _verify(_entry(found) for found in _all_events(session))


def export(session: Session) -> Iterator[str]:
    """The log as lines of JSON, oldest first; :func:`verify_lines` needs nothing else."""
    for found in _all_events(session):
        yield json.dumps(_entry(found), sort_keys=True)


def verify_lines(lines: Iterable[str]) -> AuditState:
    """As :func:`verify`, of an exported log.

    :raises OperatorError: if it is not one.
    """
    return _verify(_parsed(line) for line in lines)


def _append(session: Session) -> None:
    """Chain what is pending to the end of the log.

    It comes last in its transaction, so that whoever holds the lock waits for nothing: SQLite has one writer anyway,
    in PostgreSQL it is this lock that gives events an order.
    """
    recorded: list[AuditEvent] = session.info.pop(_PENDING, [])
    if not recorded:
        return
    session.flush()
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(_POSTGRESQL_LOCK)))
    newest = _newest(session)
    number = 0 if newest is None else newest.id
    previous = _digest_up_to(session, newest)
    for added in recorded:
        number += 1
        added.id = number
        added.digest = previous = _digest(previous, _facts(added))
        session.add(added)


def _forget(session: Session) -> None:
    """What did not happen is not told."""
    session.info.pop(_PENDING, None)


def _newest(session: Session) -> AuditEvent | None:
    return session.scalar(select(AuditEvent).order_by(AuditEvent.id.desc()).limit(1))


def _digest_up_to(session: Session, newest: AuditEvent | None) -> bytes:
    if newest is None:
        return START
    if newest.digest is not None:
        return newest.digest
    digest = START  # once, for the log of a server from before there were digests
    for found in _all_events(session):
        digest = _digest(digest, _facts(found))
    return digest


def _verify(log: Iterable[dict[str, Any]]) -> AuditState:
    count, unchained, digest, last = 0, 0, START, ""
    first_broken: int | None = None
    for entry in log:
        count += 1
        stored = entry.pop("digest")
        digest = _digest(digest, entry)
        if stored is None and last == "":
            unchained += 1
        elif stored != digest.hex() and first_broken is None:
            first_broken = entry["id"]
        last = stored or last
    return AuditState(count, unchained, first_broken, last)


def _all_events(session: Session) -> Iterator[AuditEvent]:
    return iter(session.scalars(select(AuditEvent).order_by(AuditEvent.id).execution_options(yield_per=_AT_ONCE)))


def _facts(found: AuditEvent) -> dict[str, Any]:
    """What an event tells, which its digest is over."""
    return {
        "id": found.id,
        "at": found.at,
        "actor": found.actor,
        "action": found.action,
        "objects": found.objects,
    }


def _entry(found: AuditEvent) -> dict[str, Any]:
    """An event with its digest."""
    return {**_facts(found), "digest": None if found.digest is None else found.digest.hex()}


def _digest(previous: bytes, facts: dict[str, Any]) -> bytes:
    """Over canonical JSON: sorted keys, no spaces, ASCII."""
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(previous + canonical).digest()


def _parsed(line: str) -> dict[str, Any]:
    try:
        facts = json.loads(line)
    except ValueError:
        facts = None
    if not isinstance(facts, dict) or facts.keys() != {"id", "at", "actor", "action", "objects", "digest"}:
        raise OperatorError("The file is not an exported audit log; write one with 'ppcmi-server audit export FILE'.")
    return facts

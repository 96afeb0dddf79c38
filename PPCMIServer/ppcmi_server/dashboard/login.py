"""Logins of operators: a cookie of 256 random bits, stored as its SHA-256, with an idle and an absolute lifetime.

A login stands on an operator's token and ends with it. Times are seconds since 1970 by the server's clock; a login that
seems to come from the future, after the clock was set back, has ended.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from ppcmi_server import audit
from ppcmi_server.access.operators import Operator, operator_of
from ppcmi_server.access.tokens import digest_of
from ppcmi_server.database.schema import Login
from ppcmi_server.settings import DashboardSettings

SCOPE = "operate"
SECRET_BYTES = 32
NOTE_EVERY_S = 20.0
"""A click is written down only if the last one that was is so long ago."""
CLOCK_LEEWAY_S = 60.0


@dataclass(frozen=True)
class OpenLogin:
    """A login that holds, and whose it is; ``csrf`` is what its forms carry."""

    login_id: int
    operator: Operator
    cookie_hash: bytes = field(repr=False)
    csrf: str = field(repr=False)
    is_stale: bool

    def has_csrf(self, given: str) -> bool:
        """Whether a form carries this login's token; in constant time."""
        return hmac.compare_digest(given.encode(), self.csrf.encode())


class Logins:
    """Begins, finds and ends logins.

    :param now: seconds since 1970.
    """

    def __init__(self, settings: DashboardSettings, now: Callable[[], float] = time.time) -> None:
        self._idle_s = 60.0 * settings.idle_minutes
        self._lifetime_s = 3600.0 * settings.login_hours
        self._now = now

    @property
    def lifetime_s(self) -> float:
        """How long a login may last at most, in seconds."""
        return self._lifetime_s

    def begin(self, session: Session, operator: Operator) -> str:
        """A new login's cookie; logins that have run out are removed."""
        now = self._now()
        session.execute(
            delete(Login).where(
                or_(
                    Login.last_seen < now - self._idle_s,
                    Login.began < now - self._lifetime_s,
                    Login.last_seen > now + CLOCK_LEEWAY_S,
                )
            )
        )
        cookie = secrets.token_urlsafe(SECRET_BYTES)
        session.add(
            Login(
                token_id=operator.token_id, cookie_hash=digest_of(cookie), csrf=secrets.token_urlsafe(SECRET_BYTES),
                began=now, last_seen=now,
            )
        )  # fmt: skip
        audit.record(session, operator.actor, "dashboard.login", operator=operator.token_id)
        return cookie

    def find(self, session: Session, cookie: str) -> OpenLogin | None:
        """The login of a cookie, if it holds and its operator may still operate."""
        digest = digest_of(cookie)
        login = session.scalar(select(Login).where(Login.cookie_hash == digest))
        if login is None or not hmac.compare_digest(login.cookie_hash, digest):
            return None
        idle = self._now() - login.last_seen
        if not -CLOCK_LEEWAY_S <= idle <= self._idle_s or self._now() - login.began > self._lifetime_s:
            return None
        operator = operator_of(session, login.token_id)
        if operator is None or SCOPE not in operator.scopes:
            return None
        return OpenLogin(login.id, operator, login.cookie_hash, login.csrf, is_stale=idle > NOTE_EVERY_S)

    def note_click(self, session: Session, login_id: int) -> None:
        """Let the idle time begin anew."""
        login = session.get(Login, login_id)
        if login is not None:
            login.last_seen = max(login.last_seen, self._now())

    def end(self, session: Session, login: OpenLogin) -> None:
        """Log out: the cookie is worth nothing any longer."""
        session.execute(delete(Login).where(Login.id == login.login_id))
        audit.record(session, login.operator.actor, "dashboard.logout", operator=login.operator.token_id)

"""Whether the audit log is whole, without reading all of it for every page."""

from __future__ import annotations

import time

from sqlalchemy.orm import Session

from ppcmi_server import audit


class CheckedChain:
    """Looks at the log, and keeps what it found for a few minutes."""

    AGE_S = 300.0

    def __init__(self) -> None:
        self._checked: tuple[float, str | None, audit.AuditState] | None = None

    def now(self, session: Session) -> audit.AuditState:
        """As of the newest event."""
        return self._look(session, audit.head(session))

    def lately(self, session: Session) -> audit.AuditState:
        """As of the last minutes."""
        return self._look(session, None if self._checked is None else self._checked[1])

    def _look(self, session: Session, head: str | None) -> audit.AuditState:
        if self._checked is None or self._checked[1] != head or time.monotonic() - self._checked[0] > self.AGE_S:
            self._checked = (time.monotonic(), audit.head(session), audit.verify(session))
        return self._checked[2]

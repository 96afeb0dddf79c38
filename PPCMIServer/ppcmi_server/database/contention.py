"""A database that is busy: a writer waited for others for too long. It is told to come back; nothing is broken."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from ppcmi_server.errors import RefusalError

RETRY_S = 2
POSTGRESQL_LOCKED = "55P03"
"""lock_not_available (PostgreSQL, appendix A)."""
_PRIMARY_CODE = 0xFF


def is_busy(error: BaseException) -> bool:
    """Whether a transaction did not come about because others were in the way; then nothing of it was kept."""
    if isinstance(error, PoolTimeoutError):
        return True
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, sqlite3.Error):
        return getattr(cause, "sqlite_errorcode", 0) & _PRIMARY_CODE == sqlite3.SQLITE_BUSY
    said = cause.args[0] if cause is not None and cause.args else None
    return isinstance(said, dict) and said.get("C") == POSTGRESQL_LOCKED  # as pg8000 has it


def database_busy() -> RefusalError:
    """503."""
    return RefusalError(
        503, "busy", "Busy", f"The server has too much to write at a time; try again in {RETRY_S} s.",
        {"Retry-After": str(RETRY_S)},
    )  # fmt: skip

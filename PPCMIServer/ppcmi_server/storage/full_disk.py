"""A full disk as those who write meet it: in the blob store, in SQLite, in PostgreSQL."""

from __future__ import annotations

import errno
import sqlite3

from sqlalchemy.exc import DBAPIError

from ppcmi_server.errors import RefusalError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
SQLITE_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE}
POSTGRESQL_FULL = "53100"
"""disk_full (PostgreSQL, appendix A)."""


def is_full(error: BaseException) -> bool:
    """Whether a write failed because there is no room."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, sqlite3.Error):
        return getattr(cause, "sqlite_errorcode", None) in SQLITE_FULL
    if isinstance(cause, OSError):
        return cause.errno in FULL
    said = cause.args[0] if cause is not None and cause.args else None
    return isinstance(said, dict) and said.get("C") == POSTGRESQL_FULL  # as pg8000 has it


def storage_full() -> RefusalError:
    """507: what was sent cannot be stored now (RFC 4918, section 11.5)."""
    return RefusalError(
        507, "storage", "Insufficient storage",
        "The server has no room to store this; nothing of it was kept. Tell its operator, and try again later.",
    )  # fmt: skip

"""A full disk and a busy database, whichever call meets them: 507 and 503 instead of an internal error."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from ppcmi_server.api.problems import problem
from ppcmi_server.database.contention import database_busy, is_busy
from ppcmi_server.errors import RefusalError
from ppcmi_server.storage.full_disk import is_full, storage_full


def refusal_of(error: BaseException) -> RefusalError | None:
    """What a full disk or a busy database is answered with; None for another failure."""
    if is_full(error):
        return storage_full()
    return database_busy() if is_busy(error) else None


def add_storage_handlers(app: FastAPI) -> None:
    """Answer what comes of a full disk or a busy database; other failures stay internal errors."""
    for kind in (OSError, DBAPIError, PoolTimeoutError):
        app.add_exception_handler(kind, _from_failed_write)


async def _from_failed_write(_: Request, error: Exception) -> JSONResponse:
    refusal = refusal_of(error)
    if refusal is None:
        raise error
    return problem(refusal.status, refusal.kind, refusal.title, refusal.detail, refusal.headers)

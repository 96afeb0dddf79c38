"""A full disk, whichever call meets it: 507 instead of an internal error."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DBAPIError

from ppcmi_server.api.problems import problem
from ppcmi_server.storage.full_disk import is_full, storage_full


def add_storage_handlers(app: FastAPI) -> None:
    """Answer what a full disk makes of writes to blobs and database; other failures stay internal errors."""
    app.add_exception_handler(OSError, _from_failed_write)
    app.add_exception_handler(DBAPIError, _from_failed_write)


async def _from_failed_write(_: Request, error: Exception) -> JSONResponse:
    if not is_full(error):
        raise error
    full = storage_full()
    return problem(full.status, full.kind, full.title, full.detail)

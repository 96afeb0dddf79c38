"""Every error as a problem document (RFC 9457); nothing internal is ever in one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ppcmi.errors import BundleError, DeviceMemoryError, KeyMismatchError, PpcmiError, TrainingError, WriteError
from ppcmi_server.api.documents import Document
from ppcmi_server.errors import RefusalError

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:ppcmi:problem:"

DECLARED = {"body", *(name for document in Document.__subclasses__() for name in document.model_fields)}
"""Names that the protocol has."""

_STATUS_OF: Mapping[type[PpcmiError], tuple[int, str]] = {
    BundleError: (422, "invalid"),
    KeyMismatchError: (409, "key-mismatch"),
    TrainingError: (503, "model-unusable"),
    DeviceMemoryError: (503, "memory"),
    WriteError: (507, "storage"),
}


def problem(status: int, kind: str, title: str, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """A problem document."""
    document = {"type": TYPE_PREFIX + kind, "title": title, "status": status, "detail": detail}
    return JSONResponse(document, status, {**(headers or {}), "Content-Type": MEDIA_TYPE})


def internal_error() -> JSONResponse:
    """500; what happened is in the server's log, under the answer's request id."""
    return problem(500, "internal", "Internal error", "The server failed; tell its operator the answer's X-Request-ID.")


def add_handlers(app: FastAPI) -> None:
    """Answer every exception that a request can meet."""
    app.add_exception_handler(PpcmiError, _from_ppcmi_error)
    app.add_exception_handler(RequestValidationError, _from_validation)
    app.add_exception_handler(HTTPException, _from_http)


def describe_problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's description of the problems that a route may answer with."""
    return {
        status: {
            "description": _phrase(status),
            "content": {MEDIA_TYPE: {"schema": PROBLEM_SCHEMA, "example": _example(status)}},
        }
        for status in statuses
    }


COMMON = (400, 408, 413, 415, 429, 503)
"""What any route may answer, whatever it does: see overload, request_heads, bodies and rates."""


def add_common_problems(description: dict[str, Any]) -> dict[str, Any]:
    """The same OpenAPI description, with the problems that every route may answer with."""
    common = {str(status): answer for status, answer in describe_problems(*COMMON).items()}
    for methods in description["paths"].values():
        for operation in methods.values():
            operation["responses"] = {**common, **operation["responses"]}
    return description


PROBLEM_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
}


def _example(status: int) -> dict[str, Any]:
    return {
        "type": f"{TYPE_PREFIX}example",
        "title": _phrase(status),
        "status": status,
        "detail": "One sentence: what is wrong and what to do.",
    }


async def _from_ppcmi_error(_: Request, error: Exception) -> JSONResponse:
    if isinstance(error, RefusalError):
        return problem(error.status, error.kind, error.title, error.detail, error.headers)
    for kind, (status, name) in _STATUS_OF.items():
        if isinstance(error, kind):
            return problem(status, name, _phrase(status), str(error))
    return internal_error()


async def _from_validation(_: Request, error: Exception) -> JSONResponse:
    first = error.errors()[0] if isinstance(error, RequestValidationError) else {}
    where = ".".join(_location(first.get("loc", ()))) or "request"
    return problem(422, "invalid", "Not valid", f"{where}: {first.get('msg', 'is not valid')}"[:300])


def _location(parts: Sequence[str | int]) -> Iterator[str]:
    """Where in a request something is wrong, without any name that the request itself brought along."""
    for part in parts:
        declared = isinstance(part, int) or part in DECLARED or parts[0] != "body"
        yield str(part) if declared else "(unknown)"


async def _from_http(_: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        return internal_error()
    phrase = _phrase(error.status_code)
    kind = phrase.lower().replace(" ", "-")
    return problem(error.status_code, kind, phrase, _DETAILS.get(error.status_code, phrase + "."), error.headers)


def _phrase(status: int) -> str:
    """RFC 9110's name of a status; Python learned two of them with 3.13, and a problem's type must not change then."""
    return {413: "Content Too Large", 422: "Unprocessable Content"}.get(status, HTTPStatus(status).phrase)


_DETAILS: Mapping[int, str] = {
    400: "The request's body cannot be read; it is JSON.",
    404: "There is nothing at this address; see /openapi.json.",
    405: "This address does not know the method; see /openapi.json.",
    408: "The request's body did not arrive in time; try again.",
    413: "The request's body is larger than allowed; send less at a time.",
}

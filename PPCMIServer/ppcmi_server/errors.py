"""Errors of the server: what an operator can cause, and what a request can.

As in :mod:`ppcmi.errors`, the text never holds a path, a key or a token.
"""

from __future__ import annotations

from collections.abc import Mapping

from ppcmi.errors import PpcmiError


class OperatorError(PpcmiError):
    """The server's folder, options or state do not allow what its operator asked for."""

    exit_code = 14


class RefusalError(PpcmiError):
    """A request that is answered with a problem document (RFC 9457).

    :param kind: short name of the problem, the end of the document's ``type``.
    :param detail: one sentence: what is wrong and what to do.
    """

    def __init__(
        self, status: int, kind: str, title: str, detail: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(f"{title}: {detail}")
        self.status = status
        self.kind = kind
        self.title = title
        self.detail = detail
        self.headers = dict(headers or {})


def unauthorized(kind: str, detail: str) -> RefusalError:
    """401."""
    return RefusalError(401, kind, "Not authorized", detail, {"WWW-Authenticate": "Bearer"})


def not_found(what: str) -> RefusalError:
    """404: it does not exist, or is not the caller's; the two are not told apart."""
    return RefusalError(404, "not-found", "Not found", f"There is no such {what} for you; check its name.")


def forbidden(detail: str) -> RefusalError:
    """403."""
    return RefusalError(403, "forbidden", "Not allowed", detail)


def conflict(kind: str, detail: str) -> RefusalError:
    """409."""
    return RefusalError(409, kind, "Conflict", detail)


def unprocessable(detail: str) -> RefusalError:
    """422."""
    return RefusalError(422, "invalid", "Not valid", detail)

"""Why a call to the server gave nothing: what requests raises, and what a server answers, as typed errors.

Callers tell causes apart by type; the texts are for people only. What a peer wrote is made fit for one line.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from typing import Any

import requests

from ppcmi.errors import ConnectionFailedError, ServerRefusedError

PROBLEM_PREFIX = "urn:ppcmi:problem:"
"""Begins the ``type`` of the server's own problem documents."""

UNAUTHORIZED = 401
REVOKED, EXPIRED, ENDED = "revoked", "expired", "token-ended"


class CertificateError(ConnectionFailedError):
    """The server's certificate is not trusted, or the file of the authority to trust is not usable."""


class OffProtocolError(ConnectionFailedError):
    """Something answers at the address, but not as the protocol says."""

    def __init__(
        self, sentence: str = "The server's answer is not what the protocol says; is it a PPCMI server?"
    ) -> None:
        super().__init__(sentence)


class ProtocolVersionError(ConnectionFailedError):
    """A PPCMI server of another version of the protocol."""


class TokenRefusedError(ServerRefusedError):
    """The server does not know the caller's token, or there was none."""


class TokenRevokedError(TokenRefusedError):
    """The server knows the token, and its operator has ended the site's access."""


class TokenEndedError(TokenRefusedError):
    """The server knows the token: it was replaced or revoked, or its time is over; the site is welcome."""


class FailedCallError(Exception):
    """No whole answer came. ``error`` is what the caller gets in the end; ``passing`` if another try may help."""

    def __init__(self, error: ConnectionFailedError, *, passing: bool) -> None:
        super().__init__(str(error))
        self.error = error
        self.passing = passing


def failed_call(error: Exception) -> FailedCallError:
    """What an exception of requests, or of a socket, means."""
    if _has_cause(error, ssl.SSLCertVerificationError):
        return FailedCallError(
            CertificateError(
                "The server's certificate is not trusted; ask its operator for the certificate authority, for --ca."
            ),
            passing=False,
        )
    if isinstance(error, requests.exceptions.SSLError):
        return FailedCallError(
            OffProtocolError("What answers at this address does not speak TLS as https does; check address and port."),
            passing=False,
        )
    if isinstance(error, requests.exceptions.ProxyError):
        sentence = "The proxy does not let the connection through; ask your network's people."
    elif isinstance(error, requests.exceptions.ConnectTimeout | requests.exceptions.ReadTimeout):
        sentence = "The server does not answer in time; try again later."
    else:
        sentence = "The server cannot be reached; check its address and that it runs."
    return FailedCallError(ConnectionFailedError(sentence), passing=True)


def refusal(status: int, body: bytes) -> ServerRefusedError | ConnectionFailedError:
    """What an answer that is no success means."""
    if 300 <= status < 400:
        return OffProtocolError("The server sends callers elsewhere; use the address that it really has.")
    try:
        problem = json.loads(body)
        title, detail, kind = problem["title"], problem.get("detail") or "", problem.get("type")
    except (ValueError, KeyError, TypeError, AttributeError):
        title, detail, kind = f"The server refused with status {status}", "", None
    error = ServerRefusedError
    if status == UNAUTHORIZED:
        error = _OF_TOKENS.get(str(kind).removeprefix(PROBLEM_PREFIX), TokenRefusedError)
    return error(status, _one_line(title), _one_line(detail))


_OF_TOKENS: Mapping[str, type[ServerRefusedError]] = {
    REVOKED: TokenRevokedError,
    EXPIRED: TokenEndedError,
    ENDED: TokenEndedError,
}


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the server asks to wait; zero if it does not say."""
    try:
        return max(0.0, float(headers.get("Retry-After", "0")))
    except ValueError:
        return 0.0


def _has_cause(error: BaseException, kind: type[BaseException]) -> bool:
    """Whether an error is of ``kind``, or wraps one: requests and urllib3 keep the cause among their arguments."""
    waiting, seen = [error], 0
    while waiting and seen < 20:
        current, seen = waiting.pop(), seen + 1
        if isinstance(current, kind):
            return True
        inner = [current.__cause__, getattr(current, "reason", None), *current.args]
        waiting += [cause for cause in inner if isinstance(cause, BaseException)]
    return False


def _one_line(text: Any) -> str:
    """Text fit for a terminal: printable, one line, bounded."""
    return "".join(c if c.isprintable() else " " for c in str(text))[:500]

"""What a request's head may not ask for, whatever the route: refused before anything else looks at it.

- a body that is compressed (RFC 9110, section 8.4): there is nothing here that could unpack a bomb, and nothing will;
- a body whose end is given twice, by Content-Length and by Transfer-Encoding (RFC 9112, section 6.3): a proxy in front
  might take the other end, and read the rest as a request of somebody else.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from ppcmi_server.api.problems import problem

CLOSE = {"Connection": "close"}


class RequestHeads:
    """ASGI middleware, see the module."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        if "content-length" in headers and "transfer-encoding" in headers:
            detail = "The request gives its length twice; send Content-Length or Transfer-Encoding."
            await problem(400, "bad-request", "Bad Request", detail, CLOSE)(scope, receive, send)
        elif any(coding.strip().lower() not in ("", "identity") for coding in _codings(headers)):
            detail = "The request's body is compressed; send it as it is."
            await problem(415, "encoding", "Unsupported Media Type", detail, CLOSE)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _codings(headers: Headers) -> list[str]:
    return [coding for value in headers.getlist("content-encoding") for coding in value.split(",")]

"""A bound on the requests under way at the same time, whatever they do; above it the answer is 503 at once."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from ppcmi_server.api.problems import problem

RETRY_AFTER_S = "2"


class Overload:
    """ASGI middleware, see the module."""

    def __init__(self, app: ASGIApp, requests: int) -> None:
        self._app = app
        self._free = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._free <= 0:
            detail = f"The server has too many requests at a time; try again in {RETRY_AFTER_S} s."
            await problem(503, "busy", "Busy", detail, {"Retry-After": RETRY_AFTER_S})(scope, receive, send)
            return
        self._free -= 1  # one event loop: nothing comes between
        try:
            await self._app(scope, receive, send)
        finally:
            self._free += 1

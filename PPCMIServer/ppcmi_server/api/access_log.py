"""The outermost layer: request ids, safe headers, one log line a request, and 500 for what nobody caught.

A line holds method, route template, status, milliseconds and request id: no address, query, header or name.
"""

from __future__ import annotations

import logging
import secrets
import time
import traceback

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ppcmi_server.api.problems import internal_error
from ppcmi_server.metrics import Metrics

LOG = logging.getLogger("ppcmi_server.access")
ERRORS = logging.getLogger("ppcmi_server.errors")
DISCONNECTED = 499
HEADERS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]


class AccessLog:
    """ASGI middleware, see the module."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id, started, status = secrets.token_hex(8), time.perf_counter(), 0

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                extra = [*HEADERS, (b"x-request-id", request_id.encode())]
                message = {**message, "headers": [*message.get("headers", []), *extra]}
            await send(message)

        try:
            await self._app(scope, receive, send_marked)
        except ClientDisconnect:
            status = DISCONNECTED
        except Exception as error:
            ERRORS.error("%s %s", request_id, _where(error))
            if not status:
                await internal_error()(scope, receive, send_marked)
        finally:
            route = getattr(scope.get("route"), "path", "-")
            seconds = time.perf_counter() - started
            self._metrics.request(route, scope["method"], status, seconds)
            method = scope["method"] if scope["method"].isalpha() and len(scope["method"]) < 10 else "-"
            LOG.info("%s %s %d %.1fms %s", method, route, status, 1000 * seconds, request_id)


def _where(error: BaseException) -> str:
    """Kind and place of an error, without its text: that may hold anything."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    places = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames))
    return f"{type(error).__name__} at {places}"

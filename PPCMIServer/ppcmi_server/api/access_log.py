"""The outermost layer: request ids, safe headers, one log line a request, and 500 for what nobody caught.

A line holds method, route template, status, milliseconds and request id: no address, query, header or name.
"""

from __future__ import annotations

import logging
import secrets
import time

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ppcmi_server.api.problems import internal_error
from ppcmi_server.operation.logs import REQUEST_ID, log_error
from ppcmi_server.operation.metrics import Metrics

LOG = logging.getLogger("ppcmi_server.access")
DISCONNECTED = 499
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
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
        serving = REQUEST_ID.set(request_id)

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
            log_error("unexpected", error)
            if not status:
                await internal_error()(scope, receive, send_marked)
        finally:
            route = getattr(scope.get("route"), "path", "-")
            seconds = time.perf_counter() - started
            self._metrics.request(route, scope["method"], status, seconds)
            method = scope["method"] if scope["method"] in METHODS else "-"
            fields = {"method": method, "route": route, "status": status, "ms": round(1000 * seconds, 1)}
            LOG.info("request", extra={"fields": fields})
            REQUEST_ID.reset(serving)

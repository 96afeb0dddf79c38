"""Connections: how many there may be, and how long a client may take for what comes before and after a request.

uvicorn waits for a request's head, for the rest of a body that nobody wants, and for a client that does not read its
answer, as long as they please. Here each of these has a deadline. A request's body has its own, in
:mod:`ppcmi_server.api.bodies`. What TLS's handshake may take, the event loop has to be told.

::

    accepted -> (TLS) -> head -> request under way -> answer -> idle -> head -> ...
               header_seconds                        answer_seconds  keep_alive_seconds

When there are too many connections, the one that has waited longest without a request under way makes room: whoever
opens them slowly on purpose pushes out their own.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ppcmi_server.access.client_certificate import with_client_certificate
from ppcmi_server.settings import ServeSettings

PIECES, PIECE_BYTES = 1000, 64
"""A body in more pieces than that has so many bytes in each, on average: every piece costs the server the same."""

MALFORMED = {
    "type": "urn:ppcmi:problem:bad-request",
    "title": "Bad Request",
    "status": 400,
    "detail": "This is not a request that HTTP/1.1 knows; send another.",
}


class ServingConfig(uvicorn.Config):
    """uvicorn's configuration with deadlines for connections.

    :param serve: ``header_seconds``, ``keep_alive_seconds`` and ``connections`` count here.
    :param answer_seconds: how long a client may take to read one answer, and to send the rest of a body that was
        answered before it was all there.
    :param options: uvicorn's own.

    Example::

        uvicorn.Server(ServingConfig(app, config.serve, config.limits.body_seconds, access_log=False)).run()
    """

    def __init__(self, app: Any, serve: ServeSettings, answer_seconds: float, **options: Any) -> None:
        options.setdefault("timeout_keep_alive", max(1, round(serve.keep_alive_seconds)))
        super().__init__(app, http=DeadlineProtocol, **options)
        self.header_seconds = serve.header_seconds
        self.answer_seconds = answer_seconds
        self.most_connections = serve.connections
        self.waiting: dict[DeadlineProtocol, None] = {}

    def get_loop_factory(self) -> Callable[[], asyncio.AbstractEventLoop]:
        """A loop that ends a TLS handshake that takes too long."""
        return lambda: _HandshakeLoop(self.header_seconds)


class DeadlineProtocol(H11Protocol):
    """One connection, see the module."""

    config: ServingConfig

    def __init__(self, config: ServingConfig, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)
        self.conn = _BoundedConnection(h11.SERVER)
        self._head = _Deadline(self.loop, self._abort)
        self._rest = _Deadline(self.loop, self._abort)
        self._answer = _Deadline(self.loop, self._abort)

    # ---- as asyncio calls them

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count it, and wait for the first request's head."""
        super().connection_made(transport)
        self.app_state = with_client_certificate(self.app_state, transport)
        if len(self.connections) > self.config.most_connections:
            longest = next(iter(self.config.waiting), self)
            longest._abort()  # another one of these
            if longest is self:
                return
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        for deadline in (self._head, self._rest, self._answer):
            deadline.cancel()
        self.config.waiting.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some of a head or a body."""
        super().data_received(data)
        self._look()

    def pause_writing(self) -> None:
        """The client reads slower than the server writes."""
        super().pause_writing()
        self._answer.start(self.config.answer_seconds)

    def resume_writing(self) -> None:
        """The client has read; an answer that is not whole yet keeps its deadline."""
        super().resume_writing()
        if not self._is_under_way() and not self.transport.is_closing():
            self._answer.cancel()

    # ---- as uvicorn calls them

    def on_response_complete(self) -> None:
        """An answer is written, though not all of it may have been read."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._close_surely()
        else:
            self._look()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing came on an idle connection."""
        super().timeout_keep_alive_handler()
        self._close_surely()

    def send_400_response(self, msg: str) -> None:
        """What cannot be read as HTTP gets a problem document too, unless another answer is half written."""
        answerable = self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE)
        if self._is_under_way():  # its handler sees that the client is gone, and writes no more
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if answerable:
            body = json.dumps(MALFORMED).encode()
            headers = {
                "Content-Type": "application/problem+json",
                "Content-Length": str(len(body)),
                "Connection": "close",
            }
            for event in (h11.Response(status_code=400, headers=[*headers.items()]), h11.Data(data=body)):
                self.transport.write(self.conn.send(event) or b"")
        self._close_surely()
        self.transport.close()

    # ---- deadlines

    def _is_under_way(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _look(self) -> None:
        """Start or end the waits for a head, and for the rest of a body that was answered before it was all there."""
        if self.transport.is_closing():
            return
        if self._is_under_way():
            self._head.cancel()
            self._rest.cancel()
            self.config.waiting.pop(self, None)
            return
        self.config.waiting.setdefault(self)
        if not self.flow.write_paused:
            self._answer.cancel()
        if self.conn.their_state is h11.SEND_BODY:
            self._rest.start(self.config.answer_seconds)
            return
        self._rest.cancel()
        if self.timeout_keep_alive_task is None:
            self._head.start(self.config.header_seconds)
        else:  # idle: uvicorn's own timer runs
            self._head.cancel()

    def _close_surely(self) -> None:
        """A transport that closes waits for what it still has to send; not for ever."""
        self._answer.start(self.config.header_seconds)

    def _abort(self) -> None:
        self.config.waiting.pop(self, None)
        if self.transport is not None:
            self.transport.abort()


class _BoundedConnection(h11.Connection):
    """h11's state machine, which refuses a body in very many very small chunks."""

    def __init__(self, our_role: type[h11.SERVER]) -> None:
        super().__init__(our_role)
        self._pieces = self._bytes = 0

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """As h11's.

        :raises h11.RemoteProtocolError: also if the body's pieces are too small.
        """
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._pieces = self._bytes = 0
        elif isinstance(event, h11.Data):
            self._pieces += 1
            self._bytes += len(event.data)
            if self._pieces > PIECES and self._bytes < PIECE_BYTES * self._pieces:
                raise h11.RemoteProtocolError("the body comes in pieces that are too small")
        return event


class _Deadline:
    """Calls ``late`` after so many seconds, unless it is cancelled; starting it again changes nothing."""

    def __init__(self, loop: asyncio.AbstractEventLoop, late: Callable[[], None]) -> None:
        self._loop = loop
        self._late = late
        self._handle: asyncio.TimerHandle | None = None

    def start(self, seconds: float) -> None:
        if self._handle is None:
            self._handle = self._loop.call_later(seconds, self._late)

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


class _HandshakeLoop(asyncio.SelectorEventLoop):
    """An event loop whose servers end a TLS handshake after so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._handshake_seconds = seconds

    async def create_server(self, *args: Any, **options: Any) -> asyncio.Server:
        """As asyncio's."""
        if options.get("ssl") is not None:
            options.setdefault("ssl_handshake_timeout", self._handshake_seconds)
        return await super().create_server(*args, **options)

"""Request bodies: capped by counting bytes as they come, whatever Content-Length says, and not for ever.

JSON routes use :class:`JsonRoute`, whose bodies are small. Routes with binary bodies use :class:`BinaryRoute` and read
the body themselves, after the caller is known, with :func:`read_body`, :func:`receive_chunks` or :func:`receive_blob`.
"""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from typing import Any, TypeVar

from anyio import CancelScope
from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from ppcmi.errors import PpcmiError
from ppcmi_server.database.contention import is_busy
from ppcmi_server.errors import RefusalError, unprocessable
from ppcmi_server.settings import MEMORY_OF_A_BYTE, Limits
from ppcmi_server.storage.blobs import BlobStore
from ppcmi_server.storage.full_disk import is_full

OCTETS = "application/octet-stream"
PIECE_BYTES = 256 << 10
OCTETS_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {OCTETS: {"schema": {"type": "string", "format": "binary"}, "example": "(bytes)"}},
    }
}
OCTETS_ANSWER: dict[str, Any] = {
    "description": "Bytes",
    "content": {OCTETS: {"schema": {"type": "string", "format": "binary"}, "example": "(bytes)"}},
}

Entered = TypeVar("Entered")
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class JsonRoute(APIRoute):
    """A route with a JSON body, or none."""

    def get_route_handler(self) -> Handler:
        """The handler, behind the cap."""
        handle = super().get_route_handler()

        async def capped(request: Request) -> Response:
            limits = _limits_of(request)
            receive = _capped(request.receive, limits.json_bytes, limits.idle_seconds, limits.body_seconds)
            return await handle(Request(request.scope, receive))

        return capped


class BinaryRoute(APIRoute):
    """A route that reads its body itself."""


class BodyMemory:
    """How much memory binary bodies and what is unpacked from them take, all requests together."""

    def __init__(self, total: int) -> None:
        self._left = total
        self._lock = threading.Lock()

    @property
    def left(self) -> int:
        """Bytes that are not taken."""
        return self._left

    @contextmanager
    def account(self) -> Iterator[Callable[[int], None]]:
        """A function to call with the size of each piece of a body; what it took is given back when the context ends.

        The function raises a :class:`RefusalError` (503) when there is no room.
        """
        taken = 0

        def take(body_bytes: int) -> None:
            nonlocal taken
            count = MEMORY_OF_A_BYTE * body_bytes
            with self._lock:
                if count > self._left:
                    raise RefusalError(
                        503, "busy", "Busy", "The server has too many uploads at a time; try again in 2 s.",
                        {"Retry-After": "2"},
                    )  # fmt: skip
                self._left -= count
                taken += count

        try:
            yield take
        finally:
            with self._lock:
                self._left += taken


async def receive_chunks(request: Request, limit: int, idle_seconds: float) -> AsyncIterator[bytes]:
    """A body piece by piece.

    :raises HTTPException: 413 above ``limit`` bytes, 408 after ``idle_seconds`` without a byte, or when it takes longer
        than limits.body_seconds as a whole.
    """
    receive = _capped(request.receive, limit, idle_seconds, _limits_of(request).body_seconds)
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        if chunk := message.get("body", b""):
            yield chunk
        more = message.get("more_body", False)


async def read_body(request: Request, limit: int, idle_seconds: float, take: Callable[[int], None]) -> bytes:
    """A body as a whole, without a second copy of it; ``take`` from :meth:`BodyMemory.account`."""
    body = io.BytesIO()
    async for chunk in receive_chunks(request, limit, idle_seconds):
        take(len(chunk))
        body.write(chunk)
    return body.getvalue()  # CPython hands its buffer over, as nothing is written any more


async def receive_blob(request: Request, blobs: BlobStore, name: str, limit: int, what: str) -> int:
    """A body as a blob, written piece by piece as it comes; its bytes. Of one that fails nothing is left.

    :param what: the body is, in a word, for whoever sent none.
    :raises HTTPException: as :func:`receive_chunks`.
    :raises RefusalError: 422 without a byte.
    """
    size = 0
    async with _in_threads(blobs.writing(name)) as file:
        async for chunk in receive_chunks(request, limit, _limits_of(request).idle_seconds):
            size += len(chunk)
            await run_in_threadpool(file.write, chunk)
        if size == 0:
            raise unprocessable(f"The request has no body; send the encrypted {what}.")
    return size


@contextmanager
def deleted_if_refused(blobs: BlobStore, name: str) -> Iterator[None]:
    """Where the row that names a received blob is written: a blob that gets none is deleted again."""
    try:
        yield
    except PpcmiError:  # things are not as they were when the body began
        blobs.delete(name)
        raise
    except SQLAlchemyError as error:
        if is_full(error) or is_busy(error):  # else it may have been kept all the same; what was not, the sweep finds
            blobs.delete(name)
        raise


def answer_with_blob(blobs: BlobStore, name: str, headers: Mapping[str, str]) -> StreamingResponse:
    """A blob as an answer, read piece by piece.

    :raises FileNotFoundError: if there is none.
    """
    chunks = blobs.chunks(name)
    first = next(chunks, b"")  # what cannot be read fails here, not in the middle of an answer
    return StreamingResponse(_joined(first, chunks), media_type=OCTETS, headers=dict(headers))


def declared_size(request: Request) -> int:
    """How many bytes a body says that it has; 0 if it does not say."""
    length = request.headers.get("Content-Length", "")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 20 else 0


class OctetsInPieces(Response):
    """Bytes as an answer, handed over as fast as the client reads: no second copy waits in the connection."""

    media_type = OCTETS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        body = memoryview(self.body)
        for start in range(0, max(1, len(body)), PIECE_BYTES):
            piece = bytes(body[start : start + PIECE_BYTES])
            more = start + PIECE_BYTES < len(body)
            await send({"type": "http.response.body", "body": piece, "more_body": more})


@asynccontextmanager
async def _in_threads(context: AbstractContextManager[Entered]) -> AsyncIterator[Entered]:
    """A context that is entered and left in a thread: for the disk or the store that it waits for, no other site does.

    It is left also when the request is cancelled.
    """
    entered = await run_in_threadpool(context.__enter__)
    try:
        yield entered
    except BaseException as error:
        with CancelScope(shield=True):
            await run_in_threadpool(context.__exit__, type(error), error, error.__traceback__)
        raise
    await run_in_threadpool(context.__exit__, None, None, None)


def _joined(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _limits_of(request: Request) -> Limits:
    limits: Limits = request.app.state.services.config.limits
    return limits


def _capped(receive: Receive, limit: int, idle_seconds: float, body_seconds: float) -> Receive:
    received, end = 0, time.monotonic() + body_seconds

    async def capped() -> Message:
        nonlocal received
        try:
            message = await asyncio.wait_for(receive(), min(idle_seconds, end - time.monotonic()))
        except TimeoutError:
            raise HTTPException(408, headers={"Connection": "close"}) from None
        received += len(message.get("body", b""))
        if received > limit:
            raise HTTPException(413, headers={"Connection": "close"})
        return message

    return capped

"""Processes that a test kills, at once or at a step of its choice, as ``kill -9`` does.

They are forked from one that has imported everything already, so that a start takes a fraction of a second. A step is a
change of a file (opened to write, renamed, removed) or of an S3 object, a transaction that is about to be kept, or an
answer that is about to be sent: what a crash can come between.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import uvicorn
from sqlalchemy import Engine, event
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ppcmi_server.app import create_app
from ppcmi_server.config import load_config
from ppcmi_server.services import open_services

START_S = 60
_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(["support.killable", "support.uploads", "ppcmi_server.training.worker"])
_FILE_EVENTS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"}


def start_process(work: Callable[..., None], *arguments: object) -> multiprocessing.process.BaseProcess:
    """A process that does ``work``, a function of a module."""
    process = _FORKING.Process(target=work, args=arguments, daemon=True)
    process.start()
    return process


class KillableServer:
    """A server on loopback in a process of its own; its address stays the same over restarts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0
        self.starts = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def start(self) -> None:
        """Serve; returns when it answers."""
        self._control, theirs = _FORKING.Pipe()
        self._process = start_process(_serve, self.folder, self.port, theirs, dict(os.environ))
        theirs.close()
        assert self._control.poll(START_S), "the server did not start"
        self.port = self._control.recv()
        self.starts += 1

    def die_at(self, step: int) -> None:
        """Be killed when it is about to do its ``step``-th step from now; 0 for never."""
        self._control.send(step)
        assert self._control.recv() == step

    def spare(self) -> bool:
        """Be killed at no step any more; False if it was before it heard of it: others' calls are steps, too."""
        try:
            self.die_at(0)
        except (EOFError, OSError):
            return False
        return True

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    def died(self) -> bool:
        """Whether it was killed, or is about to be gone."""
        self._process.join(0.2)
        return not self._process.is_alive()

    def kill(self) -> None:
        """``kill -9``."""
        self._process.kill()
        self._process.join(10)

    def restart(self) -> None:
        self.kill()
        self.start()


@contextmanager
def killable_server(folder: Path) -> Iterator[KillableServer]:
    """Serve the server in ``folder`` until the context ends."""
    server = KillableServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()


class _Steps:
    """Counts steps, and ends the process at one of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._left = 0
        self._lock = threading.Lock()

    def die_at(self, step: int) -> None:
        with self._lock:
            self._left = step

    def take(self, *_: object) -> None:
        with self._lock:
            if self._left:
                self._left -= 1
                if not self._left:
                    os.kill(os.getpid(), signal.SIGKILL)

    def audit(self, name: str, arguments: tuple[Any, ...]) -> None:
        """A hook of :func:`sys.addaudithook`."""
        if name == "open":
            path, mode, flags = arguments
            writes = bool(flags & (os.O_WRONLY | os.O_RDWR))
            makes_durable = mode is None and not writes and self._is_ours(path) and Path(path).is_dir()
            if self._is_ours(path) and (writes or makes_durable):
                self.take()
        elif name in _FILE_EVENTS and self._is_ours(arguments[0]):
            self.take()

    def _is_ours(self, path: object) -> bool:
        return isinstance(path, str | Path) and str(path).startswith(self._folder)


class _Answering:
    """ASGI middleware: an answer to a call that changes something is a step."""

    def __init__(self, app: ASGIApp, steps: _Steps) -> None:
        self._app = app
        self._steps = steps

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start" and scope["method"] != "GET":
                self._steps.take()
            await send(message)

        await self._app(scope, receive, counted)


def _count_objects(files: Any, steps: _Steps) -> None:
    """Every call that changes something in an S3 store becomes a step."""
    call = files._call_s3

    async def counted(method: str, *arguments: object, **options: object) -> object:
        if not method.startswith(("get_", "head_", "list_")):
            steps.take()
        return await call(method, *arguments, **options)

    files._call_s3 = counted


def _serve(folder: Path, port: int, control: Connection, environment: dict[str, str]) -> None:
    os.environ.update(environment)  # the process that this one is forked from has an older one
    steps = _Steps(folder)
    config = load_config(folder).on_device("cpu")
    services = open_services(config)
    if not services.blobs.is_local:
        _count_objects(services.blobs._files, steps)
    app = create_app(config, services)
    server = uvicorn.Server(uvicorn.Config(_Answering(app, steps), port=port, log_config=None))

    def obey() -> None:
        while not server.started:
            time.sleep(0.005)
        control.send(server.servers[0].sockets[0].getsockname()[1])
        while True:
            step = control.recv()
            steps.die_at(step)
            control.send(step)

    sys.addaudithook(steps.audit)
    event.listen(Engine, "commit", steps.take)
    threading.Thread(target=obey, daemon=True).start()
    server.run()

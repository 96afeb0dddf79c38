"""A TCP forwarder in front of a server that lets so many bytes through and then is shut, as when a cable is pulled."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit


class Gate:
    """Forwards connections while it is open; ``url`` stays the same."""

    def __init__(self, server_url: str) -> None:
        parts = urlsplit(server_url)
        self._server = (parts.hostname, parts.port)
        self._left: int | None = None
        self._open: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self._port = 0
        self.reopen()
        self.url = f"http://127.0.0.1:{self._port}"

    def shut_after(self, count: int) -> None:
        """Shut once so many more bytes came from the client's side."""
        self._left = count

    def shut(self) -> None:
        """Nobody gets through any more."""
        listener, self._listener = self._listener, None
        for end in (listener, *self._open):
            if end is not None:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
        self._open.clear()

    def reopen(self) -> None:
        """Let everybody through."""
        self._left = None
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    @property
    def is_shut(self) -> bool:
        return self._listener is None

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
                server = socket.create_connection(self._server)
            except OSError:
                return
            self._open += [client, server]
            threading.Thread(target=self._forward, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._forward, args=(server, client, False), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        try:
            while data := source.recv(1 << 14):
                if counted and self._left is not None:
                    self._left -= len(data)
                    if self._left < 0:
                        self.shut()
                        return
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            with suppress(OSError):
                target.close()


@contextmanager
def gate_to(server_url: str) -> Iterator[Gate]:
    """A gate until the context ends."""
    gate = Gate(server_url)
    try:
        yield gate
    finally:
        gate.shut()

"""A line that is slow and cut again and again: every connection ends, and the next one may begin."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from support.gate import Gate

PIECE = 1 << 12


class BadLine(Gate):
    """Cuts every connection each time so many bytes came from the client's side.

    :param bytes_per_second: of all connections together, from the client's side.
    """

    def __init__(self, server_url: str, cut_every: int, bytes_per_second: float) -> None:
        self._cut_every = cut_every
        self._seconds_per_byte = 1 / bytes_per_second
        self._line = threading.Lock()
        self.passed = 0
        self.cuts = 0
        super().__init__(server_url)

    def _forward(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        try:
            while data := source.recv(PIECE):
                if counted:
                    self._take_time(len(data))
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            with suppress(OSError):
                target.close()

    def _take_time(self, count: int) -> None:
        with self._line:
            self.passed += count
            if self.passed // self._cut_every > self.cuts:
                self.cuts += 1
                for end in self._open:
                    with suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)
                self._open.clear()
            time.sleep(count * self._seconds_per_byte)


@contextmanager
def bad_line_to(server_url: str, cut_every: int, bytes_per_second: float) -> Iterator[BadLine]:
    """A bad line until the context ends."""
    line = BadLine(server_url, cut_every, bytes_per_second)
    try:
        yield line
    finally:
        line.shut()

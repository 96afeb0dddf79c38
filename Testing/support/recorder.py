"""A TCP forwarder that keeps every byte that a site sends, and a search for words in such bytes."""

from __future__ import annotations

import base64
import re
import socket
import threading
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

WINDOW = 8
BLOCK = 1 << 20
PIECE = 1 << 16
HASH_BITS = 22
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class Recorder:
    """Forwards connections to a server; ``sent`` is what came from the client's side."""

    def __init__(self, server_url: str) -> None:
        parts = urlsplit(server_url)
        self._server = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sent: list[bytes] = []
        self._lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def sent(self) -> bytes:
        with self._lock:
            return b"".join(self._sent)

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
            except OSError:
                return
            threading.Thread(target=self._forward, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._forward, args=(server, client, False), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, record: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                if record:
                    with self._lock:
                        self._sent.append(data)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            target.close()


@contextmanager
def recorder_of(server_url: str) -> Iterator[Recorder]:
    recorder = Recorder(server_url)
    try:
        yield recorder
    finally:
        recorder.close()


def appearances(word: str) -> list[bytes]:
    """How a word may look in bytes: as it is, in either case, UTF-16, hexadecimal, base64 at each alignment."""
    texts = {word, word.lower(), word.upper()}
    raw = {text.encode(code) for text in texts for code in ("utf-8", "utf-16-le", "utf-16-be")}
    hexadecimal = {form.hex().encode() for form in raw} | {form.hex().upper().encode() for form in raw}
    encoded = {_base64_core(form, shift) for form in raw for shift in range(3)}
    return sorted(raw | hexadecimal | encoded)


def found_in(data: bytes, words: Iterable[str]) -> set[str]:
    """Which of the words are in ``data``, or in what it holds compressed, in any of their :func:`appearances`."""
    return _found_in_plain(b"\x00".join((data, *inflated(data))), words)


def inflated(data: bytes) -> Iterator[bytes]:
    """What every zlib or gzip stream in ``data`` unpacks to; noise that looks like one gives little."""
    for match in re.finditer(rb"\x1f\x8b\x08|\x78[\x01\x5e\x9c\xda]", data):
        stream, position = zlib.decompressobj(wbits=47), match.start()
        while position < len(data) and not stream.eof:
            try:
                yield stream.decompress(data[position : position + PIECE])
            except zlib.error:
                break
            position += PIECE


def _found_in_plain(data: bytes, words: Iterable[str]) -> set[str]:
    """Which words are in ``data`` as it is.

    Thousands of forms in many megabytes: every eight bytes are looked up, by a hash, among the forms' first.
    """
    by_start: dict[bytes, list[tuple[bytes, str]]] = {}
    for word in words:
        for form in appearances(word):
            by_start.setdefault(form[:WINDOW], []).append((form, word))
    wanted = np.zeros(1 << HASH_BITS, dtype=bool)
    wanted[_hashes(b"".join(by_start))] = True
    found: set[str] = set()
    for shift in range(WINDOW):
        for block in range(shift, len(data) - WINDOW + 1, BLOCK):
            whole = min(BLOCK, len(data) - block) // WINDOW * WINDOW
            for index in np.flatnonzero(wanted[_hashes(data[block : block + whole])]):
                position = block + WINDOW * int(index)
                candidates = by_start.get(data[position : position + WINDOW], [])
                found |= {word for form, word in candidates if data.startswith(form, position)}
    return found


def _hashes(data: bytes) -> NDArray[np.uint64]:
    """A number of HASH_BITS bits for every eight bytes."""
    return (np.frombuffer(data, dtype="<u8") * MULTIPLIER) >> np.uint64(64 - HASH_BITS)


def _base64_core(data: bytes, shift: int) -> bytes:
    """The part of the base64 text of ``data`` after ``shift`` other bytes that does not depend on its neighbors."""
    text = base64.b64encode(bytes(shift) + data)
    first = -(-shift * 8 // 6)
    last = (shift + len(data)) * 8 // 6
    return text[first:last]

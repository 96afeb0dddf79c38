"""Content encrypted in records, written and read as a stream: nothing cut off, reordered or altered can be opened.

::

    salt (16) | record | record | ...      each AES-256-GCM of up to 1 MiB, the last one marked as the last

Every stream has a key of its own (HKDF-SHA256 over the given key, the salt and a context that says what it is), so a
record's number serves as its nonce. This is the STREAM construction (Hoang et al. 2015).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import IO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ppcmi_server.errors import OperatorError

RECORD_BYTES = 1 << 20
SALT_BYTES = 16
TAG_BYTES = 16
NONCE_BYTES = 12


class SealingFile:
    """A file to write to; what is written arrives encrypted in ``file`` once :meth:`finish` was called.

    :param context: what it is; the same is needed to open it.
    """

    def __init__(self, file: IO[bytes], key: bytes, context: bytes) -> None:
        salt = os.urandom(SALT_BYTES)
        self._file, self._cipher = file, _cipher(key, salt, context)
        self._waiting = bytearray()
        self._records = 0
        file.write(salt)

    def write(self, content: bytes) -> int:
        """Add content."""
        self._waiting += content
        whole = (len(self._waiting) - 1) // RECORD_BYTES * RECORD_BYTES  # the last record stays until it is known
        for start in range(0, whole, RECORD_BYTES):
            self._put(bytes(self._waiting[start : start + RECORD_BYTES]), b"more")
        del self._waiting[: max(0, whole)]
        return len(content)

    def flush(self) -> None:
        """Nothing: a record is written when it is full."""

    def finish(self) -> None:
        """Write the last record."""
        self._put(bytes(self._waiting), b"last")

    def _put(self, content: bytes, place: bytes) -> None:
        self._file.write(self._cipher.encrypt(_nonce(self._records), content, place))
        self._records += 1


def open_stream(pieces: Iterable[bytes], key: bytes, context: bytes) -> bytearray:
    """The content of a stream that comes in pieces of any size.

    :raises OperatorError: if it is cut off, altered, or another.
    """
    content, waiting, cipher, records = bytearray(), bytearray(), None, 0
    size = RECORD_BYTES + TAG_BYTES
    try:
        for piece in pieces:
            waiting += piece
            if cipher is None and len(waiting) >= SALT_BYTES:
                cipher = _cipher(key, bytes(waiting[:SALT_BYTES]), context)
                del waiting[:SALT_BYTES]
            while cipher is not None and len(waiting) > size:
                content += cipher.decrypt(_nonce(records), bytes(waiting[:size]), b"more")
                del waiting[:size]
                records += 1
        content += (cipher or _cipher(key, b"", context)).decrypt(_nonce(records), bytes(waiting), b"last")
    except (InvalidTag, ValueError) as error:
        raise OperatorError("Stored data is damaged or of another server; restore it from a backup.") from error
    return content


def _cipher(key: bytes, salt: bytes, context: bytes) -> AESGCM:
    return AESGCM(HKDF(algorithm=SHA256(), length=32, salt=salt, info=b"ppcmi stream|" + context).derive(key))


def _nonce(record: int) -> bytes:
    return record.to_bytes(NONCE_BYTES, "big")

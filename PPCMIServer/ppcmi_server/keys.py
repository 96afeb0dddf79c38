"""The server's own secrets, in files of mode 0600, and what follows from them.

The X25519 key agrees with each site on a link key, which is derived when needed and stored nowhere. The storage key
wraps a key of its own for each cohort: withdrawing a cohort deletes the wrapped key, and what was encrypted is gone.
"""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ppcmi import sealing
from ppcmi.files import write_atomically
from ppcmi_server.errors import OperatorError

KEY_BYTES = 32
NONCE_BYTES = 12
SEALED_BYTES = NONCE_BYTES + 16
"""What :func:`encrypt` adds to its content."""


@dataclass(frozen=True)
class ServerKeys:
    """The server's keys; never printed."""

    private_key: bytes = field(repr=False)
    storage_key: bytes = field(repr=False)

    @classmethod
    def create(cls, folder: Path) -> ServerKeys:
        """New keys, kept in ``folder``."""
        keys = cls(sealing.new_private_key(), os.urandom(KEY_BYTES))
        write_atomically(folder / "storage.key", base64.b64encode(keys.storage_key), mode=0o600)
        write_atomically(folder / "private.key", base64.b64encode(keys.private_key), mode=0o600)
        return keys

    @classmethod
    def load(cls, folder: Path) -> ServerKeys:
        """The keys in ``folder``.

        :raises OperatorError: if a key is missing, damaged, or readable by others.
        """
        return cls(_read(folder / "private.key"), _read(folder / "storage.key"))

    @property
    def public_key(self) -> bytes:
        """What sites seal to and agree with."""
        return sealing.public_key_of(self.private_key)

    def link_key(self, site_id: str, public_key: bytes, link_salt: bytes) -> bytes:
        """The 32 bytes that the server and a site agree on."""
        return sealing.agree(self.private_key, public_key, context=b"ppcmi link|" + site_id.encode() + b"|" + link_salt)

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """``key`` encrypted under the storage key, bound to ``context``."""
        return encrypt(self.storage_key, key, b"ppcmi cohort key|" + context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Undo :meth:`wrap`.

        :raises OperatorError: if it was wrapped with another storage key or context.
        """
        return decrypt(self.storage_key, wrapped, b"ppcmi cohort key|" + context)


def encrypt(key: bytes, content: bytes, context: bytes) -> bytes:
    """``nonce (12) | AES-256-GCM``; the nonce is random."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, content, context)


def decrypt(key: bytes, data: bytes, context: bytes) -> bytes:
    """Undo :func:`encrypt`.

    :raises OperatorError: if the data is damaged, or not what ``context`` says.
    """
    try:
        return AESGCM(key).decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], context)
    except (InvalidTag, ValueError) as error:
        raise OperatorError("Stored data is damaged or of another server; restore it from a backup.") from error


def _read(path: Path) -> bytes:
    try:
        if os.name == "posix" and path.stat().st_mode & 0o077:
            raise OperatorError("A key file of the server can be read by other users; set its mode to 0600.")
        key = base64.b64decode(path.read_bytes(), validate=True)
    except (OSError, ValueError) as error:
        raise OperatorError("A key file of the server is missing or damaged; restore it from a backup.") from error
    if len(key) != KEY_BYTES:
        raise OperatorError("A key file of the server is damaged; restore it from a backup.")
    return key

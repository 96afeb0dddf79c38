"""The server's own secrets, in files of mode 0600, and what follows from them.

The X25519 key agrees with each site on a link key, which is derived when needed and stored nowhere. The storage key
wraps a key of its own for each cohort: withdrawing a cohort deletes the wrapped key, and what was encrypted is gone.
How the files may be encrypted themselves is in :mod:`ppcmi_server.storage.key_files`.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
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


PRIVATE_KEY, STORAGE_KEY, NEXT_STORAGE_KEY = "private.key", "storage.key", "storage.key.next"
WRAPPED = b"wrapped:"


@dataclass(frozen=True)
class ServerKeys:
    """The server's keys; never printed.

    :param next_storage_key: while :func:`~ppcmi_server.storage.key_files.rotate_storage_key` is not done.
    """

    private_key: bytes = field(repr=False)
    storage_key: bytes = field(repr=False)
    next_storage_key: bytes | None = field(default=None, repr=False)

    @classmethod
    def create(cls, folder: Path) -> ServerKeys:
        """New keys, kept in ``folder``."""
        keys = cls(sealing.new_private_key(), os.urandom(KEY_BYTES))
        write_atomically(folder / STORAGE_KEY, wrapped_text(STORAGE_KEY, keys.storage_key, None), mode=0o600)
        write_atomically(folder / PRIVATE_KEY, wrapped_text(PRIVATE_KEY, keys.private_key, None), mode=0o600)
        return keys

    @classmethod
    def load(cls, folder: Path, key_file: Path | None = None) -> ServerKeys:
        """The keys in ``folder``.

        :param key_file: where the key lies that they are wrapped with, if they are.
        :raises OperatorError: if a key is missing, damaged, or readable by others, or wrapped with another.
        """
        return cls.load_with(folder, [] if key_file is None else [read_key_file(key_file)])

    @classmethod
    def load_with(cls, folder: Path, wrapping: Sequence[bytes]) -> ServerKeys:
        """The keys in ``folder``, of which each may be wrapped with one of ``wrapping``.

        :raises OperatorError: as :meth:`load`.
        """
        following = folder / NEXT_STORAGE_KEY
        return cls(
            _read(folder / PRIVATE_KEY, wrapping),
            _read(folder / STORAGE_KEY, wrapping),
            _read(following, wrapping) if following.exists() else None,
        )

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
        try:
            return decrypt(self.storage_key, wrapped, b"ppcmi cohort key|" + context)
        except OperatorError:
            if self.next_storage_key is None:
                raise
            return decrypt(self.next_storage_key, wrapped, b"ppcmi cohort key|" + context)


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


def read_key_file(path: Path) -> bytes:
    """The key in a file of base64.

    :raises OperatorError: if it is missing, damaged, or readable by others.
    """
    return _read(path, ())


def wrapped_text(name: str, key: bytes, wrapping: bytes | None) -> bytes:
    """A key as its file ``name`` has it; ``wrapping`` is the key that it is encrypted under, or None."""
    if wrapping is None:
        return base64.b64encode(key)
    return WRAPPED + base64.b64encode(encrypt(wrapping, key, _context(name)))


def _read(path: Path, wrapping: Sequence[bytes]) -> bytes:
    try:
        if os.name == "posix" and path.stat().st_mode & 0o077:
            raise OperatorError("A key file of the server can be read by other users; set its mode to 0600.")
        content = path.read_bytes().strip()
        stored = base64.b64decode(content.removeprefix(WRAPPED), validate=True)
    except (OSError, ValueError) as error:
        raise OperatorError("A key file of the server is missing or damaged; restore it from a backup.") from error
    key = _unwrapped(path.name, stored, wrapping) if content.startswith(WRAPPED) else stored
    if len(key) != KEY_BYTES:
        raise OperatorError("A key file of the server is damaged; restore it from a backup.")
    return key


def _unwrapped(name: str, stored: bytes, wrapping: Sequence[bytes]) -> bytes:
    for key in wrapping:
        try:
            return decrypt(key, stored, _context(name))
        except OperatorError:
            continue  # it may be wrapped with the next one
    raise OperatorError("The server's key files are encrypted; name the file with their key in storage.key_file.")


def _context(name: str) -> bytes:
    """A key that waits to be the storage key is wrapped as that, so that it becomes it by a rename."""
    return b"ppcmi key file|" + (STORAGE_KEY if name == NEXT_STORAGE_KEY else name).encode()

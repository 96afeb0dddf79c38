"""A file under a passphrase: scrypt (RFC 7914) for the key, AES-256-GCM in frames, read and written as a stream.

::

    "PPCMI-P1" | u32 LE length | {"kdf": "scrypt", "n": ..., "r": ..., "p": ..., "salt": base64} | frames

Every frame is ``AES-256-GCM(key, nonce, up to 1 MiB)`` with everything before the first frame as associated data and
``nonce = 7 zero bytes | number of the frame (u32, big-endian) | 1 for the last, else 0``: frames cannot be moved, left
out or added. The salt is fresh, so a key serves one file only. All frames but the last are full. Whoever reads takes at
most a frame into memory, and what a frame says counts only after its tag was checked.
"""

from __future__ import annotations

import base64
import json
import os
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from ppcmi.errors import SiteError, UsageError
from ppcmi.strict_json import is_whole, parse_object

MAGIC = b"PPCMI-P1"
FRAME_BYTES = 1 << 20
TAG_BYTES = 16
SALT_BYTES = 16
MAXIMUM_HEADER_BYTES = 1 << 10
MAXIMUM_FRAMES = 1 << 32

SHORTEST_PASSPHRASE, LONGEST_PASSPHRASE = 12, 1024
FEWEST_CHARACTERS = 5


@dataclass(frozen=True)
class ScryptCost:
    """Cost of guessing a passphrase: ``128 n r`` bytes of memory and time in proportion to ``n r p``."""

    n: int = 1 << 17
    r: int = 8
    p: int = 1

    def acceptable(self) -> bool:
        """Whether a file may ask for it: at most 256 MiB, and a few seconds."""
        power_of_two = self.n & (self.n - 1) == 0
        return power_of_two and 2 <= self.n <= 1 << 18 and 1 <= self.r <= 8 and 1 <= self.p <= 4


class PassphraseError(SiteError):
    """A file under a passphrase does not open; whether passphrase or file is at fault cannot be told."""

    def __init__(self) -> None:
        super().__init__("The passphrase is wrong, or the file is damaged or cut off; try again, or export it again.")


def require_strong(passphrase: str) -> None:
    """Refuse a passphrase that is quickly guessed.

    :raises UsageError: if it is too short or too simple.
    """
    if not SHORTEST_PASSPHRASE <= len(_normal(passphrase)) <= LONGEST_PASSPHRASE:
        raise UsageError(f"The passphrase needs at least {SHORTEST_PASSPHRASE} characters; four random words are good.")
    if len(set(_normal(passphrase))) < FEWEST_CHARACTERS:
        raise UsageError("The passphrase repeats the same few characters; four random words are good.")


def encrypt(content: Iterable[bytes], passphrase: str, cost: ScryptCost | None = None) -> Iterator[bytes]:
    """The parts of a file that holds ``content`` under ``passphrase``."""
    chosen, salt = cost or ScryptCost(), os.urandom(SALT_BYTES)
    document = {"kdf": "scrypt", **asdict(chosen), "salt": base64.b64encode(salt).decode()}
    header = json.dumps(document, separators=(",", ":")).encode()
    start = MAGIC + len(header).to_bytes(4, "little") + header
    cipher = _cipher(passphrase, salt, chosen)
    yield start
    number, held = 0, bytearray()
    for part in content:
        held += part
        while len(held) > FRAME_BYTES:  # one frame is held back: it might be the last
            yield cipher.encrypt(_nonce(number, last=False), bytes(held[:FRAME_BYTES]), start)
            del held[:FRAME_BYTES]
            number += 1
    yield cipher.encrypt(_nonce(number, last=True), bytes(held), start)


class DecryptedStream:
    """The content of a file under a passphrase, in order.

    :param source: the file, opened for reading at its start.
    :raises SiteError: if it is no such file.
    :raises PassphraseError: if passphrase or file is wrong, here or at any later call.
    """

    def __init__(self, source: BinaryIO, passphrase: str) -> None:
        self._source = source
        if source.read(len(MAGIC)) != MAGIC:
            raise SiteError(
                "The file is no exported site profile; export one at a workstation that has it.",
                command="ppcmi site export",
            )
        length = source.read(4)
        size = int.from_bytes(length, "little")
        if len(length) != 4 or not 2 <= size <= MAXIMUM_HEADER_BYTES:
            raise PassphraseError
        header = source.read(size)
        self._start = MAGIC + length + header
        self._cipher = _cipher(passphrase, *_parse_header(header))
        self._number, self._frame, self._place, self._last = 0, b"", 0, False
        self._ahead = source.read(1)
        self._next_frame()

    def read(self, size: int) -> bytes:
        """Exactly ``size`` bytes, at most a frame's worth at once.

        :raises PassphraseError: also if there are fewer.
        """
        if not 0 <= size <= FRAME_BYTES:
            raise ValueError("more than a frame at once")
        parts = []
        while size:
            if self._place == len(self._frame):
                self._next_frame()
            part = self._frame[self._place : self._place + size]
            self._place += len(part)
            size -= len(part)
            parts.append(part)
        return b"".join(parts)

    def require_end(self) -> None:
        """Make sure that everything was read.

        :raises PassphraseError: if there is more.
        """
        if not self._last or self._place != len(self._frame):
            raise PassphraseError

    def _next_frame(self) -> None:
        if self._last or self._number == MAXIMUM_FRAMES:
            raise PassphraseError
        # One byte is read ahead: a full frame with nothing behind it is the last.
        data = self._ahead + self._source.read(FRAME_BYTES + TAG_BYTES - len(self._ahead))
        self._ahead = self._source.read(1)
        self._last = not self._ahead
        try:
            self._frame = self._cipher.decrypt(_nonce(self._number, last=self._last), data, self._start)
        except InvalidTag as error:
            raise PassphraseError from error
        self._place = 0
        self._number += 1
        if not self._frame and not self._last:
            raise PassphraseError


def _parse_header(header: bytes) -> tuple[bytes, ScryptCost]:
    try:
        document = parse_object(header)
        if document.keys() != {"kdf", "n", "r", "p", "salt"} or document["kdf"] != "scrypt":
            raise PassphraseError
        if not all(is_whole(document[name]) for name in ("n", "r", "p")):
            raise PassphraseError
        salt = base64.b64decode(document["salt"], validate=True)
    except (TypeError, ValueError) as error:
        raise PassphraseError from error
    cost = ScryptCost(document["n"], document["r"], document["p"])
    if len(salt) != SALT_BYTES or not cost.acceptable():
        raise PassphraseError
    return salt, cost


def _cipher(passphrase: str, salt: bytes, cost: ScryptCost) -> AESGCM:
    derivation = Scrypt(salt=salt, length=32, n=cost.n, r=cost.r, p=cost.p)
    return AESGCM(derivation.derive(_normal(passphrase).encode()))


def _normal(passphrase: str) -> str:
    """The same text however a keyboard composes its characters."""
    return unicodedata.normalize("NFC", passphrase)


def _nonce(number: int, *, last: bool) -> bytes:
    return bytes(7) + number.to_bytes(4, "big") + bytes([last])

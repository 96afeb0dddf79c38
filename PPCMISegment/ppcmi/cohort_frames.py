"""Parts of a cohort file as bytes: its header, its frames, and the key that opens them (see :mod:`ppcmi.cohort_file`).

The server receives the header and the frames one by one; nothing here needs the file.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import struct
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ppcmi.bundle_header import BundleHeader, BundleLimits, read_header
from ppcmi.errors import BundleError
from ppcmi.modes import MODES, Mode
from ppcmi.quantization import Quantization
from ppcmi.scales import Profile
from ppcmi.sealing import open_sealed, seal
from ppcmi.strict_json import is_whole, parse_object

FORMAT = "ppcmi-cohort/1"
MAXIMUM_HEADER_BYTES = 64 << 10
MAXIMUM_PLAIN_BYTES = 1 << 10
MAXIMUM_FRAME_BYTES = BundleLimits().bytes + MAXIMUM_PLAIN_BYTES + 64
MAXIMUM_PARTS = 1 << 16

FILE_KEY_BYTES = 32

_HEX_32 = re.compile(r"[0-9a-f]{32}")
_HEX_64 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class CohortHeader:
    """What a cohort file says of itself; ``cohort`` is random, ``file_key`` sealed to the server's public key."""

    task: str
    codec: str
    profile: Profile
    mode: Mode
    quantization: Quantization
    cohort: str
    file_key: bytes


@dataclass(frozen=True)
class CasePart:
    """A frame's plain part: part ``part`` of ``parts`` of the case with the pseudonym ``case``."""

    case: str
    part: int
    parts: int


@dataclass(frozen=True)
class CohortEnd:
    """The end frame: number of frames before it, of cases, and :func:`cohort_digest` of the frames."""

    frames: int
    cases: int
    digest: str


def new_file_key(server_public_key: bytes, task: str) -> tuple[bytes, str, bytes]:
    """A fresh file key, the cohort's random name, and the key sealed for the header."""
    key, cohort = os.urandom(FILE_KEY_BYTES), os.urandom(16).hex()
    return key, cohort, seal(server_public_key, key, _key_context(task, cohort))


def header_bytes(header: CohortHeader) -> bytes:
    """The header's JSON, as the file and the server have it."""
    document = asdict(header) | {"file_key": base64.b64encode(header.file_key).decode()}
    return json.dumps({"format": FORMAT, **document}, separators=(",", ":")).encode()


def parse_header(data: bytes) -> CohortHeader:
    """A cohort's header from its JSON.

    :raises BundleError: if it is not valid.
    """
    names = {"task", "codec", "profile", "mode", "quantization", "cohort", "file_key"}
    if len(data) > MAXIMUM_HEADER_BYTES:
        raise BundleError("The cohort file's header is larger than allowed; export the cohort again.")
    try:
        document = parse_object(data)
        if document.keys() != {"format", *names} or document.pop("format") != FORMAT:
            raise BundleError(f"The cohort file is not of format {FORMAT}; this version cannot use it.")
        if not all(isinstance(value, str) and len(value) <= 200 for value in document.values()):
            raise BundleError("A field of the cohort file's header is not a text; export the cohort again.")
        header = CohortHeader(
            **document
            | {
                "profile": Profile(document["profile"]),
                "quantization": Quantization(document["quantization"]),
                "file_key": base64.b64decode(document["file_key"], validate=True),
            }
        )
    except ValueError as error:
        raise BundleError("The cohort file's header is damaged; export the cohort again.") from error
    if header.mode not in MODES or not _HEX_32.fullmatch(header.cohort):
        raise BundleError("The cohort file's header is damaged; export the cohort again.")
    return header


class CohortKey:
    """A cohort's file key with the header that it belongs to: encrypts frames at the site, opens them at the server."""

    def __init__(self, header: bytes, key: bytes) -> None:
        self.header = parse_header(header)
        self._header_digest = hashlib.sha256(header).digest()
        self._cipher = AESGCM(key)

    @classmethod
    def open(cls, header: bytes, server_private_key: bytes) -> CohortKey:
        """The key from a cohort's header.

        :raises BundleError: if the header is not valid.
        :raises KeyMismatchError: if the cohort was exported for another server.
        """
        parsed = parse_header(header)
        key = open_sealed(server_private_key, parsed.file_key, _key_context(parsed.task, parsed.cohort))
        if len(key) != FILE_KEY_BYTES:
            raise BundleError("The cohort file's key is not valid; export the cohort again.")
        return cls(header, key)

    def make_frame(self, index: int, part: CasePart, bundle: bytes) -> bytes:
        """A frame with one bundle.

        :raises BundleError: if the bundle is not one of this case and cohort.
        """
        _check_case_part(part)
        self._check_bundle(part, bundle)
        return self._encrypt(index, json.dumps(asdict(part), separators=(",", ":")).encode(), bundle)

    def make_end(self, end: CohortEnd) -> bytes:
        """The end frame."""
        plain = json.dumps({"end": True, **asdict(end)}, separators=(",", ":")).encode()
        return self._encrypt(end.frames, plain, b"")

    def open_frame(self, index: int, data: bytes) -> tuple[CasePart, bytes]:
        """The case's part and the bundle of frame ``index``; the bundle's header agrees with both.

        :raises BundleError: if the frame is malformed, altered, of another index or cohort, or its bundle not valid.
        """
        part = parse_plain(data)
        if isinstance(part, CohortEnd):
            raise BundleError("This is the cohort's end, not one of its frames.")
        bundle = self._decrypt(index, data)
        self._check_bundle(part, bundle)
        return part, bundle

    def open_end(self, data: bytes) -> CohortEnd:
        """The end frame's content, authenticated.

        :raises BundleError: if it is malformed, altered, or of another cohort.
        """
        end = parse_plain(data)
        if not isinstance(end, CohortEnd):
            raise BundleError("This is one of the cohort's frames, not its end.")
        if self._decrypt(end.frames, data):
            raise BundleError("The cohort's end is damaged; export the cohort again.")
        return end

    def _encrypt(self, index: int, plain: bytes, content: bytes) -> bytes:
        nonce = index.to_bytes(12, "big")
        ciphertext = self._cipher.encrypt(nonce, content, self._header_digest + nonce + plain)
        return struct.pack("<H", len(plain)) + plain + ciphertext

    def _decrypt(self, index: int, data: bytes) -> bytes:
        nonce = index.to_bytes(12, "big")
        plain, ciphertext = _split(data)
        try:
            return self._cipher.decrypt(nonce, ciphertext, self._header_digest + nonce + plain)
        except InvalidTag as error:
            raise BundleError(
                "A frame was altered, or is of another place or cohort; upload the file again."
            ) from error

    def _check_bundle(self, part: CasePart, bundle: bytes) -> None:
        def kind(header: BundleHeader | CohortHeader) -> tuple[Any, ...]:
            return (header.task, header.codec, header.profile, header.mode, header.quantization)

        header = read_header(bundle)
        if header.case != part.case or kind(header) != kind(self.header):
            raise BundleError(
                "A bundle is of another case, task, codec or profile than its frame; export the cohort again."
            )


def parse_plain(data: bytes) -> CasePart | CohortEnd:
    """A frame's plain part, from the frame or its beginning; nothing of it is authenticated yet.

    :raises BundleError: if it is malformed.
    """
    try:
        document = parse_object(_split(data)[0])
    except ValueError as error:
        raise BundleError("A frame of the cohort is damaged; export the cohort again.") from error
    if document.keys() == {"case", "part", "parts"}:
        part = CasePart(**document)
        _check_case_part(part)
        return part
    if document.keys() == {"end", "frames", "cases", "digest"} and document.pop("end") is True:
        end = CohortEnd(**document)
        counts = is_whole(end.frames) and is_whole(end.cases) and 0 <= end.cases <= end.frames < 1 << 32
        if counts and isinstance(end.digest, str) and _HEX_64.fullmatch(end.digest):
            return end
    raise BundleError("A frame of the cohort is damaged; export the cohort again.")


def frame_digest(frame: bytes) -> bytes:
    """SHA-256 of a frame's bytes."""
    return hashlib.sha256(frame).digest()


def cohort_digest(frame_digests: Iterable[bytes]) -> str:
    """Hex SHA-256 over the frames' digests in order of index; the end frame does not count."""
    return hashlib.sha256(b"".join(frame_digests)).hexdigest()


def _key_context(task: str, cohort: str) -> bytes:
    return b"ppcmi cohort|" + task.encode() + b"|" + cohort.encode()


def _split(data: bytes) -> tuple[bytes, bytes]:
    length = int.from_bytes(data[:2], "little")
    if len(data) < 2 or not 2 <= length <= min(MAXIMUM_PLAIN_BYTES, len(data) - 2):
        raise BundleError("A frame of the cohort is cut off; upload the file again.")
    return data[2 : 2 + length], data[2 + length :]


def _check_case_part(part: CasePart) -> None:
    numbers = is_whole(part.part) and is_whole(part.parts) and 0 <= part.part < part.parts <= MAXIMUM_PARTS
    if not numbers or not isinstance(part.case, str) or not _HEX_32.fullmatch(part.case):
        raise BundleError("A frame of the cohort has no valid case; export the cohort again.")

"""The file of a backup: a tar whose last member, ``manifest.json``, has the SHA-256 of every other.

::

    settings.toml       without addresses that may hold a password
    keys.ppcmi          optional: the key files under a passphrase (ppcmi.passphrase_file)
    blobs/...           as they are in the blob store: encrypted
    database.jsonl      see ppcmi_server.database.dump
    manifest.json       {"format": "ppcmi-backup/1", "made": ..., "server": ..., "files": {name: [size, sha256]}}

It is written beside its place and renamed: a backup is whole or absent. Whoever reads looks at every byte, and takes
no name, size or kind of member that is not one of these.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import secrets
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from ppcmi.errors import WriteError
from ppcmi.files import sync_folder
from ppcmi_server.errors import OperatorError

FORMAT = "ppcmi-backup/1"
MANIFEST_NAME = "manifest.json"
MANIFEST_BYTES = 1 << 30
CHUNK_BYTES = 1 << 20
_NAME = re.compile(r"(settings\.toml|keys\.ppcmi|database\.jsonl|blobs(/[A-Za-z0-9_][A-Za-z0-9._-]*)+)")
DAMAGED = "The backup is damaged or cut off; use another."


class ArchiveWriter:
    """Adds members to a backup that is being written."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._files: dict[str, tuple[int, str]] = {}

    def add(self, name: str, content: IO[bytes], size: int) -> None:
        """Add a member of ``size`` bytes."""
        hashing = _Hashing(content)
        self._tar.addfile(_member(name, size), hashing)  # all that it uses is read
        self._files[name] = (size, hashing.digest.hexdigest())

    def add_bytes(self, name: str, content: bytes) -> None:
        """Add a small member."""
        self.add(name, io.BytesIO(content), len(content))

    def finish(self, facts: dict[str, Any]) -> None:
        """Add the manifest."""
        document = {"format": FORMAT, **facts, "files": self._files}
        content = json.dumps(document, indent=1).encode()
        self._tar.addfile(_member(MANIFEST_NAME, len(content)), io.BytesIO(content))


@contextmanager
def writing_archive(path: Path) -> Iterator[ArchiveWriter]:
    """A backup that appears at ``path`` when the context ends without an error.

    :raises WriteError: if it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with os.fdopen(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                yield ArchiveWriter(tar)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise WriteError(f"The backup cannot be written: {error.strerror}.") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Every member but the manifest, in order; each has to be read to its end before the next.

    :raises OperatorError: if the backup is not whole. What was read before then is not to be relied on.
    """
    found: dict[str, tuple[int, str]] = {}
    try:
        with tarfile.open(path, "r|") as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isreg() else None
                if content is None:
                    raise OperatorError(DAMAGED)
                if member.name == MANIFEST_NAME:
                    _compare(read_manifest_from(content, member.size), found)
                    return
                if not _NAME.fullmatch(member.name) or member.name in found:
                    raise OperatorError(DAMAGED)
                hashing = _Hashing(content)
                yield member.name, hashing  # type: ignore[misc]  # all that they use is read
                while hashing.read(CHUNK_BYTES):
                    pass
                found[member.name] = (member.size, hashing.digest.hexdigest())
    except FileNotFoundError as error:
        raise OperatorError("There is no such backup; check its name.") from error
    except (tarfile.TarError, OSError, EOFError) as error:
        raise OperatorError(DAMAGED) from error
    raise OperatorError(DAMAGED)


def check_archive(path: Path) -> dict[str, Any]:
    """Look at every byte of a backup; its manifest.

    :raises OperatorError: if it is not whole.
    """
    for _ in members(path):
        pass
    with tarfile.open(path) as tar:
        member = tar.getmember(MANIFEST_NAME)
        content = tar.extractfile(member)
        if content is None:
            raise OperatorError(DAMAGED)
        return read_manifest_from(content, member.size)


def read_manifest_from(content: IO[bytes], size: int) -> dict[str, Any]:
    """A manifest.

    :raises OperatorError: if it is none.
    """
    if size > MANIFEST_BYTES:
        raise OperatorError(DAMAGED)
    try:
        document = json.loads(content.read(size))
    except ValueError as error:
        raise OperatorError(DAMAGED) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise OperatorError("The file is no backup that this version of the server knows.")
    return document


def _compare(manifest: dict[str, Any], found: dict[str, tuple[int, str]]) -> None:
    if manifest.get("files") != {name: list(facts) for name, facts in found.items()}:
        raise OperatorError(DAMAGED)


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    return member


class _Hashing:
    """Hashes what is read through it."""

    def __init__(self, content: IO[bytes]) -> None:
        self._content = content
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        part = self._content.read(size)
        self.digest.update(part)
        return part

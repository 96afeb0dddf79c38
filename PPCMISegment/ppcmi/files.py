"""Files that are whole or absent: written beside their place, made durable, then renamed into it."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from ppcmi.errors import WriteError


def write_atomically(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Put ``content`` at ``path`` in one step and durably, with permissions ``mode`` from the first byte on.

    :raises WriteError: if the folder cannot be written or the disk is full; what was at ``path`` before is untouched.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException as error:  # also Ctrl-C: nothing half written stays
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise WriteError(f"A file cannot be written: {error.strerror}.") from error
        raise


def append_line(path: Path, line: str, mode: int = 0o644) -> None:
    """Add ``line`` to a file of lines, durably; what was cut off at its end before stays a line of its own.

    :param mode: permissions of a file that was not there.

    :raises WriteError: if it cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, mode)
        with os.fdopen(descriptor, "a+b") as stream:
            stream.seek(0, os.SEEK_END)
            if stream.tell():
                stream.seek(-1, os.SEEK_END)
                cut_off = stream.read(1) != b"\n"
            else:
                cut_off = False
            stream.write(b"\n" * cut_off + line.encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise WriteError(f"A file cannot be written: {error.strerror}.") from error


def cause_of(error: OSError) -> str:
    """Why the operating system refused, in its words, which name no path; a sentence takes it after a colon."""
    if isinstance(error, FileExistsError):
        return "a file of that name is there"
    return error.strerror or "unknown cause"


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` durable; only POSIX systems can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

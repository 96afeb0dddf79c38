"""Which results were given to which archive: a line of JSON each, so that none is stored twice, whatever interrupts."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pydicom
from pydicom.errors import InvalidDicomError

from ppcmi.errors import ReadError, WriteError
from ppcmi.files import append_line

FILE_NAME = "ppcmi-stored.jsonl"


class StoredResults:
    """The record in a folder of results; reads it once, then appends.

    :raises WriteError: if what is there cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME
        try:
            text = self._path.read_bytes().decode("utf-8", "replace") if self._path.exists() else ""
        except OSError as error:
            raise WriteError("The record of stored results cannot be read; choose another folder.") from error
        self._known = {known for line in text.splitlines() if (known := _parsed(line)) is not None}

    def has(self, sop_instance_uid: str, archive: str) -> bool:
        """Whether the archive has this result from here."""
        return (sop_instance_uid, archive) in self._known

    def add(self, sop_instance_uid: str, archive: str) -> None:
        """Note that the archive has it; on the disk when this returns.

        :raises WriteError: if it cannot be written.
        """
        when = datetime.now(UTC).isoformat(timespec="seconds")
        append_line(self._path, json.dumps({"instance": sop_instance_uid, "archive": archive, "stored": when}))
        self._known.add((sop_instance_uid, archive))


def read_result(file: Path, **how: Any) -> Any:
    """A result that was written before, for giving it to an archive.

    :param how: options of pydicom's.
    :raises ReadError: if it cannot be read.
    """
    try:
        return pydicom.dcmread(file, **how)
    except (OSError, InvalidDicomError) as error:
        raise ReadError(
            "A result cannot be read back for giving it to the archive; segment the image again."
        ) from error


def _parsed(line: str) -> tuple[str, str] | None:
    """What a line says, or None if it was cut off or is none of ours."""
    try:
        values = json.loads(line)
        return str(values["instance"]), str(values["archive"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None

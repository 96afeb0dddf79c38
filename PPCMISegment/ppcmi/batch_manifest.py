"""The manifest of a batch: a line of JSON for every volume that was finished or failed, ``ppcmi-segment.jsonl``.

It makes a rerun skip what is done, and the report be written again. It stays at the site, as it names files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from ppcmi.confidence import found_nothing
from ppcmi.errors import WriteError

MANIFEST = "ppcmi-segment.jsonl"


@dataclass(frozen=True)
class CaseRecord:
    """What became of a volume.

    :param made_from: its source and what it was segmented with; a result is kept while that stays the same.
    :param error: one sentence, if it failed.
    :param slices: of it, and ``bytes_sent`` and ``bytes_received`` for them.
    :param seconds: by stage; ``total_seconds`` also holds reading and writing.
    :param volumes_ml: by structure, 0 where it was not found.
    :param endings: of the files of the result.
    :param warnings: sentences about the image that whoever uses the result should read.
    :param picture: where its overlay is, from the folder of the results, or empty.
    :param finished: when, in UTC (ISO 8601).
    """

    name: str
    outcome: Literal["done", "failed"]
    made_from: Mapping[str, Any]
    error: str = ""
    slices: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    total_seconds: float = 0.0
    volumes_ml: Mapping[str, float] = field(default_factory=dict)
    endings: Sequence[str] = field(default_factory=list)
    warnings: Sequence[str] = field(default_factory=list)
    picture: str = ""
    finished: str = ""

    @property
    def found_nothing(self) -> bool:
        """Whether it was segmented and not a voxel is of a structure; seen in manifests of any version."""
        return self.outcome == "done" and found_nothing(self.volumes_ml)


class Manifest:
    """The manifest in a folder of results; reads it once, then appends.

    :raises WriteError: if what is there cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / MANIFEST
        self._records: dict[str, CaseRecord] = {}
        try:
            text = self._path.read_bytes().decode("utf-8", "replace") if self._path.exists() else ""
        except OSError as error:
            raise WriteError("The output folder's manifest cannot be read; choose another folder.") from error
        self._cut_off = bool(text) and not text.endswith("\n")
        for line in text.splitlines():
            record = _parsed(line)
            if record is not None:
                self._records[record.name] = record

    @property
    def records(self) -> Mapping[str, CaseRecord]:
        """The newest record of every result, by its name, in the order in which they first came."""
        return self._records

    @property
    def sources(self) -> dict[str, str]:
        """The key of the image that each result was made from, by the result's name."""
        return {name: str(record.made_from.get("source", "")) for name, record in self._records.items()}

    def append(self, record: CaseRecord) -> None:
        """Note what became of a volume; it is on the disk when this returns.

        :raises WriteError: if it cannot be written.
        """
        line = json.dumps(asdict(record)) + "\n"
        try:
            with self._path.open("ab") as stream:
                stream.write(b"\n" * self._cut_off + line.encode())
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise WriteError(f"The output folder's manifest cannot be written: {error.strerror}.") from error
        self._cut_off = False
        self._records[record.name] = record


def _parsed(line: str) -> CaseRecord | None:
    """A record, or None where a line was cut off or is none of ours; fields of other versions are left out."""
    try:
        document = json.loads(line)
        known = {f.name: document[f.name] for f in fields(CaseRecord) if f.name in document}
        record = CaseRecord(**known)
    except (ValueError, TypeError):
        return None
    whole = isinstance(record.name, str) and record.outcome in ("done", "failed") and isinstance(record.made_from, dict)
    return record if whole else None

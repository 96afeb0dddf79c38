"""The manifest of a batch: a line of JSON for every volume that was finished or failed, ``ppcmi-segment.jsonl``.

It makes a rerun skip what is done, and the report be written again. Before the first file of a result is written its
name is noted too, so that after a power cut a rerun knows the file for one of its own. It stays at the site, as it
names files.
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
BEGUN = "begun"
"""Outcome in the line of a result whose files are about to be written for the first time."""


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
        self._made_from: dict[str, Mapping[str, Any]] = {}
        try:
            text = self._path.read_bytes().decode("utf-8", "replace") if self._path.exists() else ""
        except OSError as error:
            raise WriteError("The output folder's manifest cannot be read; choose another folder.") from error
        self._cut_off = bool(text) and not text.endswith("\n")
        for line in text.splitlines():
            document = _parsed(line)
            if document is None:
                continue
            self._made_from[document["name"]] = document["made_from"]
            if document["outcome"] != BEGUN:
                self._records[document["name"]] = CaseRecord(**document)

    @property
    def records(self) -> Mapping[str, CaseRecord]:
        """The newest record of every result, by its name, in the order in which they first came."""
        return self._records

    @property
    def made_from(self) -> Mapping[str, Mapping[str, Any]]:
        """What each result was or, if its run was cut off, would have been made from, by the result's name."""
        return self._made_from

    @property
    def sources(self) -> dict[str, str]:
        """The key of the image that each result was made from, by the result's name."""
        return {name: str(made_from.get("source", "")) for name, made_from in self._made_from.items()}

    def begin(self, name: str, made_from: Mapping[str, Any]) -> None:
        """Note that files of this name are the batch's from now on, unless that is known.

        :raises WriteError: if it cannot be written.
        """
        if name not in self._made_from:
            self._write({"name": name, "outcome": BEGUN, "made_from": made_from})
            self._made_from[name] = made_from

    def append(self, record: CaseRecord) -> None:
        """Note what became of a volume; it is on the disk when this returns.

        :raises WriteError: if it cannot be written.
        """
        self._write(asdict(record))
        self._records[record.name] = record
        self._made_from[record.name] = record.made_from

    def _write(self, document: Mapping[str, Any]) -> None:
        line = json.dumps(document) + "\n"
        try:
            with self._path.open("ab") as stream:
                stream.write(b"\n" * self._cut_off + line.encode())
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise WriteError(f"The output folder's manifest cannot be written: {error.strerror}.") from error
        self._cut_off = False


def _parsed(line: str) -> dict[str, Any] | None:
    """A line's fields, or None where it was cut off or is none of ours; fields of other versions are left out."""
    try:
        document = json.loads(line)
        known = {f.name: document[f.name] for f in fields(CaseRecord) if f.name in document}
        name, outcome, made_from = known["name"], known["outcome"], known["made_from"]
    except (ValueError, TypeError, KeyError):
        return None
    whole = isinstance(name, str) and outcome in (BEGUN, "done", "failed") and isinstance(made_from, dict)
    return known if whole else None

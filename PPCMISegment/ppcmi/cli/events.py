"""What a command shows to a program: one JSON object a line on stdout, in place of text for people.

::

    {"event": "progress", "text": ...}                          how far it is
    {"event": "fit", "stage": ..., "epoch": ..., "epochs": ..., "share": ..., "loss": ..., "score": ..., "seconds": ...,
     "round_number": ..., "rounds": ...}
    {"event": "quality", "cases": ..., "psnr_db": {...}, "ssim": {...}, "mask_dice": {...}}
    {"event": "refinement", "model": ..., "profile": ..., "share": ..., "dice_by_share": {...}}
    {"event": "together", "members": [...], "uses": ..., "dice_own": ..., "dice_mean": ..., "dice_continued": ...}
    {"event": "audit", "done": ..., "total": ..., "text": ...}  how far a privacy check is
    {"event": "privacy", "time": ..., "name": ..., "profiles": [{...}], ...}      what it found (ppcmi.privacy_check)
    {"event": "result", "text": ...}   {"event": "remark", "text": ...}
    {"event": "table", "header": [...], "rows": [...]}
    {"event": "error", "text": ..., "exit_code": ...}           the last line of a command that failed

A number that is none (not finite, or not measured) is null. Readers ignore events and fields that they do not know.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from ppcmi.cli.console import Console

PROGRESS_INTERVAL_S = 0.1


class EventConsole(Console):
    """Writes for a program; ``quiet`` leaves out progress, never results."""

    def __init__(self, out: TextIO | None = None, *, quiet: bool = False) -> None:
        super().__init__(out, quiet=quiet)
        self._told = -math.inf

    def result(self, text: str) -> None:
        """See the module."""
        self._write("result", {"text": text})

    def remark(self, text: str) -> None:
        """See the module."""
        self._write("remark", {"text": text})

    def error(self, text: str, exit_code: int, command: str = "") -> None:
        """See the module; a program's users have no command line."""
        self._write("error", {"text": text, "exit_code": exit_code})

    def figures(self, event: str, values: Mapping[str, Any]) -> None:
        """See the module."""
        self._write(event, values)

    def progress(self, text: str, *, last: bool = False) -> None:
        """See the module; as the console for people, not oftener than makes sense."""
        now = time.monotonic()
        if self._quiet or (not last and now - self._told < PROGRESS_INTERVAL_S):
            return
        self._told = now
        self._write("progress", {"text": text})

    def measured(self, event: str, values: Mapping[str, Any], text: str, *, last: bool = False) -> None:
        """The numbers, every time: a curve needs them all. A reader that wants a sentence makes its own."""
        if not self._quiet:
            self._write(event, values)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A result with the rows' cells under their names."""
        self._write("table", {"header": list(header), "rows": [list(row) for row in rows]})

    def _write(self, event: str, values: Mapping[str, Any]) -> None:
        print(
            json.dumps({"event": event, **_finite(values)}, allow_nan=False), file=self._out or sys.stdout, flush=True
        )


def _finite(value: Any) -> Any:
    """The same with null for what JSON has no number for."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(name): _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value

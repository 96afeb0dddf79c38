"""What a command shows: results on stdout, progress and remarks on stderr.

On a terminal progress is one line that changes; in a log it is a line now and then.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

TERMINAL_INTERVAL_S = 0.1
LOG_INTERVAL_S = 10.0


class Console:
    """Writes for people; ``quiet`` leaves out progress, never results."""

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None, *, quiet: bool = False) -> None:
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        self._quiet = quiet
        self._interactive = self._err.isatty()
        self._last = 0.0
        self._open = False

    def result(self, text: str) -> None:
        """A line of the command's result."""
        self._clear_progress()
        print(text, file=self._out, flush=True)

    def remark(self, text: str) -> None:
        """A line beside the result: what was skipped, what comes next."""
        self._clear_progress()
        print(text, file=self._err, flush=True)

    def error(self, text: str, exit_code: int, command: str = "") -> None:
        """Why the command ends without having done what it should; people see ``exit_code`` in their shell.

        :param command: what helps, if a command does.
        """
        self.remark(f"ppcmi: {text} ({command})" if command else f"ppcmi: {text}")

    def figures(self, event: str, values: Mapping[str, Any]) -> None:
        """Numbers of a result under the name ``event``, for programs; people get them from the result's own text."""

    def measured(self, event: str, values: Mapping[str, Any], text: str, *, last: bool = False) -> None:
        """Progress with numbers that a program may draw, under the name ``event``; people get ``text``."""
        self.progress(text, last=last)

    def progress(self, text: str, *, last: bool = False) -> None:
        """How far it is. Called as often as one likes; ``last`` is always shown, and stays."""
        now = time.monotonic()
        interval = TERMINAL_INTERVAL_S if self._interactive else LOG_INTERVAL_S
        if self._quiet or (not last and now - self._last < interval):
            return
        self._last = now
        if self._interactive:
            width = shutil.get_terminal_size().columns - 1
            self._err.write(f"\r{text[:width]:<{width}}" + ("\n" if last else ""))
            self._open = not last
        else:
            self._err.write(text + "\n")
        self._err.flush()

    def _clear_progress(self) -> None:
        """Take the line that changes away; what is written next takes its place."""
        if self._open:
            self._err.write(f"\r{'':<{shutil.get_terminal_size().columns - 1}}\r")
            self._err.flush()
            self._open = False

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A result in aligned columns; the first is text, the others are numbers."""
        lines = [list(header), *(list(row) for row in rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
        for line in lines:
            first, *others = line
            cells = [
                first.ljust(widths[0]),
                *(text.rjust(width) for text, width in zip(others, widths[1:], strict=True)),
            ]
            self.result("  ".join(cells).rstrip())

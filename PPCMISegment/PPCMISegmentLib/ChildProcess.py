"""A ``ppcmi`` command in a child process, for work of minutes: its events as they come, and a cancel that ends it.

The child reads its standard input and ends when that closes, so it ends with Slicer too, however Slicer ends, and also
behind the PythonSlicer launcher, which does not pass a kill on.
"""

from __future__ import annotations

import json
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, TextIO

from slicer.i18n import tr as _

from ppcmi.errors import CancelledError, PpcmiError
from PPCMISegmentLib.Steps import WAIT_S

PATIENCE_S = 10.0
RUN_PPCMI = "import sys; sys.path.insert(0, sys.argv.pop(1)); from ppcmi.cli.main import main; sys.exit(main())"


class ChildFailedError(PpcmiError):
    """The child's own sentence; ``exitCode`` is its."""

    def __init__(self, sentence: str, exitCode: int) -> None:
        super().__init__(sentence)
        self.exitCode = exitCode


def commandSteps(arguments: Sequence[str], python: str | None = None) -> Generator[dict[str, Any] | None, None, None]:
    """Run ``ppcmi`` with ``arguments``; yields its events (see ``ppcmi.cli.events``), and None now and then.

    Closing the generator ends the child within seconds, without waiting for it.

    :param python: the interpreter, or None for Slicer's own.
    :raises ChildFailedError: with the sentence of the command's error.

    Example::

        steps.start(commandSteps(["codec", "train", "--task", name, "--cases", folder]), onEvent=draw, ...)
    """
    package = str(Path(__file__).resolve().parents[1])
    command = [python or slicerPython(), "-c", RUN_PPCMI, package, *arguments, "--events", "--end-with-stdin"]
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, encoding="utf-8"
    )
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read, args=(child.stdout, lines), daemon=True).start()
    sentence = _("The command ended without saying why; try it again.")
    try:
        while True:
            try:
                line = lines.get(timeout=WAIT_S)
            except queue.Empty:
                yield None
                continue
            if line is None:
                break
            event = _parsed(line)
            if event is not None and event["event"] == "error":
                sentence = str(event.get("text"))
            yield event
        while child.poll() is None:
            yield None
    finally:
        _end(child)
    if child.returncode == CancelledError.exit_code:
        raise CancelledError(sentence)
    if child.returncode:
        raise ChildFailedError(sentence, child.returncode)


def slicerPython() -> str:
    """The interpreter that has Slicer's packages; ``sys.executable`` is Slicer itself inside the application."""
    return shutil.which("PythonSlicer") or sys.executable


def _read(stream: TextIO, lines: queue.Queue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _parsed(line: str) -> dict[str, Any] | None:
    """An event, or None for a line that is none, such as a library's warning."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event else None


def _end(child: subprocess.Popen[str]) -> None:
    """Ask the child to end; a thread sees to it that it does."""
    if child.poll() is not None:
        return
    child.stdin.close()

    def insist() -> None:
        try:
            child.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    threading.Thread(target=insist, daemon=True).start()

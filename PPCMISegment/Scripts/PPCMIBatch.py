"""Segment many volumes privately, or export labelled ones, in Slicer without its window::

    Slicer --no-splash --no-main-window --python-script PPCMIBatch.py -- --task T --input DIR --output DIR
    PythonSlicer PPCMIBatch.py --task T --input DIR --output DIR
    PythonSlicer PPCMIBatch.py --export-cohort --task T --input FOLDER --output a.ppcmi --upload

Options, results and exit codes are those of 'ppcmi segment' and, with --export-cohort, of 'ppcmi cohort export'.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

EXPORT = "--export-cohort"
HELP = frozenset(("-h", "--help"))
SET_UP_IS_INCOMPLETE = 10


def run(arguments: Sequence[str]) -> int:
    """What the command line asks for; the exit code."""
    words = list(arguments[1:] if arguments[:1] == ["--"] else arguments)
    beside = str(Path(__file__).resolve().parents[1])
    if beside not in sys.path:
        sys.path.insert(0, beside)
    try:
        from ppcmi.cli.main import main
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"PPCMIBatch: the Python package {error.name} is missing; open the module PPCMI Segment in Slicer once, "
            "which offers to install what it needs.\n"
        )
        return SET_UP_IS_INCOMPLETE
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Slicer lets Ctrl-C kill it where it is
    if HELP.intersection(words):
        sys.stdout.write(f"{__doc__}\n")
    command = ["cohort", "export"] if EXPORT in words else ["segment"]
    try:
        return main([*command, *(word for word in words if word != EXPORT)])
    except SystemExit as ended:  # --help
        return ended.code if isinstance(ended.code, int) else 1


def end(code: int) -> None:
    """End this process, or the Slicer that runs the script, which would go on otherwise."""
    slicer = sys.modules.get("slicer")
    if getattr(slicer, "app", None) is None:
        sys.exit(code)
    slicer.util.exit(code)


if __name__ == "__main__":
    end(run(sys.argv[1:]))

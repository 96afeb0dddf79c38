"""Entry point of ``ppcmi``: the only place that reads the environment and turns errors into exit codes."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence

import torch

from ppcmi import __version__
from ppcmi.cli import audit, codec, cohort, consortium, model, network, node, preview, segment, site
from ppcmi.cli.console import Console
from ppcmi.cli.ending import end_with_stdin, interrupted_by_termination
from ppcmi.cli.events import EventConsole
from ppcmi.cli.options import EVENTS, Command
from ppcmi.cli.parsers import Parser
from ppcmi.errors import CancelledError, PpcmiError
from ppcmi.site_folder import usual_site_folder

OTHER_EXIT_CODE = 1

DESCRIPTION = """\
Private collaborative medical image segmentation: keyed latents leave the site, images never do.

A site's way, in order:
  ppcmi site init            enrol at a server
  ppcmi consortium create    or join, after an invitation
  ppcmi codec train          the first member; others get the codec by themselves
  ppcmi audit                what attackers make of what would leave, before anything does
  ppcmi cohort export        labelled cases as protected latents; then ppcmi cohort upload
  ppcmi codec refine         once the server has trained a model; --together learns with the other members
  ppcmi model validate       on the site's held-out cases
  ppcmi segment              files, DICOM folders, a directory of them, or a study in an archive
  ppcmi node                 studies that are sent to it over DICOM

Research use only; not a medical device.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code."""
    console = _console(sys.argv[1:] if arguments is None else arguments)
    _silence_libraries()
    try:
        options = build_parser().parse_args(arguments)
        with interrupted_by_termination():
            if options.end_with_stdin:
                end_with_stdin()
            if options.threads is not None:
                torch.set_num_threads(options.threads)
            run: int = options.run(Command(options, console, options.site or usual_site_folder(os.environ)))
    except PpcmiError as error:
        return _end(console, str(error), error.exit_code, error.command)
    except KeyboardInterrupt:
        return _end(console, "Cancelled; what was finished before is kept.", CancelledError.exit_code)
    except torch.OutOfMemoryError:
        return _end(console, "The device's memory is too small; use --device cpu.", OTHER_EXIT_CODE)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read our output has read enough
        return 0
    except OSError as error:
        return _end(console, f"A file cannot be read or written: {error.strerror or 'unknown cause'}.", OTHER_EXIT_CODE)
    return run


def build_parser() -> Parser:
    """The parser of every command."""
    parser = Parser(prog="ppcmi", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"ppcmi {__version__}")
    groups = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="group")
    for module in (site, consortium, codec, audit, cohort, network, model, preview, segment, node):
        module.add_parsers(groups)
    return parser


def _silence_libraries() -> None:
    """Keep values of headers, which name patients, out of logs: pydicom warns of them by quoting them."""
    warnings.filterwarnings("ignore", module="pydicom")
    for name in ("pydicom", "highdicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def _console(words: Sequence[str]) -> Console:
    """Where to write, known before the parser: its own errors are to be read as well."""
    quiet = "--quiet" in words
    return EventConsole(quiet=quiet) if EVENTS in words else Console(quiet=quiet)


def _end(console: Console, sentence: str, exit_code: int, command: str = "") -> int:
    console.error(sentence, exit_code, command)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())

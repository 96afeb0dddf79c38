"""Entry point of ``ppcmi``: the only place that reads the environment and turns errors into exit codes."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence

from ppcmi import __version__
from ppcmi.cli.console import Console
from ppcmi.cli.ending import end_with_stdin, interrupted_by_termination
from ppcmi.cli.events import EventConsole
from ppcmi.cli.options import EVENTS, Command
from ppcmi.cli.parsers import Parser, add_modules
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

COMMANDS = {
    "site": "This site: keys, server, connection.",
    "consortium": "The sites that train and segment together.",
    "codec": "The codec, and the site's own decoder.",
    "audit": (
        "Privacy check: attack, on this machine, what would leave of labelled cases of this site, and set what the "
        "attackers get beside the Dice of each privacy profile. Nothing is sent."
    ),
    "cohort": "Labelled cases, exported as protected latents.",
    "network": "The networks that members of a consortium share, encrypted, with each other.",
    "model": "The server's models.",
    "preview": (
        "What would leave if a volume were segmented; nothing does. Of one slice a picture: image, what leaves, and "
        "the best that the server could make of it without the inner key."
    ),
    "segment": (
        "Segment volumes privately; each gives NAME.seg.nrrd and NAME.nii.gz, all together report.html. What is done "
        "already is skipped."
    ),
    "node": (
        "Receive studies over DICOM until Ctrl-C or SIGTERM, segment them, and give the results back as DICOM "
        "segmentations. Other machines are talked to over TLS only."
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    console = _console(words)
    _silence_libraries()
    try:
        options = build_parser(words).parse_args(words)
        with interrupted_by_termination():
            if options.end_with_stdin:
                end_with_stdin()
            if options.threads is not None:
                _compute_with(options.threads)
            run: int = options.run(Command(options, console, options.site or usual_site_folder(os.environ)))
    except PpcmiError as error:
        return _end(console, str(error), error.exit_code, error.command)
    except KeyboardInterrupt:
        return _end(console, "Cancelled; what was finished before is kept.", CancelledError.exit_code)
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        return _end(console, "The device's memory is too small; use --device cpu.", OTHER_EXIT_CODE)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read our output has read enough
        return 0
    except OSError as error:
        return _end(console, f"A file cannot be read or written: {error.strerror or 'unknown cause'}.", OTHER_EXIT_CODE)
    return run


def build_parser(words: Sequence[str] | None = None) -> Parser:
    """The parser of every command, or the one that ``words``, if given, need."""
    parser = Parser(prog="ppcmi", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"ppcmi {__version__}")
    add_modules(parser, "ppcmi.cli", COMMANDS, words)
    return parser


def _compute_with(threads: int) -> None:
    import torch  # noqa: PLC0415 - takes seconds, and many commands compute nothing

    torch.set_num_threads(threads)


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device's memory was too small, by PyTorch if it was imported at all."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


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

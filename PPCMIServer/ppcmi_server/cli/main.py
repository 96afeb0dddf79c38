"""Entry point of ``ppcmi-server``: the only place that reads the environment and turns errors into exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from ppcmi.cli.console import Console
from ppcmi.cli.parsers import Parser, add_modules
from ppcmi.errors import CancelledError, PpcmiError
from ppcmi_server import __version__
from ppcmi_server.cli.last_folder import LastFolder
from ppcmi_server.cli.options import Command
from ppcmi_server.errors import OperatorError

DESCRIPTION = """\
The server of private collaborative segmentation: it maps and learns from keyed latents, and never sees an image.

An operator's way, in order:
  ppcmi-server init DIR            make a server's folder
  ppcmi-server task add FILE       what can be segmented
  ppcmi-server site add NAME       prints a one-time code; the site gives it to 'ppcmi site init'
  ppcmi-server serve DIR           answer the sites
  ppcmi-server train TASK          once sites have uploaded cohorts
  ppcmi-server model activate      once sites have validated the model

Research use only; not a medical device.
"""

COMMANDS = {
    "init": "Make a server's folder with new keys and an empty database. Later commands find the folder by themselves.",
    "config": "Settings: server.toml and the environment.",
    "tls": "The server's certificate.",
    "operator": "Operators: who may use the dashboard, and what may read the metrics.",
    "task": "Tasks: what can be segmented.",
    "site": "Sites: who may take part.",
    "cohort": "Cohorts: what the sites have uploaded.",
    "network": "Networks that members share with each other, encrypted.",
    "serve": (
        "Answer the sites until Ctrl-C or SIGTERM, and go on with trainings that were interrupted. Other machines "
        "are served over TLS only."
    ),
    "train": (
        "Train a model on all whole cohorts of a task. A training that was interrupted goes on from its checkpoint."
    ),
    "job": "Training jobs.",
    "model": "Models: trained, validated by the sites, activated by you.",
    "audit": "The audit log: who did what, and whether it is whole.",
    "keys": "The server's own keys at rest; stop the server first.",
    "backup": (
        "Write database, latents, models and settings into one file while the server goes on serving. Keys are in it "
        "only with --with-keys. 'backup check FILE' looks at every byte of one."
    ),
    "restore": (
        "Make a server from a backup in a new folder, on this machine or another. Environment variables name a "
        "database and a blob store where they shall not lie in the folder."
    ),
    "doctor": (
        "Look at settings, keys, database, blobs, models, audit log, disk and backups: a line each, and what to do. "
        "Exit code 0 says that there is no problem."
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; its exit code."""
    console = Console()
    try:
        words = sys.argv[1:] if argv is None else argv
        options = build_parser(words).parse_args(words)
        console = Console(quiet=options.quiet)
        last = LastFolder(Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "ppcmi" / "server")
        run: int = options.run(Command(options, console, _server_folder(options, last), os.environ, last))
    except PpcmiError as error:
        return _end(console, str(error), error.exit_code)
    except SQLAlchemyError as error:
        kind = type(error).__name__
        return _end(console, f"The database does not work ({kind}); is it there, and whole?", OperatorError.exit_code)
    except KeyboardInterrupt:
        return _end(console, "Cancelled; what was finished before is kept.", CancelledError.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read our output has read enough
        return 0
    return run


def build_parser(words: Sequence[str] | None = None) -> Parser:
    """The parser of every command, or the one that ``words``, if given, need."""
    parser = Parser(prog="ppcmi-server", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"ppcmi-server {__version__}")
    add_modules(parser, "ppcmi_server.cli", COMMANDS, words)
    return parser


def _server_folder(options: object, last: LastFolder) -> Path:
    """The folder that is named, or ``$PPCMI_SERVER_DIR``, or that of the last ``init``, or the current one."""
    for named in (getattr(options, "folder", None), getattr(options, "dir", None)):
        if isinstance(named, Path):
            return named
    from_environment = os.environ.get("PPCMI_SERVER_DIR")
    if from_environment:
        return Path(from_environment)
    remembered = last.read()
    return remembered if remembered is not None and remembered.is_dir() else Path()


def _end(console: Console, sentence: str, exit_code: int) -> int:
    console.remark(f"ppcmi-server: {sentence}")
    return exit_code


if __name__ == "__main__":
    sys.exit(main())

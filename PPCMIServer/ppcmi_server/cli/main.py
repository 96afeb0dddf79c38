"""Entry point of ``ppcmi-server``: the only place that reads the environment and turns errors into exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from ppcmi.cli.console import Console
from ppcmi.cli.parsers import Parser
from ppcmi.errors import CancelledError, PpcmiError
from ppcmi_server import __version__
from ppcmi_server.cli import (
    audit,
    backup,
    cohort,
    config,
    doctor,
    job,
    keys,
    model,
    network,
    operator,
    serve,
    server,
    site,
    task,
    tls,
    train,
)
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; its exit code."""
    console = Console()
    try:
        options = build_parser().parse_args(argv)
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


def build_parser() -> Parser:
    """The parser of every command."""
    parser = Parser(prog="ppcmi-server", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"ppcmi-server {__version__}")
    groups = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="group")
    for module in (
        server, config, tls, operator, task, site, cohort, network, serve, train, job, model, audit, keys, backup,
        doctor,
    ):  # fmt: skip
        module.add_parsers(groups)
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

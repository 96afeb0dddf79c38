"""What a server command gets, and the options that all commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sqlalchemy.orm import Session

from ppcmi.cli.console import Console
from ppcmi.cli.options import Parser
from ppcmi.errors import TaskError
from ppcmi_server.cli.last_folder import LastFolder
from ppcmi_server.config import ServerConfig, load_config
from ppcmi_server.database.engine import Database
from ppcmi_server.database.schema import Task
from ppcmi_server.errors import RefusalError
from ppcmi_server.tasks import find_task


@dataclass(frozen=True)
class Command:
    """A command's options, where to write, the server's folder, and where the last ``init`` is remembered."""

    options: argparse.Namespace
    console: Console
    folder: Path
    last_folder: LastFolder

    @cached_property
    def config(self) -> ServerConfig:
        """The server's settings."""
        return load_config(self.folder, self.options.device)

    @cached_property
    def database(self) -> Database:
        """The server's database, in this version's form."""
        database = Database(self.config)
        database.upgrade()
        return database


Run = Callable[[Command], int]


def add_group(
    groups: argparse._SubParsersAction[Parser], name: str, summary: str
) -> argparse._SubParsersAction[Parser]:
    """A command group such as ``ppcmi-server site``."""
    parser = groups.add_parser(name, help=summary, description=summary)
    return parser.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="command")


def add_command(
    group: argparse._SubParsersAction[Parser], name: str, run: Run, summary: str, example: str
) -> argparse.ArgumentParser:
    """A command with the options that all have."""
    parser = group.add_parser(name, help=summary, description=summary, epilog=f"example:\n  {example}")
    parser.set_defaults(run=run)
    parser.add_argument(
        "--dir",
        type=Path,
        metavar="DIR",
        help="the server's folder (default: $PPCMI_SERVER_DIR, else the folder of the last 'init', else this folder)",
    )
    parser.add_argument("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda or mps (default: auto)")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    return parser


def task_named(session: Session, name: str) -> Task:
    """The task of that name.

    :raises TaskError: if the server has none.
    """
    try:
        return find_task(session, name)
    except RefusalError as error:
        raise TaskError("The server has no task of that name; 'ppcmi-server task list' shows those it has.") from error

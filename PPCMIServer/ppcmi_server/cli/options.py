"""What a server command gets, and the options that all commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sqlalchemy.orm import Session

from ppcmi.cli.console import Console
from ppcmi.cli.parsers import Groups, Parser, add_runnable
from ppcmi.errors import TaskError
from ppcmi_server.cli.last_folder import LastFolder
from ppcmi_server.config import ServerConfig, load_config
from ppcmi_server.database.engine import Database
from ppcmi_server.database.schema import Task
from ppcmi_server.errors import RefusalError
from ppcmi_server.tasks import find_task


@dataclass(frozen=True)
class Command:
    """Options, where to write, the folder, the environment, and where the folder of the last ``init`` is kept."""

    options: argparse.Namespace
    console: Console
    folder: Path
    environment: Mapping[str, str]
    last_folder: LastFolder

    @cached_property
    def config(self) -> ServerConfig:
        """The server's settings."""
        return load_config(self.folder, self.environment).on_device(self.options.device)

    @cached_property
    def database(self) -> Database:
        """The server's database, in this version's form."""
        database = Database(self.config)
        database.upgrade()
        return database


Run = Callable[[Command], int]


def add_command(group: Groups, name: str, run: Run, summary: str, example: str) -> Parser:
    """A command of an operator."""
    parser = add_runnable(group, name, run, summary, example)
    parser.add_argument(
        "--dir",
        type=Path,
        metavar="DIR",
        help="the server's folder (default: $PPCMI_SERVER_DIR, else the folder of the last 'init', else this folder)",
    )
    return parser


def task_named(session: Session, name: str) -> Task:
    """The task of that name.

    :raises TaskError: if the server has none.
    """
    try:
        return find_task(session, name)
    except RefusalError as error:
        raise TaskError("The server has no task of that name; 'ppcmi-server task list' shows those it has.") from error

"""What a site's command gets, and the options that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ppcmi.cli.console import Console
from ppcmi.cli.parsers import Groups, Parser, add_runnable
from ppcmi.site import SiteProfile

if TYPE_CHECKING:
    import torch

EVENTS = "--events"

MOST_THREADS = 1024
"""More than any machine gains from; the library that starts them ends the process where there are far too many."""


@dataclass(frozen=True)
class Command:
    """What a command gets: its options, where to write, and the folder of the site profile."""

    options: argparse.Namespace
    console: Console
    site_folder: Path

    def site(self) -> SiteProfile:
        """The site's profile."""
        return SiteProfile.open(self.site_folder)

    def device(self) -> torch.device:
        """The device that was asked for."""
        from ppcmi.device import choose_device  # noqa: PLC0415 - takes seconds, and many commands compute nothing

        return choose_device(self.options.device)


Run = Callable[[Command], int]


def add_command(group: Groups, name: str, run: Run, summary: str, example: str) -> Parser:
    """A command of a site."""
    parser = add_runnable(group, name, run, summary, example)
    parser.add_argument(
        "--site",
        type=Path,
        metavar="DIR",
        help="folder of the site profile (default: $PPCMI_SITE_DIR, else ~/.config/ppcmi/site)",
    )
    parser.add_argument(
        "--threads",
        type=_threads,
        metavar="N",
        help="how many processor threads compute (default: all cores; on a busy machine 1 is much faster)",
    )
    parser.add_argument(EVENTS, action="store_true", help="write JSON objects, one a line, for a program to read")
    parser.add_argument(
        "--end-with-stdin", action="store_true", help="end when standard input is closed, so that no parent leaves it"
    )
    return parser


def add_task(parser: argparse.ArgumentParser) -> None:
    """``--task``."""
    parser.add_argument("--task", required=True, metavar="T", help="name of the task, e.g. hippocampus-mr")


def add_cases(parser: argparse.ArgumentParser, fold: str) -> None:
    """``--cases``, ``--fold`` and ``--where``: which cases of a folder."""
    parser.add_argument(
        "--cases",
        "--input",
        dest="cases",
        required=True,
        type=Path,
        metavar="FOLDER",
        help="folder with images/, labels/ (same file names) and perhaps split.csv with a column id",
    )
    parser.add_argument(
        "--fold",
        default=fold,
        help=f"which fold of split.csv, or 'all' (default: {fold}); without folds all cases are used",
    )
    add_where(parser)


def add_where(parser: argparse.ArgumentParser) -> None:
    """``--where``."""
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="COLUMN=VALUE",
        help="only cases with this value in split.csv, e.g. site=A; may be given again",
    )


def _threads(text: str) -> int:
    count = int(text) if text.isascii() and text.isdecimal() else 0
    if not 1 <= count <= MOST_THREADS:
        raise argparse.ArgumentTypeError(f"a number of threads is from 1 to {MOST_THREADS}, not '{text}'")
    return count

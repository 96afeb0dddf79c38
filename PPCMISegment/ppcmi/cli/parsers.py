"""How the parsers of both commands, ``ppcmi`` and ``ppcmi-server``, are made."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any, NoReturn, TypeAlias

from ppcmi.errors import UsageError


class Parser(argparse.ArgumentParser):
    """Keeps examples' line breaks, and raises instead of printing the whole usage."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False, **options})

    def parse_known_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        """Every argument has to be known, to the parser that meets it: a command's own help has its options."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return options, unknown

    def error(self, message: str) -> NoReturn:
        """One line, as every other error."""
        raise UsageError(f"{message}; see '{self.prog} --help'.")


Groups: TypeAlias = "argparse._SubParsersAction[Parser]"


def add_modules(parser: Parser, package: str, summaries: Mapping[str, str], words: Sequence[str] | None) -> None:
    """A program's commands and command groups, each from the module of its name in ``package``.

    :param words: what was typed; of commands that it does not begin with there is the summary alone, as what they
        compute with takes seconds to import. None is for the whole of every command.
    """
    groups = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="group")
    for name, summary in summaries.items():
        if words is None or name in words[:1]:
            import_module(f"{package}.{name}").add_parsers(groups, summary)
        else:
            groups.add_parser(name, help=summary)


def add_group(groups: Groups, name: str, summary: str) -> Groups:
    """A command group such as ``ppcmi site``."""
    parser = groups.add_parser(name, help=summary, description=summary)
    return parser.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="command")


def add_runnable(group: Groups, name: str, run: Callable[[Any], int], summary: str, example: str) -> Parser:
    """A command with the options that every command of both has; ``run`` gets what its program's commands get."""
    parser = group.add_parser(name, help=summary, description=summary, epilog=f"example:\n  {example}")
    parser.set_defaults(run=run)
    parser.add_argument("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda or mps (default: auto)")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    return parser

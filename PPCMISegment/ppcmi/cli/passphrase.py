"""How a command gets a passphrase: asked for, or from a file; never from its arguments, which others can see."""

from __future__ import annotations

import argparse
import getpass
import sys
import warnings
from pathlib import Path

from ppcmi.errors import UsageError

STANDARD_INPUT = "-"
LONGEST_LINE = 1 << 13
BYTE_ORDER_MARK = "\ufeff"
"""Some editors write it at the beginning of a file; nobody could type it."""


def add_passphrase(parser: argparse.ArgumentParser) -> None:
    """``--passphrase-file``."""
    parser.add_argument(
        "--passphrase-file",
        metavar="FILE",
        help="file whose first line is the passphrase, or - for standard input (default: ask)",
    )


def ask_passphrase(options: argparse.Namespace) -> str:
    """The passphrase of a file that exists."""
    return _from_file(options) if options.passphrase_file else _ask("Passphrase: ")


def ask_new_passphrase(options: argparse.Namespace) -> str:
    """A passphrase to come, asked for twice.

    :raises UsageError: if the two differ.
    """
    if options.passphrase_file:
        return _from_file(options)
    first = _ask("Passphrase, at least 12 characters: ")
    if _ask("The same again: ") != first:
        raise UsageError("The two passphrases differ; try again.")
    return first


def ask_secret(prompt: str, what: str, option: str) -> str:
    """What somebody types at the terminal, unseen.

    :param what: it is, for the sentence: ``passphrase``.
    :param option: names a file that has it, for where nobody can be asked.
    :raises UsageError: if there is no terminal that hides it, or nothing is typed there.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", getpass.GetPassWarning)
            return getpass.getpass(prompt)
    except (EOFError, getpass.GetPassWarning) as error:
        raise UsageError(f"No {what} was typed at a terminal; name a file that has it by {option}.") from error


def secret_in(file: str, what: str) -> str:
    """The first line of a file, or of standard input where it is ``-``.

    :param what: it is, for the sentence: ``the passphrase``.
    :raises UsageError: if the file cannot be read.
    """
    try:
        if file == STANDARD_INPUT:
            line = sys.stdin.readline(LONGEST_LINE)
        else:
            with Path(file).open(encoding="utf-8") as stream:
                line = stream.readline(LONGEST_LINE)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The file with {what} cannot be read; check its name.") from error
    return line.removeprefix(BYTE_ORDER_MARK).rstrip("\r\n")


def _ask(prompt: str) -> str:
    return ask_secret(prompt, "passphrase", "--passphrase-file")


def _from_file(options: argparse.Namespace) -> str:
    return secret_in(options.passphrase_file, "the passphrase")

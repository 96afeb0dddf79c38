"""``ppcmi-server doctor``: is everything well, and what should be seen to."""

from __future__ import annotations

from ppcmi.cli.parsers import Groups
from ppcmi_server.cli.config import report
from ppcmi_server.cli.options import Command, add_command
from ppcmi_server.operation.doctor import examine


def add_parsers(groups: Groups, summary: str) -> None:
    """The command."""
    add_command(
        groups,
        "doctor",
        _doctor,
        summary,
        "ppcmi-server doctor",
    )


def _doctor(command: Command) -> int:
    return report(command, list(examine(command.config)))

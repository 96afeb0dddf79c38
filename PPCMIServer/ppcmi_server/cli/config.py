"""``ppcmi-server config``: what the settings are, where they come from, and whether one could serve with them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ppcmi.cli.parsers import Groups, add_group
from ppcmi.wording import counted
from ppcmi_server.cli.options import Command, add_command
from ppcmi_server.config import inspect_config, sections
from ppcmi_server.errors import OperatorError
from ppcmi_server.operation.checks import Finding, serving_findings, storage_findings
from ppcmi_server.operation.settings_source import toml

MASK = '"********"'


def add_parsers(groups: Groups, summary: str) -> None:
    """The group's commands."""
    group = add_group(groups, "config", summary)
    add_command(
        group,
        "show",
        _show,
        "Every setting as it is in effect, where it comes from and what it says; what may hold a password is masked.",
        "ppcmi-server config show",
    )
    add_command(
        group,
        "check",
        _check,
        "Everything that would keep the server from serving as it is configured, in one list.",
        "ppcmi-server config check",
    )


def _show(command: Command) -> int:
    config, found = inspect_config(command.folder, command.environment)
    for name, kind in sections():
        command.console.result(f"[{name}]  # {kind.__doc__}")
        for part in fields(kind):
            value = getattr(getattr(config, name), part.name)
            shown = MASK if part.metadata["secret"] and value is not None else toml(value)
            origin = found.origins.get((name, part.name), "default")
            command.console.result(f"{part.name} = {shown}  # {origin}: {part.metadata['says']}")
        command.console.result("")
    for problem in found.problems:
        command.console.remark(f"problem: {problem}")
    return 0


def _check(command: Command) -> int:
    config, found = inspect_config(command.folder, command.environment)
    findings = [Finding("settings", "problem", problem) for problem in found.problems]
    if not findings:
        findings = [*serving_findings(config), *storage_findings(config)]
    return report(command, findings)


def report(command: Command, findings: list[Finding]) -> int:
    """Show findings a line each; 0 if there is nothing to mend.

    :raises OperatorError: saying how much there is to mend, if there is.
    """
    for finding in findings:
        command.console.result(f"{finding.level:<8} {finding.subject}: {finding.says}")
    counts: dict[str, Any] = {level: sum(f.level == level for f in findings) for level in ("problem", "warning")}
    if counts["problem"]:
        raise OperatorError(f"{counts['problem']} problems and {counts['warning']} warnings were found; see above.")
    command.console.remark(f"No problem, {counted(counts['warning'], 'warning')}.")
    return 0

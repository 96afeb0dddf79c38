"""``ppcmi-server audit``: who did what, and whether the log is whole."""

from __future__ import annotations

import re
from pathlib import Path

from ppcmi.cli.parsers import Groups, add_group
from ppcmi.errors import UsageError
from ppcmi.files import write_atomically
from ppcmi.wording import counted
from ppcmi_server import audit
from ppcmi_server.audit import AuditState
from ppcmi_server.cli.options import Command, add_command
from ppcmi_server.errors import OperatorError

SHOWN = 50


def add_parsers(groups: Groups, summary: str) -> None:
    """The group's commands."""
    group = add_group(groups, "audit", summary)
    parser = add_command(group, "list", _list, "The newest events, newest first.", "ppcmi-server audit list --count 20")
    parser.add_argument("--count", type=int, default=SHOWN, metavar="N", help=f"how many (default: {SHOWN})")
    parser = add_command(
        group,
        "verify",
        _verify,
        "Check that no event was changed, dropped or moved, and print the digest of the newest.",
        "ppcmi-server audit verify --file audit.jsonl",
    )
    parser.add_argument("--file", type=Path, metavar="FILE", help="an exported log, instead of the server's own")
    parser.add_argument(
        "--head",
        action="append",
        default=[],
        metavar="DIGEST",
        help="a digest that was noted earlier, by you or a site: the log must still have it; may be repeated",
    )
    parser = add_command(
        group,
        "export",
        _export,
        "Write the log as lines of JSON, oldest event first; it can be verified without the server.",
        "ppcmi-server audit export audit.jsonl",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="file to write")


def _list(command: Command) -> int:
    if command.options.count < 1:
        raise UsageError("Option --count is at least 1.")
    with command.database.reading() as session:
        rows = [
            [str(found.id), found.at, found.actor, found.action, _objects(found.objects)]
            for found in audit.events(session, None, command.options.count)
        ]
    command.console.table(("Event", "Time", "Who", "What", "To what"), rows)
    return 0


def _verify(command: Command) -> int:
    file, heads = command.options.file, [head.strip().lower() for head in command.options.head]
    if not all(re.fullmatch("[0-9a-f]{64}", head) for head in heads):
        raise UsageError("A digest has 64 hex digits.")
    if file is None:
        with command.database.reading() as session:
            state = audit.verify(session)
            missing = [head for head in heads if audit.event_of(session, head) is None]
    else:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise OperatorError("The exported audit log cannot be read; is it there, and whole?") from error
        state = audit.verify_lines(lines)
        missing = [head for head in heads if not any(f'"digest": "{head}"' in line for line in lines)]
    return _tell(command, state, missing)


def _tell(command: Command, state: AuditState, missing: list[str]) -> int:
    if state.first_broken is not None:
        raise OperatorError(
            f"Event {state.first_broken} does not follow from those before it: one was changed, dropped or moved. "
            "Compare with a backup."
        )
    if missing:
        raise OperatorError(
            "The log does not have a digest that it once had: it was rolled back or written anew. "
            "Compare with a backup."
        )
    command.console.result(f"{counted(state.events, 'event')}, each following from those before it.")
    if state.unchained:
        command.console.result(f"The first {state.unchained} are older than digests; the first digest covers them.")
    command.console.result(f"Digest of the newest: {state.head or 'none yet'}")
    return 0


def _export(command: Command) -> int:
    with command.database.reading() as session:
        lines = list(audit.export(session))
    write_atomically(command.options.file, "".join(line + "\n" for line in lines).encode(), mode=0o600)
    command.console.result(f"Exported {counted(len(lines), 'event')}.")
    return 0


def _objects(objects: dict[str, str | int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(objects.items()))

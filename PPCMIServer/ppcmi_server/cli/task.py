"""``ppcmi-server task``: what can be segmented."""

from __future__ import annotations

from pathlib import Path

from ppcmi.cli.parsers import Groups, add_group
from ppcmi.task import load_task, parse_task
from ppcmi_server import models, tasks
from ppcmi_server.cli.options import Command, add_command


def add_parsers(groups: Groups, summary: str) -> None:
    """The group's commands."""
    group = add_group(groups, "task", summary)
    parser = add_command(
        group, "add", _add, "Offer a task to the sites.", "ppcmi-server task add Resources/Tasks/hippocampus-mr.json"
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="task file (JSON)")
    add_command(group, "list", _list, "Every task, its active model and number of members.", "ppcmi-server task list")


def _add(command: Command) -> int:
    document = load_task(command.options.file)
    with command.database.writing() as session:
        tasks.add_task(session, document)
    command.console.result(f"Added {document.identity}: {document.title}.")
    return 0


def _list(command: Command) -> int:
    with command.database.reading() as session:
        rows = []
        for task in tasks.list_tasks(session):
            active = models.active_model(session, task)
            identity = parse_task(task.document).identity
            rows.append([identity, "-" if active is None else str(active.number), str(tasks.members(session, task))])
    command.console.table(("Task", "Active model", "Members"), rows)
    return 0

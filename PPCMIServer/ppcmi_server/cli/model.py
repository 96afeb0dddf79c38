"""``ppcmi-server model``: what was trained, what the sites say of it, and which one maps."""

from __future__ import annotations

from statistics import fmean

from ppcmi.cli.parsers import Groups, add_group
from ppcmi_server import models
from ppcmi_server.cli.options import Command, add_command, task_named
from ppcmi_server.database.schema import Validation


def add_parsers(groups: Groups, summary: str) -> None:
    """The group's commands."""
    group = add_group(groups, "model", summary)
    listing = add_command(
        group, "list", _list, "Every model of a task with the sites' scores.", "ppcmi-server model list phantom"
    )
    activate = add_command(
        group,
        "activate",
        _activate,
        "Have a model answer the sites from now on; the one before it is retired.",
        "ppcmi-server model activate phantom 1",
    )
    roll_back = add_command(
        group,
        "rollback",
        _roll_back,
        "Have the model answer again that did so before the active one. Once more goes back further.",
        "ppcmi-server model rollback phantom",
    )
    for parser in (listing, activate, roll_back):
        parser.add_argument("task", metavar="TASK", help="the task's name")
    activate.add_argument("number", type=int, metavar="N", help="the model's number")


def _list(command: Command) -> int:
    console = command.console
    with command.database.reading() as session:
        task = task_named(session, command.options.task)
        found = models.list_models(session, task)
        rows = [
            [
                str(m.number),
                m.state,
                m.profile,
                m.preset,
                str(m.cases),
                str(m.slices),
                m.created,
                "yes" if m.withdrawn_data else "no",
            ]
            for m in found
        ]
        said = [
            f"model {m.number}, {site.name}: Dice {_dice(validation, 'labels')} over {validation.numbers['cases']} "
            f"cases, alone {_dice(validation, 'alone')}"
            for m in found
            for validation, site in models.validations(session, m)
        ]
    console.table(("Model", "State", "Profile", "Preset", "Cases", "Slices", "Made", "Data withdrawn"), rows)
    for line in said:
        console.result(line)
    return 0


def _activate(command: Command) -> int:
    with command.database.writing() as session:
        task = task_named(session, command.options.task)
        models.activate(session, task, command.options.number)
    command.console.result(f"Model {command.options.number} of {command.options.task} is active.")
    return 0


def _roll_back(command: Command) -> int:
    with command.database.writing() as session:
        number = models.roll_back(session, task_named(session, command.options.task))
    command.console.result(f"Model {number} of {command.options.task} is active again.")
    return 0


def _dice(validation: Validation, part: str) -> str:
    scores = [s["dice"] for s in validation.numbers.get(part, {}).values() if s.get("dice") is not None]
    return f"{fmean(scores):.3f}" if scores else "-"

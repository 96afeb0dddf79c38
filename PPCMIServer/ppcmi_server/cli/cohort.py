"""``ppcmi-server cohort``: what the sites have uploaded, and what of it is trained on."""

from __future__ import annotations

from ppcmi.cli.parsers import Groups, add_group
from ppcmi_server.cli.options import Command, add_command, task_named
from ppcmi_server.database.schema import Cohort
from ppcmi_server.intake import cohorts
from ppcmi_server.services import open_services
from ppcmi_server.settings import MEBIBYTE
from ppcmi_server.storage.blobs import open_blobs
from ppcmi_server.training import jobs


def add_parsers(groups: Groups, summary: str) -> None:
    """The group's commands."""
    group = add_group(groups, "cohort", summary)
    parser = add_command(
        group, "list", _list, "Every cohort, its site, and how much it takes.", "ppcmi-server cohort list phantom"
    )
    parser.add_argument("task", metavar="TASK", nargs="?", help="the task's name (default: all)")
    for name, run, words in (
        ("exclude", _exclude, "Leave a cohort out of trainings from now on; its bytes stay."),
        ("include", _include, "Train on an excluded cohort again."),
        (
            "withdraw",
            _withdraw,
            "Take a cohort back for its site: its bytes are gone for good, models that were trained on it are marked.",
        ),
    ):
        parser = add_command(group, name, run, words, f"ppcmi-server cohort {name} 00112233445566778899aabbccddeeff")
        parser.add_argument("cohort", metavar="ID", help="the cohort's id, as 'cohort list' shows it")


def _list(command: Command) -> int:
    with command.database.reading() as session:
        task = None if command.options.task is None else task_named(session, command.options.task)
        rows = [
            [
                cohort.id,
                site.name,
                of.name,
                _state(cohort, fits),
                str(cohort.cases),
                str(cohort.slices),
                f"{cohort.stored_bytes / MEBIBYTE:.1f}",
                cohort.touched or cohort.created,
            ]
            for cohort, site, of, fits in cohorts.list_cohorts(session, task)
        ]
    command.console.table(("Cohort", "Site", "Task", "State", "Cases", "Slices", "MiB", "Last received"), rows)
    return 0


def _exclude(command: Command) -> int:
    with command.database.writing() as session:
        cohorts.set_excluded(session, command.options.cohort, True)
    command.console.result("Excluded: the next training leaves it out.")
    blobs = open_blobs(command.config.storage, command.config.folder)
    with command.database.reading() as session:
        note = jobs.note_on_exclusion(session, blobs, command.options.cohort)
    if note:
        command.console.result(note)
    return 0


def _include(command: Command) -> int:
    with command.database.writing() as session:
        cohorts.set_excluded(session, command.options.cohort, False)
    command.console.result("Included: the next training takes it in.")
    return 0


def _withdraw(command: Command) -> int:
    services = open_services(command.config)
    try:
        services.cohorts.withdraw_by_operator(command.options.cohort)
    finally:
        services.database.close()
    command.console.result("Withdrawn: its bytes and its key are gone.")
    return 0


def _state(cohort: Cohort, fits: bool) -> str:
    if cohort.state == "whole" and not fits:
        return "whole, of an earlier codec"
    return f"{cohort.state}, excluded" if cohort.excluded is not None else cohort.state

"""``ppcmi-server network``: the networks that members leave for each other, which nobody here can open."""

from __future__ import annotations

from ppcmi.cli.parsers import Groups, add_group
from ppcmi_server import shared_networks
from ppcmi_server.access.identity import site_named
from ppcmi_server.cli.options import Command, add_command, task_named
from ppcmi_server.services import open_services
from ppcmi_server.settings import MEBIBYTE


def add_parsers(groups: Groups, summary: str) -> None:
    """The group's commands."""
    group = add_group(groups, "network", summary)
    parser = add_command(
        group, "list", _list, "Which sites share a network, since when, and its size.", "ppcmi-server network list"
    )
    parser.add_argument("task", metavar="TASK", nargs="?", help="the task's name (default: all)")
    parser = add_command(
        group,
        "withdraw",
        _withdraw,
        "Take a site's network back for it: its bytes are gone here. Members that got it before keep it.",
        'ppcmi-server network withdraw phantom "Hospital A"',
    )
    parser.add_argument("task", metavar="TASK", help="the task's name")
    parser.add_argument("site", metavar="SITE", help="the site's name")


def _list(command: Command) -> int:
    with command.database.reading() as session:
        task = None if command.options.task is None else task_named(session, command.options.task)
        rows = [
            [of.name, site.name, network.shared, f"{network.stored_bytes / MEBIBYTE:.1f}"]
            for network, site, of in shared_networks.list_stored(session, task)
        ]
    command.console.table(("Task", "Site", "Shared", "MiB"), rows)
    return 0


def _withdraw(command: Command) -> int:
    services = open_services(command.config)
    try:
        with services.database.writing() as session:
            task, site = task_named(session, command.options.task), site_named(session, command.options.site)
            blob = shared_networks.withdraw_by_operator(session, task, site)
        if blob is not None:
            services.blobs.delete(blob)
    finally:
        services.database.close()
    command.console.result(
        "The server has no network of that site for the task." if blob is None else "Withdrawn: its bytes are gone."
    )
    return 0

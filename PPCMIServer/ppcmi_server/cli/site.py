"""``ppcmi-server site``: who may take part."""

from __future__ import annotations

from ppcmi import sealing
from ppcmi.cli.parsers import Groups, add_group
from ppcmi_server import identity
from ppcmi_server.cli.options import Command, add_command
from ppcmi_server.database.schema import Site


def add_parsers(groups: Groups) -> None:
    """The group's commands."""
    group = add_group(groups, "site", "Sites: who may take part.")
    for name, run, summary in (
        ("add", _add, "Add a site and print its one-time code; tell it to the site on a way that you trust."),
        ("code", _code, "Print another code for a site that has not enrolled; earlier ones no longer work."),
    ):
        parser = add_command(group, name, run, summary, f'ppcmi-server site {name} "Hospital A"')
        parser.add_argument("name", metavar="NAME", help="the site's name, as other sites will see it")
        parser.add_argument(
            "--days", type=float, default=identity.CODE_DAYS, metavar="N", help="how long the code works (default: 7)"
        )
    add_command(group, "list", _list, "Every site, its state and the fingerprint of its key.", "ppcmi-server site list")
    parser = add_command(
        group,
        "revoke",
        _revoke,
        "End a site's access at once. Its cohorts stay; withdrawing them is the site's own right.",
        'ppcmi-server site revoke "Hospital A"',
    )
    parser.add_argument("name", metavar="NAME", help="the site's name")


def _add(command: Command) -> int:
    with command.database.writing() as session:
        code = identity.add_site(session, command.options.name, command.options.days)
    return _tell(command, code)


def _code(command: Command) -> int:
    with command.database.writing() as session:
        code = identity.renew_code(session, command.options.name, command.options.days)
    return _tell(command, code)


def _tell(command: Command, code: str) -> int:
    command.console.result(code)
    command.console.remark(f"It works once, within {command.options.days:g} days, in 'ppcmi site init --code ...'.")
    return 0


def _list(command: Command) -> int:
    with command.database.reading() as session:
        rows = [[site.name, _state(site), _fingerprint(site)] for site in identity.list_sites(session)]
    command.console.table(("Site", "State", "Fingerprint"), rows)
    return 0


def _revoke(command: Command) -> int:
    with command.database.writing() as session:
        identity.revoke_site(session, command.options.name)
    command.console.result("Revoked: its tokens and codes no longer work.")
    return 0


def _state(site: Site) -> str:
    if site.revoked is not None:
        return "revoked"
    return "invited" if site.enrolled is None else "enrolled"


def _fingerprint(site: Site) -> str:
    return "-" if site.public_key is None else sealing.fingerprint(site.public_key)

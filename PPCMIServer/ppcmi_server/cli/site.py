"""``ppcmi-server site``: who may take part."""

from __future__ import annotations

import re

from ppcmi import sealing
from ppcmi.cli.parsers import Groups, add_group
from ppcmi.errors import UsageError
from ppcmi_server.access import identity
from ppcmi_server.cli.operator import TOKEN_COLUMNS, token_row
from ppcmi_server.cli.options import Command, add_command
from ppcmi_server.database.schema import Site
from ppcmi_server.storage.blobs import open_blobs


def add_parsers(groups: Groups, summary: str) -> None:
    """The group's commands."""
    group = add_group(groups, "site", summary)
    for name, run, words in (
        ("add", _add, "Add a site and print its one-time code; tell it to the site on a way that you trust."),
        ("code", _code, "Print another code for a site that has not enrolled; earlier ones no longer work."),
    ):
        parser = add_command(group, name, run, words, f'ppcmi-server site {name} "Hospital A"')
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
    parser = add_command(
        group,
        "tokens",
        _tokens,
        "A site's tokens, without the tokens themselves: what each may be used for, and when it last was.",
        'ppcmi-server site tokens "Hospital A"',
    )
    parser.add_argument("name", metavar="NAME", help="the site's name")
    parser = add_command(
        group, "quota", _quota, "Say how much a site may store.", 'ppcmi-server site quota "Hospital A" 500G'
    )
    parser.add_argument("name", metavar="NAME", help="the site's name")
    parser.add_argument("size", metavar="SIZE", help="such as 500G or 2T, or default for what server.toml says")
    parser = add_command(
        group,
        "weight",
        _weight,
        "Say how much each of a site's slices counts in further trainings; for others it is 1.",
        'ppcmi-server site weight "Hospital A" 0.5',
    )
    parser.add_argument("name", metavar="NAME", help="the site's name")
    parser.add_argument("weight", metavar="WEIGHT", type=float, help="0 leaves them out of what is learned")
    parser = add_command(
        group,
        "forget-certificate",
        _forget_certificate,
        "Let a site come with a new certificate, where the server asks for one: the next that it shows is bound to it.",
        'ppcmi-server site forget-certificate "Hospital A"',
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
        unneeded = identity.revoke_site(session, command.options.name)
    blobs = open_blobs(command.config.storage, command.config.folder)
    for blob in unneeded:
        blobs.delete(blob)
    command.console.result("Revoked: its tokens and codes no longer work.")
    return 0


def _tokens(command: Command) -> int:
    with command.database.reading() as session:
        site = identity.site_named(session, command.options.name)
        rows = [token_row(token) for token in identity.tokens_of(session, site.id)]
    command.console.table(TOKEN_COLUMNS, rows)
    return 0


def _quota(command: Command) -> int:
    quota = parse_size(command.options.size)
    with command.database.writing() as session:
        identity.set_quota(session, command.options.name, quota)
    command.console.result("The quota holds from now on; what is stored already stays.")
    return 0


def _weight(command: Command) -> int:
    with command.database.writing() as session:
        identity.set_weight(session, command.options.name, command.options.weight)
    command.console.result("The weight holds for trainings that are started from now on.")
    return 0


def _forget_certificate(command: Command) -> int:
    with command.database.writing() as session:
        identity.forget_certificate(session, command.options.name)
    command.console.result("The next certificate that the site shows is bound to it.")
    return 0


def parse_size(text: str) -> int | None:
    """Bytes of ``500G`` and the like (powers of 1024), None for ``default``.

    :raises UsageError: if it is neither.
    """
    if text == "default":
        return None
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,3})?)([KMGT]?)", text.strip().upper())
    if found is None:
        raise UsageError("A size is a number with K, M, G or T, such as 500G, or default.")
    return int(float(found[1]) * 1024 ** " KMGT".index(found[2] or " "))


def _state(site: Site) -> str:
    if site.revoked is not None:
        return "revoked"
    return "invited" if site.enrolled is None else "enrolled"


def _fingerprint(site: Site) -> str:
    return "-" if site.public_key is None else sealing.fingerprint(site.public_key)

"""``ppcmi site``: enrol at a server, show the profile, test the connection, share the profile."""

from __future__ import annotations

from pathlib import Path

from ppcmi import sealing
from ppcmi.audit_receipt import compare_receipt
from ppcmi.cli import site_token
from ppcmi.cli.options import Command, add_command
from ppcmi.cli.parsers import Groups, add_group
from ppcmi.cli.passphrase import add_passphrase, ask_new_passphrase, ask_passphrase
from ppcmi.connection_check import check_site
from ppcmi.connections import ClientCertificate
from ppcmi.consent_log import CODEC, NETWORK, Consent, ConsentLog
from ppcmi.errors import UsageError
from ppcmi.site import SiteProfile
from ppcmi.site_token import rotate_token
from ppcmi.site_transfer import export_profile, export_whole_profile, import_profile
from ppcmi.wording import counted, megabytes, printable


def add_parsers(groups: Groups, summary: str) -> None:
    """The group's commands."""
    group = add_group(groups, "site", summary)
    parser = add_command(
        group,
        "init",
        _init,
        "Make the site's keys and enrol at a server with the one-time code that its operator gave you.",
        "ppcmi site init --server https://ppcmi.example.org:8765 --code abcd-efgh-ijkl",
    )
    parser.add_argument("--server", required=True, metavar="URL", help="the server's address")
    parser.add_argument("--code", required=True, help="one-time code from 'ppcmi-server site add'")
    parser.add_argument(
        "--ca",
        type=Path,
        metavar="FILE",
        help="certificate authority (PEM) of the server, where the system does not know it",
    )
    parser.add_argument(
        "--pin",
        metavar="SHA256",
        help="trust the one certificate with this SHA-256, which the server's operator reads to you, instead of --ca",
    )
    parser.add_argument(
        "--cert", type=Path, metavar="FILE", help="this site's own certificate (PEM), where the server asks for one"
    )
    parser.add_argument("--key", type=Path, metavar="FILE", help="the private key (PEM) of --cert")
    add_command(group, "show", _show, "Who the site is and what it takes part in; nothing secret.", "ppcmi site show")
    add_command(
        group, "test", _test, "Call the server: does it know the site, and which tasks does it have?", "ppcmi site test"
    )
    add_command(
        group,
        "consents",
        _consents,
        "What this site's users were asked about and agreed to send, and when; what is sent without a question, as to "
        "segment, is not in it. The log never leaves.",
        "ppcmi site consents",
    )
    add_command(
        group,
        "rotate-token",
        _rotate_token,
        "Replace the token by which the server knows this site; the old one ends.",
        "ppcmi site rotate-token",
    )
    site_token.add_parsers(group)
    parser = add_command(
        group,
        "export",
        _export,
        "Write the profile, keys included, into one file under a passphrase, for the department's other workstations.",
        "ppcmi site export site.ppcmi-site",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="file to write")
    parser.add_argument(
        "--with-cases",
        action="store_true",
        help="also which case hides behind which pseudonym, to move the site to another machine",
    )
    add_passphrase(parser)
    parser = add_command(
        group,
        "import",
        _import,
        "Take up a profile that was exported; an existing one is never overwritten.",
        "ppcmi site import site.ppcmi-site",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="file from 'ppcmi site export'")
    add_passphrase(parser)


def _init(command: Command) -> int:
    options, console = command.options, command.console
    if (options.cert is None) != (options.key is None):
        raise UsageError("Options --cert and --key belong together; give both or none.")
    own = None if options.cert is None else ClientCertificate(options.cert, options.key)
    site = SiteProfile.enrol(
        command.site_folder, options.server, options.code, options.ca, pin=options.pin, certificate=own
    )
    console.result(f"Enrolled as {site.identity.site_name} at {site.identity.server_url}.")
    console.result(f"This site's fingerprint:   {sealing.fingerprint(site.public_key)}")
    console.result(f"The server's fingerprint:  {sealing.fingerprint(site.identity.server_public_key)}")
    console.remark("Compare the server's fingerprint with what its operator tells you.")
    console.remark("Next: 'ppcmi site test' lists the server's tasks; for one of them found the consortium by")
    console.remark(
        "'ppcmi consortium create --task T', or have a member invite you and 'ppcmi consortium join --task T'."
    )
    return 0


def _show(command: Command) -> int:
    site, console = command.site(), command.console
    console.result(f"Site         {site.identity.site_name} ({site.identity.site_id})")
    console.result(f"Server       {site.identity.server_url}")
    console.result(f"Fingerprint  {sealing.fingerprint(site.public_key)}")
    console.result(f"Server's     {sealing.fingerprint(site.identity.server_public_key)}")
    if site.identity.pin is not None:
        console.result(f"Pinned       {site.identity.pin}")
    for part in site.tasks():
        has = [name for name, path in (("codec", part.codec_path), ("decoder", part.decoder_path)) if path.exists()]
        role = "founder" if part.membership.founder else "member"
        console.result(
            f"Task         {part.task.identity}: {role}, scope {part.membership.scope}, mode {part.membership.mode}, "
            f"{' and '.join(has) or 'no codec yet'}"
        )
    return 0


def _consents(command: Command) -> int:
    entries = ConsentLog(command.site().folder).entries()
    rows = [[entry.time, entry.action, entry.task, _numbers_of(entry), entry.answer] for entry in entries]
    if not rows:
        command.console.remark("Nothing was exported from here yet.")
        return 0
    command.console.table(["time", "action", "task", "what", "answer"], rows)
    return 0


def _numbers_of(entry: Consent) -> str:
    """What was agreed to leave, as far as a line says it."""
    what = entry.what
    if entry.action == CODEC:
        return str(what.get("codec", "?"))
    if entry.action == NETWORK:
        rounds = counted(what.get("rounds", 0), "round")
        return f"{counted(what.get('cases', 0), 'case')}, {rounds}, {megabytes(what.get('bytes', 0))} each"
    return f"{counted(what.get('slices', 0), 'slice')}, profile {what.get('profile', '?')}"


def _export(command: Command) -> int:
    site, options, console = command.site(), command.options, command.console
    export = export_whole_profile if options.with_cases else export_profile
    members = export(site, options.file, ask_new_passphrase(options))
    console.result(f"Exported the profile of {site.identity.site_name} ({len(members)} files) to {options.file}.")
    console.remark("Whoever has this file and its passphrase is this site; tell the passphrase on another way.")
    if not options.with_cases:
        console.remark("The tables of cases stay here; what was uploaded from here is not known there.")
    return 0


def _import(command: Command) -> int:
    options, console = command.options, command.console
    site = import_profile(options.file, ask_passphrase(options), command.site_folder)
    console.result(f"This is {site.identity.site_name} now, at {site.identity.server_url}.")
    console.remark("Next: 'ppcmi site test'.")
    return 0


def _rotate_token(command: Command) -> int:
    rotate_token(command.site())
    command.console.result("The site has a new token; the old one ended.")
    return 0


def _test(command: Command) -> int:
    site, console = command.site(), command.console
    check = check_site(site)
    if not check.ready:
        console.error(f"{check.verdict}: {check.sentence}", check.exit_code)
        return check.exit_code
    console.result(check.sentence)
    client = site.client()
    if compare_receipt(site.folder, client):
        console.result("Its audit log still has what this site saw of it last.")
    names = [printable(str(dict(answer.get("task") or {}).get("name"))) for answer in client.tasks()]
    console.result(f"Its tasks: {', '.join(names) or 'none yet; the server has to be given one'}")
    return 0

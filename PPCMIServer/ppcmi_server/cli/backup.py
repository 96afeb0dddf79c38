"""``ppcmi-server backup``: write all that a server has into one file, or look at one."""

from __future__ import annotations

from pathlib import Path

from ppcmi.cli.parsers import Groups
from ppcmi.cli.passphrase import add_passphrase, ask_new_passphrase
from ppcmi.wording import counted
from ppcmi_server.cli.options import Command, add_command
from ppcmi_server.errors import OperatorError
from ppcmi_server.operation import backup
from ppcmi_server.operation.archive import check_archive
from ppcmi_server.services import open_services


def add_parsers(groups: Groups, summary: str) -> None:
    """The command."""
    parser = add_command(
        groups,
        "backup",
        _backup,
        summary,
        "ppcmi-server backup /backups/ppcmi.tar --with-keys",
    )
    parser.add_argument("action", nargs="?", choices=("check",), help="check: look at a backup instead of making one")
    parser.add_argument("file", type=Path, metavar="FILE", help="the backup; an earlier one there is replaced")
    parser.add_argument("--with-keys", action="store_true", help="with the key files, under a passphrase")
    add_passphrase(parser)


def _backup(command: Command) -> int:
    options, console = command.options, command.console
    if options.action == "check":
        manifest = check_archive(options.file)
        keys = "with" if manifest["keys"] else "without"
        console.result(
            f"The backup is whole: made {manifest['made']}, {counted(manifest['blobs'], 'blob')}, "
            f"{counted(manifest['rows'], 'row')}, {keys} keys, of the server with fingerprint {manifest['server']}."
        )
        if manifest.get("lost"):
            console.remark(f"{counted(manifest['lost'], 'blob')} had been lost before it was made.")
        return 0
    passphrase = ask_new_passphrase(options) if options.with_keys else None
    services = open_services(command.config)
    try:
        facts = backup.create_backup(services, options.file, passphrase)
    finally:
        services.database.close()
    console.result(
        f"Backed up {counted(facts.blobs, 'blob')} of {facts.bytes / 1e6:.1f} MB and {counted(facts.rows, 'row')}."
    )
    if passphrase is None:
        console.remark(
            "Without private.key and storage.key nobody can use it; back these up apart, or use --with-keys."
        )
    if facts.lost:
        raise OperatorError(
            f"The backup is written, but {counted(facts.lost, 'blob')} that it should have had cannot be found; "
            "'ppcmi-server doctor' says what to do."
        )
    return 0

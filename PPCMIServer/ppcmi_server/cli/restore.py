"""``ppcmi-server restore``: make a server from a backup."""

from __future__ import annotations

from pathlib import Path

from ppcmi.cli.parsers import Groups
from ppcmi.cli.passphrase import add_passphrase, ask_passphrase
from ppcmi.wording import counted
from ppcmi_server.cli.options import Command, add_command
from ppcmi_server.errors import OperatorError
from ppcmi_server.operation import restore


def add_parsers(groups: Groups, summary: str) -> None:
    """The command."""
    parser = add_command(
        groups,
        "restore",
        _restore,
        summary,
        "ppcmi-server restore /backups/ppcmi.tar /srv/ppcmi --with-keys",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the backup")
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder to make")
    parser.add_argument("--with-keys", action="store_true", help="with the key files that are in the backup")
    add_passphrase(parser)


def _restore(command: Command) -> int:
    options, console = command.options, command.console
    passphrase = ask_passphrase(options) if options.with_keys else None
    if options.file.resolve().parent == options.folder.resolve():
        raise OperatorError("The backup lies in the folder to restore into; move it elsewhere first.")
    facts = restore.restore(options.file, options.folder, command.environment, passphrase)
    console.result(f"Restored {counted(facts.blobs, 'blob')} and {counted(facts.rows, 'row')}.")
    if not facts.keys:
        console.remark("Now put private.key and storage.key into the folder, mode 0600.")
    where = f"--dir {options.folder}"
    console.remark(
        f"Next: 'ppcmi-server config check {where}' and 'ppcmi-server doctor {where}', then 'ppcmi-server serve "
        f"{options.folder}'."
    )
    return 0

"""``ppcmi-server backup`` and ``restore``."""

from __future__ import annotations

from pathlib import Path

from ppcmi.cli.parsers import Groups
from ppcmi.cli.passphrase import add_passphrase, ask_new_passphrase, ask_passphrase
from ppcmi.wording import counted
from ppcmi_server.cli.options import Command, add_command
from ppcmi_server.errors import OperatorError
from ppcmi_server.operation import backup, restore
from ppcmi_server.operation.archive import check_archive
from ppcmi_server.services import open_services


def add_parsers(groups: Groups) -> None:
    """Both commands."""
    parser = add_command(
        groups,
        "backup",
        _backup,
        "Write database, latents, models and settings into one file while the server goes on serving. Keys are in it "
        "only with --with-keys. 'backup check FILE' looks at every byte of one.",
        "ppcmi-server backup /backups/ppcmi.tar --with-keys",
    )
    parser.add_argument("action", nargs="?", choices=("check",), help="check: look at a backup instead of making one")
    parser.add_argument("file", type=Path, metavar="FILE", help="the backup; an earlier one there is replaced")
    parser.add_argument("--with-keys", action="store_true", help="with the key files, under a passphrase")
    add_passphrase(parser)
    parser = add_command(
        groups,
        "restore",
        _restore,
        "Make a server from a backup in a new folder, on this machine or another. Environment variables name a "
        "database and a blob store where they shall not lie in the folder.",
        "ppcmi-server restore /backups/ppcmi.tar /srv/ppcmi --with-keys",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the backup")
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder to make")
    parser.add_argument("--with-keys", action="store_true", help="with the key files that are in the backup")
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

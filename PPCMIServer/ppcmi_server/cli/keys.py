"""``ppcmi-server keys``: the server's own keys at rest."""

from __future__ import annotations

from pathlib import Path

from ppcmi.cli.parsers import Groups, add_group
from ppcmi_server.cli.options import Command, add_command
from ppcmi_server.storage.key_files import rotate_storage_key, wrap_key_files


def add_parsers(groups: Groups, summary: str) -> None:
    """The group's commands."""
    group = add_group(groups, "keys", summary)
    parser = add_command(
        group,
        "wrap",
        _wrap,
        "Encrypt the key files in the server's folder under a key that lies elsewhere, so that a copy of folder and "
        "database opens nothing.",
        "ppcmi-server keys wrap --key-file /etc/ppcmi/keys.key",
    )
    parser.add_argument(
        "--key-file",
        type=Path,
        required=True,
        metavar="FILE",
        help="file with that key, on another disk or in a credential store; it is made if it is not there",
    )
    add_command(
        group,
        "rotate-storage",
        _rotate_storage,
        "Replace the key that wraps each cohort's own; what is stored stays as it is. Where several servers share a "
        "database, stop all of them, and copy the new storage.key to the others.",
        "ppcmi-server keys rotate-storage",
    )


def _wrap(command: Command) -> int:
    wrap_key_files(command.config, command.options.key_file.resolve())
    command.console.result("The key files are encrypted.")
    command.console.remark(
        "Now name that file in server.toml, section storage, as key_file, or in PPCMI_SERVER_STORAGE_KEY_FILE; keep a "
        "copy of it apart from the server's backups: without it nothing of them can be opened."
    )
    return 0


def _rotate_storage(command: Command) -> int:
    count = rotate_storage_key(command.config, command.database)
    command.console.result(f"There is a new storage key; the keys of {count} cohorts are wrapped with it.")
    command.console.remark("Backups from before open with the storage key that is in them.")
    return 0

"""``ppcmi-server init``: make a server's folder."""

from __future__ import annotations

from pathlib import Path

from ppcmi import sealing
from ppcmi.cli.parsers import Groups
from ppcmi_server.cli.options import Command, add_command
from ppcmi_server.config import create_folder
from ppcmi_server.storage.keys import ServerKeys


def add_parsers(groups: Groups, summary: str) -> None:
    """The command."""
    parser = add_command(
        groups,
        "init",
        _init,
        summary,
        "ppcmi-server init /srv/ppcmi",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder to make; nobody else will be able to read it")


def _init(command: Command) -> int:
    console = command.console
    create_folder(command.folder)
    command.database.close()  # having been brought to this version's form
    command.last_folder.write(command.folder)
    public_key = ServerKeys.load(command.folder).public_key
    console.result(f"The server's fingerprint:  {sealing.fingerprint(public_key)}")
    console.remark("Its keys are in private.key and storage.key: back both up, apart from the data.")
    console.remark("Next: 'ppcmi-server task add FILE', then 'ppcmi-server serve'.")
    return 0

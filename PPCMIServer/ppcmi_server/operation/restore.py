"""A server made from a backup: in a new folder, on this machine or another, on this database or another.

Every byte of the backup is looked at before anything is written. The settings come last: a folder without them is no
server, so what an interrupted restore leaves behind is never served.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, BinaryIO

from ppcmi.files import write_atomically
from ppcmi.passphrase_file import DecryptedStream
from ppcmi_server import audit
from ppcmi_server.config import ServerConfig, load_config
from ppcmi_server.database.dump import read_dump, revision_of
from ppcmi_server.database.engine import Database
from ppcmi_server.errors import OperatorError
from ppcmi_server.operation.archive import CHUNK_BYTES, check_archive, members
from ppcmi_server.operation.backup import KEY_FILES, KEY_FILES_AT_TIMES
from ppcmi_server.operation.settings_source import SETTINGS_NAME
from ppcmi_server.storage.blobs import BlobStore, open_blobs

KEYS_BYTES = 1 << 16


@dataclass(frozen=True)
class RestoredFacts:
    """What was restored, and whether the keys were in the backup."""

    blobs: int
    rows: int
    keys: bool


def restore(backup: Path, folder: Path, environment: Mapping[str, str], passphrase: str | None = None) -> RestoredFacts:
    """Make a server in ``folder`` from a backup.

    :param environment: names database and blob store where they shall not lie in the folder.
    :param passphrase: of the keys in the backup; None leaves them where they are.
    :raises OperatorError: if the backup is not whole, or folder or database are not empty.
    :raises SiteError: if the passphrase is wrong.
    """
    manifest = check_archive(backup)
    if passphrase is not None and not manifest.get("keys"):
        raise OperatorError("The backup has no keys in it; put the key files into the folder yourself.")
    _require_empty(folder)
    with tempfile.TemporaryDirectory() as scratch:
        settings = Path(scratch) / SETTINGS_NAME
        settings.write_bytes(_first(backup, "settings.toml"))
        config = replace(load_config(Path(scratch), environment), folder=folder.resolve())
        keys = None if passphrase is None else _open_keys(_first(backup, "keys.ppcmi"), passphrase)
        _require_unused(config)
        _make_folder(config)
        facts = _restore_into(config, backup, Path(scratch))
        for name, content in (keys or {}).items():
            write_atomically(folder / name, content, mode=0o600)
        write_atomically(folder / SETTINGS_NAME, settings.read_bytes(), mode=0o600)
    return replace(facts, keys=keys is not None)


def _restore_into(config: ServerConfig, backup: Path, scratch: Path) -> RestoredFacts:
    blobs, store = 0, open_blobs(config.storage, config.folder)
    with (scratch / "database.jsonl").open("w+b") as dump:
        for name, content in members(backup):
            if name.startswith("blobs/"):
                _copy_blob(store, name.removeprefix("blobs/"), content)
                blobs += 1
            elif name == "database.jsonl":
                shutil.copyfileobj(content, dump, CHUNK_BYTES)
        dump.seek(0)
        database = Database(config)
        try:
            return RestoredFacts(blobs, _restore_rows(database, dump), keys=False)
        finally:
            database.close()


def _restore_rows(database: Database, dump: BinaryIO) -> int:
    """The tables of the backup's revision, its rows, then this version's form."""
    database.migrate(revision_of(dump))
    with database.writing() as session:
        rows = read_dump(session, dump)
    database.upgrade()
    with database.writing() as session:
        audit.record(session, audit.OPERATOR, "backup.restore", rows=rows)
    return rows


def _copy_blob(store: BlobStore, name: str, content: IO[bytes]) -> None:
    with store.writing(name) as file:
        while chunk := content.read(CHUNK_BYTES):
            file.write(chunk)


def _first(backup: Path, wanted: str) -> bytes:
    """A small member that comes before the blobs."""
    for name, content in members(backup):
        if name == wanted:
            return content.read(KEYS_BYTES * 16)
    raise OperatorError("The backup is damaged or cut off; use another.")


def _open_keys(content: bytes, passphrase: str) -> dict[str, bytes]:
    """The key files' contents by name.

    :raises SiteError: if the passphrase is wrong.
    """
    stream = DecryptedStream(io.BytesIO(content), passphrase)
    size = int.from_bytes(stream.read(4), "little")
    if size > KEYS_BYTES:
        raise OperatorError("The backup's keys are damaged; use another backup.")
    document = json.loads(stream.read(size))
    stream.require_end()
    names = [*KEY_FILES, *(name for name in KEY_FILES_AT_TIMES if name in document)]
    return {name: base64.b64decode(document[name]) for name in names}


def _make_folder(config: ServerConfig) -> None:
    try:
        for part in (config.folder, config.models_folder, config.folder / "jobs", config.folder / "blobs"):
            part.mkdir(mode=0o700, parents=True, exist_ok=True)
        config.folder.chmod(0o700)
    except OSError as error:
        raise OperatorError(f"The folder cannot be made ({error.strerror}); choose another.") from error


def _require_unused(config: ServerConfig) -> None:
    """A database elsewhere has no tables of a server yet."""
    if config.storage.database_url is None:
        return
    database = Database(config)
    try:
        if database.revision() is not None:
            raise OperatorError("The database is in use already; name an empty one.")
    finally:
        database.close()


def _require_empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OperatorError("The folder to restore into is not empty; name a new one.")

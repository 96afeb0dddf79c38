"""The server's key files at rest: encrypted under a key that lies elsewhere, and a new storage key now and then.

``private.key`` and ``storage.key`` hold base64, as they are or, beginning with ``wrapped:``, under AES-256-GCM with the
key of ``storage.key_file``: 32 bytes in base64 that the database, the blobs and a copy of the server's folder do not
have. A new storage key waits in ``storage.key.next`` until every cohort's key is wrapped with it, in one transaction;
whoever is interrupted before that does it again, and after that the server's next start ends it.
"""

from __future__ import annotations

import base64
import os
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from ppcmi.files import sync_folder, write_atomically
from ppcmi.locks import hold_lock
from ppcmi_server import audit
from ppcmi_server.config import ServerConfig
from ppcmi_server.database.engine import Database
from ppcmi_server.database.schema import Cohort
from ppcmi_server.errors import OperatorError
from ppcmi_server.storage.keys import (
    KEY_BYTES,
    NEXT_STORAGE_KEY,
    PRIVATE_KEY,
    STORAGE_KEY,
    ServerKeys,
    read_key_file,
    wrapped_text,
)
from ppcmi_server.training.jobs import unfinished_jobs


def wrap_key_files(config: ServerConfig, key_file: Path) -> None:
    """Encrypt the server's key files under the key in ``key_file``, which is made if it is not there.

    They may be wrapped already, with the key that the settings name. Interrupted, it is done again.

    :raises OperatorError: if a key is missing or damaged, or the server runs.
    """
    with _stopped(config):
        if key_file.exists():
            new = read_key_file(key_file)
        else:
            new = os.urandom(KEY_BYTES)
            write_atomically(key_file, base64.b64encode(new), mode=0o600)
        both = [new] if config.key_file is None else [read_key_file(config.key_file), new]
        keys = ServerKeys.load_with(config.folder, both)
        _write(config.folder, NEXT_STORAGE_KEY, keys.next_storage_key, new)
        _write(config.folder, STORAGE_KEY, keys.storage_key, new)
        _write(config.folder, PRIVATE_KEY, keys.private_key, new)


def rotate_storage_key(config: ServerConfig, database: Database) -> int:
    """Replace the key that wraps cohorts' keys; how many there were.

    What is stored stays as it is: each cohort's own key is wrapped anew, and does not change.

    :raises OperatorError: if the server runs, a training has not ended, or a cohort's key cannot be opened.
    """
    with _stopped(config):
        keys = ServerKeys.load(config.folder, config.key_file)
        wrapping = None if config.key_file is None else read_key_file(config.key_file)
        new = keys.next_storage_key or os.urandom(KEY_BYTES)
        with database.reading() as session:
            _require_no_training(session)
        _write(config.folder, NEXT_STORAGE_KEY, new, wrapping)
        with database.writing() as session:
            _require_no_training(session)
            cohorts = list(session.scalars(select(Cohort).where(Cohort.wrapped_key.is_not(None))))
            successor = ServerKeys(keys.private_key, new)
            for cohort in cohorts:
                context = cohort.id.encode()
                cohort.wrapped_key = successor.wrap(keys.unwrap(cohort.wrapped_key or b"", context), context)
            audit.record(session, audit.OPERATOR, "keys.rotate-storage", cohorts=len(cohorts))
        _succeed(config.folder)
        database.erase_traces()
    return len(cohorts)


def end_rotation(config: ServerConfig, database: Database, keys: ServerKeys) -> ServerKeys:
    """The keys after a rotation that was cut off behind its transaction, which is ended; else ``keys``."""
    if keys.next_storage_key is None:
        return keys
    successor = ServerKeys(keys.private_key, keys.next_storage_key)
    with database.reading() as session:
        wrapped = session.execute(select(Cohort.id, Cohort.wrapped_key).where(Cohort.wrapped_key.is_not(None)))
        if unfinished_jobs(session) or not all(_opens(successor, of, key or b"") for of, key in wrapped):
            return keys  # nothing was wrapped anew yet
    with suppress(FileNotFoundError):  # another process of the server ended it
        _succeed(config.folder)
    return successor


def _succeed(folder: Path) -> None:
    (folder / NEXT_STORAGE_KEY).replace(folder / STORAGE_KEY)
    sync_folder(folder)


def _opens(keys: ServerKeys, cohort_id: str, wrapped: bytes) -> bool:
    try:
        keys.unwrap(wrapped, cohort_id.encode())
    except OperatorError:
        return False
    return True


def _stopped(config: ServerConfig) -> AbstractContextManager[None]:
    return hold_lock(
        config.folder / "serve.lock", OperatorError("The server runs; stop it before you change its keys.")
    )


def _require_no_training(session: Session) -> None:
    """Checkpoints are encrypted under the storage key itself, so every training has to have ended."""
    if unfinished_jobs(session):
        raise OperatorError("A training runs, waits or is paused; let it end, or stop it, before you change the key.")


def _write(folder: Path, name: str, key: bytes | None, wrapping: bytes | None) -> None:
    if key is not None:
        write_atomically(folder / name, wrapped_text(name, key, wrapping), mode=0o600)

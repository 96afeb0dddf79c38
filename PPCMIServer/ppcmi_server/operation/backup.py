"""A backup of a server that goes on serving: database, blobs, models, settings, and the keys if they shall be in it.

Blobs are copied first and the rows last. A round copies what the rows of one moment refer to; when nothing new is left
to copy, that moment's rows are what the backup has. So every row has its bytes, and what was withdrawn meanwhile may
have left bytes without the key that opens them.
"""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import IO

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ppcmi import passphrase_file, sealing
from ppcmi_server import __version__, audit, clock
from ppcmi_server.config import inspect_config, sections, settings_text
from ppcmi_server.database.dump import write_dump
from ppcmi_server.database.schema import Base, Chunk, Cohort, Consortium, Frame, Job, Model, SharedNetwork, Site
from ppcmi_server.errors import OperatorError
from ppcmi_server.mapping.model_files import FOLDER as MODELS_FOLDER
from ppcmi_server.operation.archive import CHUNK_BYTES, ArchiveWriter, writing_archive
from ppcmi_server.services import Services
from ppcmi_server.storage.keys import NEXT_STORAGE_KEY, PRIVATE_KEY, STORAGE_KEY

KEY_FILES = (PRIVATE_KEY, STORAGE_KEY)
KEY_FILES_AT_TIMES = (NEXT_STORAGE_KEY,)
"""While the storage key is being replaced, cohorts' keys are wrapped with either."""
ROUNDS = 20
IN_MEMORY = 8 << 20
CREATED = "backup.create"


@dataclass(frozen=True)
class BackupFacts:
    """What is in a backup.

    :param lost: blobs that rows refer to and the store has not got.
    """

    blobs: int
    bytes: int
    rows: int
    lost: int


def create_backup(
    services: Services, target: Path, passphrase: str | None = None, actor: str = audit.OPERATOR
) -> BackupFacts:
    """Write a backup to ``target``, in place of an earlier one.

    :param passphrase: the key files are in it, encrypted under this; None leaves them out.
    :raises OperatorError: if data were withdrawn faster than they could be copied.
    :raises WriteError: if it cannot be written; an earlier one is untouched.
    :raises UsageError: if the passphrase is quickly guessed.
    """
    if passphrase is not None:
        passphrase_file.require_strong(passphrase)
    with writing_archive(target) as archive:
        archive.add_bytes("settings.toml", _settings(services))
        if passphrase is not None:
            archive.add_bytes("keys.ppcmi", _keys(services.config.folder, passphrase))
        copying = _Copying(services, archive, target.parent)
        rows = copying.copy_all()
        facts = BackupFacts(len(copying.copied), copying.bytes, rows, len(copying.lost))
        server = sealing.fingerprint(services.keys.public_key)
        archive.finish(
            {
                "made": clock.now(), "version": __version__, "server": server, "keys": passphrase is not None,
                "blobs": facts.blobs, "lost": facts.lost, "rows": rows, "counts": copying.counts,
            }
        )  # fmt: skip
    with services.database.writing() as session:
        audit.record(session, actor, CREATED, blobs=facts.blobs, bytes=facts.bytes)
    return facts


class _Copying:
    """Copies blobs and rows into an archive, see the module."""

    def __init__(self, services: Services, archive: ArchiveWriter, scratch: Path) -> None:
        self._services, self._archive, self._scratch = services, archive, scratch
        self.copied: set[str] = set()
        self.lost: set[str] = set()
        self.bytes = 0
        self.counts: dict[str, int] = {}

    def copy_all(self) -> int:
        """Copy until rows and blobs agree; number of rows.

        What rows of two moments refer to and is there at neither is lost: it was not withdrawn in between.
        """
        revision, absent = self._services.database.revision() or "", set[str]()
        for _ in range(ROUNDS):
            with tempfile.TemporaryFile(dir=self._scratch) as dump:
                with self._services.database.reading() as session:
                    rows = write_dump(session, revision, dump)
                    needed, optional = set(_needed(session)), list(_checkpoints(session, self._services))
                    self.counts = _counts(session)
                missing = {name for name in sorted(needed - self.copied) if not self._copy(name)}
                if missing <= absent:
                    self.lost = missing
                    for name in optional:
                        self._copy(name)
                    _add_file(self._archive, "database.jsonl", dump)
                    return rows
                absent = missing
        raise OperatorError("Data were withdrawn faster than they could be copied; make the backup again later.")

    def _copy(self, name: str) -> bool:
        """Copy a blob; whether it was there."""
        with tempfile.SpooledTemporaryFile(IN_MEMORY, dir=str(self._scratch)) as copy:
            try:
                for chunk in self._chunks(name):
                    copy.write(chunk)
            except FileNotFoundError:
                return False
            self.bytes += copy.tell()
            _add_file(self._archive, f"blobs/{name}", copy)
        self.copied.add(name)
        return True

    def _chunks(self, name: str) -> Iterator[bytes]:
        """A blob; a model of an earlier version lies in the server's folder alone."""
        file = self._services.config.models_folder / Path(name).name
        if name.startswith(f"{MODELS_FOLDER}/") and self._services.blobs.size(name) is None and file.exists():
            with file.open("rb") as stream:
                yield from iter(lambda: stream.read(CHUNK_BYTES), b"")
        else:
            yield from self._services.blobs.chunks(name)


def _needed(session: Session) -> Iterator[str]:
    """Blobs that rows refer to."""
    yield from session.scalars(select(Frame.blob))
    yield from session.scalars(select(Chunk.blob))
    yield from session.scalars(select(Consortium.codec_blob).where(Consortium.codec_blob.is_not(None)))  # type: ignore[misc]
    yield from session.scalars(select(SharedNetwork.blob))
    yield from (f"{MODELS_FOLDER}/{file}" for file in session.scalars(select(Model.file)))


def _checkpoints(session: Session, services: Services) -> Iterator[str]:
    """Those of unfinished trainings: without them, a training begins anew."""
    for job in session.scalars(select(Job.id).where(Job.finished.is_(None))):
        yield from (f"jobs/{job}/{name}" for name in services.blobs.names(f"jobs/{job}"))


def _counts(session: Session) -> dict[str, int]:
    tables: tuple[type[Base], ...] = (Site, Cohort, Model)
    return {kind.__tablename__: session.scalar(select(func.count()).select_from(kind)) or 0 for kind in tables}


def _settings(services: Services) -> bytes:
    """``server.toml`` without what may hold a password, and without what the environment says."""
    config, _ = inspect_config(services.config.folder, {})
    for name, kind in sections():
        secrets = {part.name: part.default for part in fields(kind) if part.metadata["secret"]}
        config = replace(config, **{name: replace(getattr(config, name), **secrets)})
    return settings_text(config).encode()


def _keys(folder: Path, passphrase: str) -> bytes:
    """The key files as they are, encrypted."""
    names = [*KEY_FILES, *(name for name in KEY_FILES_AT_TIMES if (folder / name).exists())]
    content = {name: base64.b64encode((folder / name).read_bytes()).decode() for name in names}
    document = json.dumps(content).encode()
    return b"".join(passphrase_file.encrypt([len(document).to_bytes(4, "little"), document], passphrase))


def _add_file(archive: ArchiveWriter, name: str, file: IO[bytes]) -> None:
    size = file.tell()
    file.seek(0)
    archive.add(name, file, size)

"""Files of trained models: blobs ``models/NAME`` for all servers of one database, with a copy on each machine.

A copy is used only if its SHA-256 is the one that the database has.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from ppcmi.errors import TrainingError
from ppcmi_server.storage.blobs import CHUNK_BYTES, BlobStore

FOLDER = "models"


class ModelFiles:
    """Models' files by name.

    :param folder: where this machine's copies are.
    """

    def __init__(self, folder: Path, blobs: BlobStore) -> None:
        self._folder = folder
        self._blobs = blobs

    def add(self, name: str) -> str:
        """Take up a file that was written to :meth:`copy_of`; its SHA-256 (hex)."""
        with self.copy_of(name).open("rb") as copy, self._blobs.writing(f"{FOLDER}/{name}") as blob:
            shutil.copyfileobj(copy, blob, CHUNK_BYTES)
        return _digest(self.copy_of(name))

    def find(self, name: str, digest: str) -> Path:
        """This machine's copy, fetched first where there is none.

        :raises TrainingError: if the file is not the one that was trained.
        """
        copy = self.copy_of(name)
        if not copy.exists():
            self._fetch(name)
        if not copy.exists():
            raise TrainingError("The model's file is missing or damaged; train it again or restore a backup.")
        if _digest(copy) != digest:
            raise TrainingError("The model's file is not the one that was trained; restore it from a backup.")
        return copy

    def discard(self, name: str) -> None:
        """Remove the file of a model that nobody registered."""
        self.copy_of(name).unlink(missing_ok=True)
        self._blobs.delete(f"{FOLDER}/{name}")

    def copy_of(self, name: str) -> Path:
        """Where this machine has, or would have, its copy."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        return self._folder / name

    def _fetch(self, name: str) -> None:
        copy = self.copy_of(name)
        temporary = copy.with_name(f"{name}.{secrets.token_hex(4)}.part")
        try:
            with temporary.open("wb") as file:
                for chunk in self._blobs.chunks(f"{FOLDER}/{name}"):
                    file.write(chunk)
            temporary.replace(copy)
        except FileNotFoundError:
            return
        finally:
            with suppress(OSError):
                temporary.unlink()


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

"""Blob store: named bytes that are whole or absent, in a directory or anywhere fsspec reaches.

A blob is written to a temporary name, made durable, then renamed. Object stores without a rename put whole objects in
one step by themselves.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from ppcmi.files import sync_folder

CHUNK_BYTES = 1 << 20


class BlobStore:
    """Blobs under the fsspec address ``url``; names are paths of random ids and digests, never of what users typed."""

    def __init__(self, url: str) -> None:
        found: tuple[Any, str] = fsspec.core.url_to_fs(url)
        self._files, self._root = found
        self._local = isinstance(self._files, LocalFileSystem)

    def write(self, name: str, content: bytes) -> None:
        """Store ``content``, in place of an earlier blob of that name."""
        with self.writing(name) as file:
            file.write(content)

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """A file to write a blob to piece by piece; the blob appears when the context ends without an error."""
        path = self._path(name)
        self._files.makedirs(str(PurePosixPath(path).parent), exist_ok=True)
        target = f"{path}.{secrets.token_hex(4)}.part" if self._local else path
        file: Any = self._files.open(target, "wb")
        try:
            yield file
            if self._local:
                file.flush()
                os.fsync(file.fileno())
            file.close()
            if self._local:
                Path(target).replace(path)
                sync_folder(Path(path).parent)
        except BaseException:
            with suppress(Exception):
                file.discard() if hasattr(file, "discard") else file.close()
            with suppress(FileNotFoundError, OSError):
                self._files.rm_file(target)
            raise

    def read(self, name: str) -> bytes:
        """A blob's content.

        :raises FileNotFoundError: if there is none.
        """
        return bytes(self._files.cat_file(self._path(name)))

    def chunks(self, name: str) -> Iterator[bytes]:
        """A blob's content piece by piece."""
        with self._files.open(self._path(name), "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    def delete(self, name: str) -> None:
        """Remove a blob, or all blobs below a name; what is absent stays so."""
        with suppress(FileNotFoundError):
            self._files.rm(self._path(name), recursive=True)

    def names(self, below: str) -> list[str]:
        """Names directly below ``below``."""
        path = self._path(below)
        if not self._files.isdir(path):
            return []
        return sorted(PurePosixPath(entry).name for entry in self._files.ls(path, detail=False))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

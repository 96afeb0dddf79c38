"""Blob store: named bytes that are whole or absent, in a directory or anywhere fsspec reaches.

In a directory a blob is written to a temporary name, made durable, then renamed, and so are the folders above it.
Object stores have no rename: there an object appears in one step when its writing ends, with a checksum that the store
compares (S3), and its size is compared once more. Credentials for S3 come from where AWS's own tools look for them.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from ppcmi.errors import PpcmiError
from ppcmi.files import sync_folder
from ppcmi_server.errors import OperatorError, RefusalError
from ppcmi_server.settings import StorageSettings

CHUNK_BYTES = 1 << 20
RETRY_S = 10


def open_blobs(storage: StorageSettings, folder: Path) -> BlobStore:
    """The store that the settings name, or ``blobs`` in the server's folder.

    :raises OperatorError: if the address does not work here.
    """
    url = storage.blobs_url or str(folder / "blobs")
    endpoint = {} if storage.s3_endpoint is None else {"endpoint_url": storage.s3_endpoint}
    options = {"use_listings_cache": False, **endpoint} if url.startswith(("s3:", "s3a:")) else {}
    try:
        return BlobStore(url, **options)
    except (ImportError, ValueError) as error:
        raise OperatorError("Setting storage.blobs_url is not an address that works here.") from error


class BlobStore:
    """Blobs under the fsspec address ``url``; names are paths of random ids and digests, never of what users typed.

    :param options: of fsspec's file system.
    """

    def __init__(self, url: str, **options: Any) -> None:
        found: tuple[Any, str] = fsspec.core.url_to_fs(url, **options)
        self._files, self._root = found
        self.is_local = isinstance(self._files, LocalFileSystem)
        self.folder = Path(self._root) if self.is_local else None

    def write(self, name: str, content: bytes) -> None:
        """Store ``content``, in place of an earlier blob of that name."""
        with self.writing(name) as file:
            file.write(content)

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """A file to write a blob to piece by piece; the blob appears, durably, when the context ends without an error.

        :raises RefusalError: 503 if a remote store fails.
        """
        path = self._path(name)
        yield from _writing_locally(Path(path)) if self.is_local else self._writing_remotely(path)

    def read(self, name: str) -> bytes:
        """A blob's content.

        :raises FileNotFoundError: if there is none.
        """
        with self._reaching():
            return bytes(self._files.cat_file(self._path(name)))

    def chunks(self, name: str) -> Iterator[bytes]:
        """A blob's content piece by piece."""
        with self._reaching(), self._files.open(self._path(name), "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    def size(self, name: str) -> int | None:
        """A blob's bytes; None if there is none."""
        with self._reaching():
            try:
                return int(self._files.info(self._path(name))["size"])
            except FileNotFoundError:
                return None

    def written(self, name: str) -> float | None:
        """When a blob was written, in seconds since 1970; None if there is none."""
        with self._reaching():
            try:
                return float(self._files.modified(self._path(name)).timestamp())
            except FileNotFoundError:
                return None

    def delete(self, name: str) -> None:
        """Remove a blob, or all blobs below a name; what is absent stays so."""
        with self._reaching(), suppress(FileNotFoundError):
            self._files.rm(self._path(name), recursive=True)

    def names(self, below: str) -> list[str]:
        """Names directly below ``below``."""
        path = self._path(below)
        with self._reaching():
            if not self._files.isdir(path):
                return []
            return sorted(PurePosixPath(entry).name for entry in self._files.ls(path, detail=False))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _writing_remotely(self, path: str) -> Iterator[IO[bytes]]:
        with self._reaching():
            self._files.makedirs(str(PurePosixPath(path).parent), exist_ok=True)
            file: Any = self._files.open(path, "wb")
        try:
            yield cast("IO[bytes]", _Guarded(file, self._reaching))
            with self._reaching():
                size = file.tell()
                file.close()
        except BaseException:
            file.discard()
            with suppress(AttributeError):
                file.closed = True  # else its end as an object would write it after all
            raise
        with self._reaching():
            if self._files.info(path)["size"] != size:
                self._files.rm_file(path)
                raise OSError("stored with another size")

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Errors of a remote store are all the same to who asks: later, perhaps."""
        try:
            yield
        except (PpcmiError, FileNotFoundError):
            raise
        except Exception as error:
            if self.is_local or not _is_of_store(error):
                raise
            raise RefusalError(
                503, "storage-unavailable", "Not available",
                "The server's blob store does not answer as it should; try again later.", {"Retry-After": str(RETRY_S)},
            ) from error  # fmt: skip


class _Guarded:
    """A file of a remote store; what goes wrong while it is written is the store's."""

    def __init__(self, file: Any, reaching: Callable[[], AbstractContextManager[None]]) -> None:
        self._file = file
        self._reaching = reaching

    def write(self, content: bytes) -> int:
        with self._reaching():
            return int(self._file.write(content))


def _is_of_store(error: Exception) -> bool:
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in ("botocore", "aiobotocore", "aiohttp")


def _writing_locally(path: Path) -> Iterator[IO[bytes]]:
    _make_folder(path.parent)
    target = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        with target.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        target.replace(path)
        sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            target.unlink()
        raise


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, each durable before something is put into it."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        sync_folder(folder.parent)

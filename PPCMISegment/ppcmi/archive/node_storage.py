"""Studies that were sent to a node, on disk until they are answered.

::

    FOLDER/
      count                       how many studies there were so far
      studies/HASH/               HASH of the Study Instance UID: no name says what is in it
        number                    what the study is called in the log
        images/HASH/HASH.dcm      a folder for each series; HASHes of Series and SOP Instance UID
        results/                  of the batch
        answered                  digest of the images that were answered; present only where these are kept

Every file appears by rename, and a study goes by rename before it is deleted, so that after any interruption what is
here is whole: a study without its answer is one to work on.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ppcmi.archive.instance_files import file_name, hashed
from ppcmi.errors import WriteError
from ppcmi.files import write_atomically

STUDIES, REMOVED = "studies", "removed"
PRIVATE_FOLDER, PRIVATE_FILE = 0o700, 0o600
GIBIBYTE = 1 << 30


class NoRoomError(WriteError):
    """The quota is used up, or the disk nearly full."""


@dataclass(frozen=True)
class StorageLimits:
    """How much may lie in the folder.

    :param quota_bytes: of images and results in all.
    :param spare_bytes: that stay free on the disk.
    """

    quota_bytes: int = 50 * GIBIBYTE
    spare_bytes: int = GIBIBYTE // 2


@dataclass(frozen=True)
class StoredStudy:
    """A study on disk; ``number`` is its name wherever people may read it."""

    folder: Path
    number: int

    @property
    def name(self) -> str:
        """For a log."""
        return f"study {self.number}"

    @property
    def images(self) -> Path:
        """Folder of its instances."""
        return self.folder / "images"

    @property
    def results(self) -> Path:
        """Folder of its results."""
        return self.folder / "results"

    @property
    def instances(self) -> int:
        """How many have arrived."""
        return sum(1 for _ in _instances(self.images))

    def digest(self) -> str:
        """Changes when an instance comes or changes; 32 hex digits."""
        state = sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in _instances(self.images))
        return hashlib.sha256(repr(state).encode()).hexdigest()[:32]

    def is_answered(self) -> bool:
        """Whether what is there was answered, and is only kept."""
        try:
            return (self.folder / "answered").read_text() == self.digest()
        except OSError:
            return False


class StudyStore:
    """The studies in a folder; safe to use from several threads, by one process.

    :raises WriteError: if the folder cannot be used.
    """

    def __init__(self, folder: Path, limits: StorageLimits | None = None) -> None:
        self._folder, self._limits = folder, limits or StorageLimits()
        self._lock = threading.Lock()
        try:
            (folder / STUDIES).mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
            shutil.rmtree(folder / REMOVED, ignore_errors=True)
            self._used = _size(folder)
        except OSError as error:
            raise WriteError(f"The node's folder cannot be used: {error.strerror or 'unknown cause'}.") from error

    @property
    def used_bytes(self) -> int:
        """Size of all that is here."""
        return self._used

    def add(self, study_uid: str, series_uid: str, sop_instance_uid: str, content: bytes) -> StoredStudy:
        """Keep an instance, in place of an earlier one of the same identity; it is on the disk when this returns.

        :raises NoRoomError: if it does not fit.
        :raises WriteError: if it cannot be written.
        """
        with self._lock:
            study = self._study(self._folder / STUDIES / hashed(study_uid))
            path = study.images / hashed(series_uid) / file_name(sop_instance_uid)
            before = path.stat().st_size if path.exists() else 0
            if path.exists() and before == len(content) and path.read_bytes() == content:
                return study  # sent again: the study is the same as before
            self._require_room(len(content) - before)
            _make_folder(path.parent)
            write_atomically(path, content, PRIVATE_FILE)
            self._used += len(content) - before
            return study

    def studies(self) -> list[StoredStudy]:
        """Those that wait for an answer, in the order in which they came."""
        with self._lock:
            found = [_opened(folder) for folder in (self._folder / STUDIES).iterdir() if (folder / "number").exists()]
            waiting = [study for study in found if not study.is_answered() and study.instances]
            return sorted(waiting, key=lambda study: study.number)

    def remove(self, study: StoredStudy, digest: str) -> bool:
        """Delete a study that was answered as ``digest`` says; False if more has come since, which waits in turn."""
        with self._lock:
            if study.digest() != digest:
                return False
            removed = self._folder / REMOVED
            removed.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
            study.folder.rename(removed / study.folder.name)
            shutil.rmtree(removed, ignore_errors=True)
            self._used = _size(self._folder)
            return True

    def keep(self, study: StoredStudy, digest: str) -> bool:
        """Note that a study was answered, and keep it; otherwise as :meth:`remove`."""
        with self._lock:
            write_atomically(study.folder / "answered", digest.encode(), PRIVATE_FILE)
            self._used = _size(self._folder)
            return study.digest() == digest

    def _study(self, folder: Path) -> StoredStudy:
        if not (folder / "number").exists():
            count = self._folder / "count"
            number = int(count.read_text()) + 1 if count.exists() else 1
            _make_folder(folder)
            _make_folder(folder / "images")
            write_atomically(count, str(number).encode(), PRIVATE_FILE)
            write_atomically(folder / "number", str(number).encode(), PRIVATE_FILE)
        return _opened(folder)

    def _require_room(self, more: int) -> None:
        if self._used + more > self._limits.quota_bytes:
            raise NoRoomError("The node's quota is used up; wait until studies are answered, or give it more.")
        if shutil.disk_usage(self._folder).free - more < self._limits.spare_bytes:
            raise NoRoomError("The node's disk is nearly full; make room.")


def _opened(folder: Path) -> StoredStudy:
    return StoredStudy(folder, int((folder / "number").read_text()))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    except OSError as error:
        raise WriteError(f"A study cannot be kept: {error.strerror}.") from error


def _instances(folder: Path) -> Iterator[Path]:
    return (path for path in folder.glob("*/*") if not path.name.startswith("."))


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

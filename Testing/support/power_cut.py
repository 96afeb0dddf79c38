"""What is left of a folder when the power fails: only what was made durable by then.

While the context lasts, ``os.fsync`` notes what it makes durable: a file's bytes, or a folder's names. A cut leaves a
file under a name if the folder was synced while it had that name, and with the bytes of its last sync. What SQLite
writes is beyond this: it syncs for itself (``synchronous = FULL``), so its files are kept as they are.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SQLITE = ("ppcmi.sqlite3", "ppcmi.sqlite3-wal", "ppcmi.sqlite3-shm")


class Disk:
    """What is durable of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bytes: dict[int, bytes] = {}
        self._names: dict[Path, dict[str, tuple[int, bool]]] = {}
        for place in (folder, *folder.rglob("*")):  # what was there before is
            self._note(place)
        self.synced = 0

    def note_sync(self, descriptor: int) -> None:
        place = Path(f"/proc/self/fd/{descriptor}").readlink()
        if place == self._folder or self._folder in place.parents:
            self._note(place)
            self.synced += 1

    def after_a_cut(self, target: Path) -> Path:
        """The folder as a start after the cut finds it, in ``target``."""
        self._restore(self._folder, target)
        for name in SQLITE:
            if (self._folder / name).exists():
                shutil.copy(self._folder / name, target / name)
        return target

    def _note(self, place: Path) -> None:
        if place.is_dir():
            entries = {entry.name: entry.lstat() for entry in place.iterdir()}
            self._names[place] = {name: (facts.st_ino, stat.S_ISDIR(facts.st_mode)) for name, facts in entries.items()}
        elif place.is_file():
            self._bytes[place.stat().st_ino] = place.read_bytes()

    def _restore(self, place: Path, target: Path) -> None:
        target.mkdir(mode=0o700)
        for name, (inode, is_folder) in self._names.get(place, {}).items():
            if is_folder:
                self._restore(place / name, target / name)
            elif name not in SQLITE:
                (target / name).write_bytes(self._bytes.get(inode, b""))
                (target / name).chmod(0o600)


@contextmanager
def recording(folder: Path) -> Iterator[Disk]:
    """Note what becomes durable in ``folder`` until the context ends."""
    disk, fsync = Disk(folder.resolve()), os.fsync

    def noting(descriptor: int) -> None:
        fsync(descriptor)
        disk.note_sync(descriptor)

    os.fsync = noting
    try:
        yield disk
    finally:
        os.fsync = fsync

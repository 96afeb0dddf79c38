"""A study from an archive on disk for as long as it is worked on: a private folder that is gone afterwards, come what
may.

It lies in the folder of the results, where there is room and the user's rights are, always at the same place, and its
files are dated by what is in them: so a rerun finds that it has segmented a study, though it was fetched again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ppcmi.archive.instance_files import series_name
from ppcmi.archive.web import ArchivedSeries, DicomWebArchive, Received
from ppcmi.errors import UsageError, WriteError
from ppcmi.locks import hold_lock

FOLDER, LOCK = ".ppcmi-fetched", ".ppcmi-fetched.lock"
_ANOTHER_RUN = "Another run fetches into this folder; wait for its end, or choose another folder for the results."


@contextmanager
def fetched_series(
    archive: DicomWebArchive, series: Sequence[ArchivedSeries], output: Path, tell: Callable[[Received], None]
) -> Iterator[Path]:
    """A folder with the series, each in a folder of its own, see :func:`series_name`; removed with the context.

    :param output: folder of the results, made if it is not there.
    :param tell: is called as instances arrive.
    :raises UsageError: if another run does the same.
    :raises WriteError: if it cannot be written, or cannot be removed.
    :raises PpcmiError: as :meth:`ppcmi.archive.web.DicomWebArchive.download`.
    """
    folder = output / FOLDER
    with ExitStack() as held:
        with _on_disk():
            output.mkdir(parents=True, exist_ok=True)
            held.enter_context(hold_lock(output / LOCK, UsageError(_ANOTHER_RUN)))
        _remove(folder)  # from a run that was killed
        held.callback(_remove, folder)
        with _on_disk():
            folder.mkdir(mode=0o700)
        for one in series:
            place = folder / series_name(one.uid)
            for received in archive.download(one, place):
                tell(received)
            with _on_disk():
                _date_by_content(place)
        yield folder


@contextmanager
def _on_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WriteError(f"The study cannot be kept on disk: {error.strerror or 'unknown cause'}.") from error


def _date_by_content(folder: Path) -> None:
    """Give all files a time that says what the series holds: whatever of it changes, it is another."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*")):  # there is no folder where nothing came
        with path.open("rb") as stream:
            digest.update(path.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    nanoseconds = int.from_bytes(digest.digest()[:7], "big")
    for path in folder.glob("*"):
        os.utime(path, ns=(nanoseconds, nanoseconds))


def _remove(folder: Path) -> None:
    if not folder.exists():
        return
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise WriteError(f"The folder {FOLDER} with fetched images cannot be removed; remove it yourself.") from error

"""What nobody needs any longer: uploads that stopped, and bytes that a crash left between a blob and its row.

Safe beside uploads and beside another server on the same storage: only what was written a while ago is looked at, and
the rows are read after the blobs were listed, so that whatever has a row by then is known.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from ppcmi_server import audit, clock
from ppcmi_server.database.engine import Database
from ppcmi_server.database.schema import Chunk, Cohort, Consortium, Frame, Job, Model, SharedNetwork
from ppcmi_server.mapping.model_files import FOLDER as MODELS
from ppcmi_server.operation.logs import log_error
from ppcmi_server.storage.blobs import BlobStore

IN_USE_S = 3600.0
"""A blob younger than this may get its row yet."""
SWEEP_S = 86_400.0
_MODEL_OF_JOB = re.compile(r"\.?job-(\d+)-\d+\.safetensors(\.[0-9a-f]+\.(part|tmp))?")
"""A model's file, or what is being written to become one."""


class Sweeper:
    """Sweeps in a thread of its own: at the start, then once a day."""

    def __init__(self, sweep: Callable[[], None]) -> None:
        self._sweep = sweep
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ppcmi-sweep", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End, after the sweep under way."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._sweep()
            except Exception as error:  # whatever it is, the next sweep may go well, and the server goes on
                log_error("sweep-failed", error)
            self._closing.wait(SWEEP_S)


def expire_uploads(database: Database, blobs: BlobStore, days: float) -> None:
    """Forget open cohorts that got nothing new for ``days``; the site may announce them again, from the beginning."""
    last = func.coalesce(Cohort.touched, Cohort.created)
    stale = select(Cohort).where(Cohort.state == "open", last < clock.in_future(-days))
    with database.reading() as session:
        found = [cohort.id for cohort in session.scalars(stale)]
    for cohort_id in found:
        with database.writing() as session:
            if session.scalar(stale.where(Cohort.id == cohort_id)) is None:
                continue  # it goes on after all
            for kind in (Frame, Chunk):
                session.execute(delete(kind).where(kind.cohort_id == cohort_id))
            session.execute(delete(Cohort).where(Cohort.id == cohort_id))
            audit.record(session, audit.OPERATOR, "cohort.expire", cohort=cohort_id)
        blobs.delete(f"cohorts/{cohort_id}")


def delete_orphans(database: Database, blobs: BlobStore, older_than_s: float) -> None:
    """Delete blobs that no row names and that were written ``older_than_s`` ago, and all of withdrawn cohorts."""
    for cohort_id in blobs.names("cohorts"):
        folder = f"cohorts/{cohort_id}"
        there = blobs.names(folder)
        with database.reading() as session:
            cohort = session.get(Cohort, cohort_id)
            known = _blobs_of(session, cohort_id)
        if cohort is not None and cohort.state == "withdrawn":
            blobs.delete(folder)
            continue
        left = [name for name in there if not _delete_orphan(blobs, f"{folder}/{name}", known, older_than_s)]
        if cohort is None and not left:
            blobs.delete(folder)
    for folder, column in (("codecs", Consortium.codec_blob), ("networks", SharedNetwork.blob)):
        there = blobs.names(folder)
        with database.reading() as session:
            known = set(session.scalars(select(column)))
        for name in there:
            _delete_orphan(blobs, f"{folder}/{name}", known, older_than_s)


def delete_unregistered_models(database: Database, blobs: BlobStore, folder: Path, older_than_s: float) -> None:
    """Delete files of models that no row names, of jobs that have ended: a crash came between the file and the row.

    A job that has not ended may register its model yet; one that has ended registers no other.

    :param folder: where this machine's copies are.
    """
    copies = [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
    stored = blobs.names(MODELS)
    with database.reading() as session:
        known = set(session.scalars(select(Model.file)))
        ended = set(session.scalars(select(Job.id).where(Job.finished.is_not(None))))

    def is_orphan(name: str) -> bool:
        made_by = _MODEL_OF_JOB.fullmatch(name)
        return name not in known and made_by is not None and int(made_by[1]) in ended

    for name in filter(is_orphan, stored):
        _delete_orphan(blobs, f"{MODELS}/{name}", set(), older_than_s)
    for copy in copies:
        with suppress(FileNotFoundError):  # whoever wrote it may remove it too
            if is_orphan(copy.name) and time.time() - copy.stat().st_mtime >= older_than_s:
                copy.unlink()


def count_bytes(database: Database, blobs: BlobStore) -> None:
    """Enter the size of frames that were stored before sizes were counted."""
    uncounted = select(Frame.cohort_id, Frame.index, Frame.blob).where(Frame.stored_bytes == 0)
    with database.reading() as session:
        found = session.execute(uncounted).all()
    for cohort_id, index, blob in found:
        size = blobs.size(blob) or 0
        with database.writing() as session:
            cohort = session.get_one(Cohort, cohort_id)
            frame = session.get(Frame, (cohort_id, index))
            if frame is not None and frame.stored_bytes == 0:
                frame.stored_bytes = size
                cohort.stored_bytes += size


def _blobs_of(session: Session, cohort_id: str) -> set[str | None]:
    known: set[str | None] = set(session.scalars(select(Frame.blob).where(Frame.cohort_id == cohort_id)))
    return known | set(session.scalars(select(Chunk.blob).where(Chunk.cohort_id == cohort_id)))


def _delete_orphan(blobs: BlobStore, name: str, known: set[str | None], older_than_s: float) -> bool:
    """Whether there was nothing to keep."""
    if name in known:
        return False
    written = blobs.written(name)
    if written is not None and time.time() - written < older_than_s:
        return False
    blobs.delete(name)
    return True

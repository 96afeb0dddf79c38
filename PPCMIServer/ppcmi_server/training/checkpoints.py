"""Checkpoints of trainings: blobs ``jobs/JOB/FENCE-STEPS``, where the next worker finds them on whatever machine.

Each is encrypted under the storage key and bound to its job and to the very data and options it was made with
(:func:`ppcmi_server.training.training_data.fingerprint`): one that is damaged, cut off, or of data that were withdrawn
since is passed over for the one before. Two are kept. The number of the claim (fence) in the name keeps a worker that
lost the job from writing over its successor's.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, cast

import torch
from sqlalchemy import select
from sqlalchemy.orm import Session

from ppcmi_server.database.schema import Job, JobCohort
from ppcmi_server.errors import OperatorError, RefusalError
from ppcmi_server.storage.blobs import BlobStore
from ppcmi_server.storage.sealed_stream import SealingFile, open_stream

FOLDER = "jobs"
KEPT = 2
_NAME = re.compile(r"(\d{6,})-(\d{9,})")

Point = Callable[[str], None]
"""Told where a worker is; tests end it there."""


def nowhere(_: str) -> None:
    """A :data:`Point` that does nothing."""


class Checkpoints:
    """Checkpoints of one claim of a job; see the module.

    :param key: the server's storage key.
    :param fence: number of the claim.
    :param fingerprint: of the data and the options.
    :param require_job: raises if the job is another worker's by now; asked before a checkpoint appears.
    """

    def __init__(
        self,
        blobs: BlobStore,
        key: bytes,
        job: int,
        fence: int,
        fingerprint: str,
        *,
        require_job: Callable[[], None] = lambda: None,
        at: Point = nowhere,
    ) -> None:
        self._blobs, self._key, self._at, self._require_job = blobs, key, at, require_job
        self._folder, self._fence = _folder(job), fence
        self._context = f"checkpoint|{job}|{fingerprint}".encode()

    def save(self, state: Mapping[str, Any]) -> None:
        """Keep a state durably; those older than the one before are removed."""
        name = f"{self._fence:06}-{state['steps_done']:09}"
        with self._blobs.writing(f"{self._folder}/{name}") as file:
            sealing = SealingFile(file, self._key, self._context)
            _write(state, cast("IO[bytes]", sealing))  # it needs write and flush
            sealing.finish()
            self._at("checkpoint-written")
            self._require_job()
        self._at("checkpoint-there")
        kept = self._names()[:KEPT]
        for old in self._blobs.names(self._folder):
            if old not in kept:
                self._blobs.delete(f"{self._folder}/{old}")

    def newest_first(self) -> Iterator[Mapping[str, Any]]:
        """States that are whole and of these data."""
        for name in self._names():
            try:
                content = open_stream(self._blobs.chunks(f"{self._folder}/{name}"), self._key, self._context)
            except (OperatorError, FileNotFoundError):
                continue
            yield torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)

    def _names(self) -> list[str]:
        """Names of checkpoints: those of the latest claim first, of these the farthest."""
        found = _whole_ones(self._blobs.names(self._folder))
        return [match[0] for match in sorted(found, key=lambda match: (int(match[1]), int(match[2])), reverse=True)]


def has_checkpoints(blobs: BlobStore, job: int) -> bool:
    """Whether a job has something to go on from.

    :raises RefusalError: if the blob store does not answer.
    """
    return bool(_whole_ones(blobs.names(_folder(job))))


def may_have_checkpoints(blobs: BlobStore, job: int) -> bool:
    """The same, and also where the blob store does not tell."""
    try:
        return has_checkpoints(blobs, job)
    except (OSError, RefusalError):
        return True


def delete_checkpoints(blobs: BlobStore, job: int) -> None:
    """Remove what an ended job has learned: nothing goes on from it, and sites may withdraw what it learned from."""
    blobs.delete(_folder(job))


def sweep_checkpoints(session: Session, blobs: BlobStore) -> None:
    """Remove what a crash left of jobs that have ended, and what a withdrawal made void of jobs that wait.

    What a worker begins anew in the meantime stays: names are read before rows.
    """
    for folder in filter(str.isdecimal, blobs.names(FOLDER)):
        there = blobs.names(f"{FOLDER}/{folder}")
        job = session.get(Job, int(folder), populate_existing=True)
        if job is None:
            continue
        taken = select(JobCohort).where(JobCohort.job_id == job.id, JobCohort.withdrawn).limit(1)
        if job.finished is not None:
            delete_checkpoints(blobs, job.id)
        elif job.worker is None and session.scalar(taken) is not None:
            for name in there:
                blobs.delete(f"{FOLDER}/{folder}/{name}")


def _write(state: Mapping[str, Any], file: IO[bytes]) -> None:
    """Write a state, or raise what the file raised: PyTorch replaces that by an error of its own as it cleans up."""
    try:
        torch.save(dict(state), file)
    except RuntimeError as error:
        cause = error.__context__
        if isinstance(cause, OSError | RefusalError):
            raise cause from None
        raise


def _whole_ones(names: list[str]) -> list[re.Match[str]]:
    return [match for name in names if (match := _NAME.fullmatch(name))]


def _folder(job: int) -> str:
    return f"{FOLDER}/{job}"

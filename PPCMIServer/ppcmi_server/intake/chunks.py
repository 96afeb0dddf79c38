"""Chunks: parts of a frame by offset, kept until the frame is whole.

A chunk says which frame it is of (the frame's bytes and SHA-256) and what it is itself (offset, bytes and SHA-256), so
that one that comes twice changes nothing, and none can overlap another or get into another frame.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import defaultdict
from dataclasses import dataclass

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from ppcmi_server.database.schema import Chunk, Cohort
from ppcmi_server.errors import RefusalError, conflict, unprocessable
from ppcmi_server.storage.keys import SEALED_BYTES

MAXIMUM_CHUNKS = 8192
"""Of one frame: each takes a row and a blob, however small it is."""


@dataclass(frozen=True)
class ChunkPlace:
    """Which part of which frame a chunk is.

    :param digest: SHA-256 of the chunk.
    :param frame_bytes: of the whole frame, with its SHA-256 ``frame_digest``.
    """

    index: int
    offset: int
    digest: bytes
    frame_bytes: int
    frame_digest: bytes


def require_chunk(place: ChunkPlace, data: bytes) -> None:
    """The bytes are the chunk that they are said to be.

    :raises RefusalError: 422 if not.
    """
    if not data or place.offset + len(data) > place.frame_bytes:
        raise unprocessable("The chunk is empty, or goes beyond the frame's end; send the frame anew.")
    if hashlib.sha256(data).digest() != place.digest:
        raise RefusalError(
            422, "chunk-damaged", "Not valid", "The chunk is not the one of X-PPCMI-Digest; send it again."
        )


def has_chunk(session: Session, cohort_id: str, place: ChunkPlace, size: int) -> bool:
    """Whether this very chunk is stored.

    :raises RefusalError: 409 if it is of another frame, overlaps another, or is one too many.
    """
    others = chunks_of(session, cohort_id, place.index)
    if any((c.frame_bytes, c.frame_digest) != (place.frame_bytes, place.frame_digest) for c in others):
        raise conflict("frame-differs", "The server has chunks of another frame of this index; export the cohort anew.")
    for chunk in others:
        if (chunk.offset, chunk.size, chunk.digest) == (place.offset, size, place.digest):
            return True
        if chunk.offset < place.offset + size and place.offset < chunk.offset + chunk.size:
            raise conflict(
                "chunk-overlaps", "The server has other chunks of these bytes; ask which, and send what is missing."
            )
    if len(others) >= MAXIMUM_CHUNKS:
        raise conflict("chunks-many", f"A frame comes in at most {MAXIMUM_CHUNKS} chunks; send larger ones.")
    return False


def new_chunk(cohort: Cohort, place: ChunkPlace, size: int) -> Chunk:
    """A chunk's row, under a blob name of its own: two who send the same never touch each other's bytes."""
    return Chunk(
        cohort_id=cohort.id, index=place.index, offset=place.offset, size=size, digest=place.digest,
        frame_bytes=place.frame_bytes, frame_digest=place.frame_digest,
        blob=f"cohorts/{cohort.id}/{place.index}-{place.offset}-{secrets.token_hex(8)}",
    )  # fmt: skip


def chunks_of(session: Session, cohort_id: str, index: int) -> list[Chunk]:
    """A frame's chunks in their order."""
    of_frame = select(Chunk).where(Chunk.cohort_id == cohort_id, Chunk.index == index)
    return list(session.scalars(of_frame.order_by(Chunk.offset)))


def is_complete(session: Session, cohort_id: str, place: ChunkPlace) -> bool:
    """Whether a frame's chunks, none of which overlap, are all there."""
    of_frame = (Chunk.cohort_id == cohort_id, Chunk.index == place.index, Chunk.frame_digest == place.frame_digest)
    return session.scalar(select(func.sum(Chunk.size)).where(*of_frame)) == place.frame_bytes


def extents(session: Session, cohort_id: str) -> dict[int, list[tuple[int, int]]]:
    """Offset and size of every chunk, by index of its frame."""
    rows = session.execute(
        select(Chunk.index, Chunk.offset, Chunk.size)
        .where(Chunk.cohort_id == cohort_id)
        .order_by(Chunk.index, Chunk.offset)
    )
    found: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for index, offset, size in rows:
        found[index].append((offset, size))
    return dict(found)


def discard_chunks(session: Session, cohort: Cohort, *index: int) -> list[str]:
    """Remove a frame's chunks, or all of a cohort's; the blobs to delete."""
    which = (Chunk.cohort_id == cohort.id, *([Chunk.index.in_(index)] if index else []))
    found = session.execute(select(Chunk.blob, Chunk.size).where(*which)).all()
    session.execute(delete(Chunk).where(*which))
    cohort.stored_bytes = max(0, cohort.stored_bytes - sum(size + SEALED_BYTES for _, size in found))
    return [blob for blob, _ in found]


def chunk_context(chunk: Chunk) -> bytes:
    """What a stored chunk's encryption is bound to."""
    return b"ppcmi chunk|" + b"|".join(
        part.encode() for part in (chunk.cohort_id, str(chunk.index), str(chunk.offset), chunk.digest.hex())
    )

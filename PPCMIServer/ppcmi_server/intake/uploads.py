"""What arrives of a cohort: frames, or chunks of frames, stored durably one by one.

A frame is opened when it arrives: what cannot be opened, was protected with another key, or does not fit the task is
refused then and there. It is stored encrypted under a key of the cohort's own.

A blob is durable before the row that names it is written, and every attempt to store one has a name of its own. So a
crash leaves at worst a blob that no row names, which the sweep removes, and never a row without its bytes.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from ppcmi.bundle_header import read_header
from ppcmi.channel import Channel
from ppcmi.cohort_file import CohortKey, frame_digest, parse_header
from ppcmi.errors import BundleError, KeyMismatchError, PpcmiError
from ppcmi.modes import Mode
from ppcmi.task import Task as TaskDocument
from ppcmi.task import parse_task
from ppcmi_server import clock
from ppcmi_server.access.identity import Caller
from ppcmi_server.database.contention import is_busy
from ppcmi_server.database.engine import Database
from ppcmi_server.database.schema import Chunk, Cohort, Consortium, Frame, Site, Task
from ppcmi_server.errors import OperatorError, conflict
from ppcmi_server.intake.chunks import (
    ChunkPlace,
    chunk_context,
    chunks_of,
    discard_chunks,
    has_chunk,
    is_complete,
    new_chunk,
    require_chunk,
)
from ppcmi_server.intake.cohort_checks import (
    has_frame,
    own_cohort,
    require_inner_key,
    require_labelled,
    withdrawn,
)
from ppcmi_server.intake.quota import Room
from ppcmi_server.storage.blobs import BlobStore
from ppcmi_server.storage.full_disk import is_full
from ppcmi_server.storage.keys import ServerKeys, decrypt, encrypt

ChannelOf = Callable[[Caller, str, Mode], Channel]
"""The channel with a site for a task's identity and a mode."""

TakeMemory = Callable[[int], None]
"""Accounts for so many bytes of a body, or refuses."""


class Uploads:
    """Takes what sites send of their cohorts."""

    def __init__(
        self, database: Database, blobs: BlobStore, keys: ServerKeys, channel_of: ChannelOf, room: Room
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._keys = keys
        self._channel_of = channel_of
        self._room = room

    def require_room(self, cohort_id: str, caller: Caller, index: int, size: int) -> None:
        """What the sender of a frame may be told before its body is read.

        :param size: bytes that the body is said to have; 0 if it is not said.
        :raises RefusalError: 404 for others than the cohort's owner; 507 unless a frame of this index is there already.
        """
        with self._database.reading() as session:
            own_cohort(session, cohort_id, caller)
            if session.get(Frame, (cohort_id, index)) is None:
                self._require_room(session, caller, size)

    def require_room_for_chunk(self, cohort_id: str, caller: Caller, place: ChunkPlace, size: int) -> None:
        """The same for a chunk; one that is there already takes no room."""
        with self._database.reading() as session:
            own_cohort(session, cohort_id, caller)
            there = session.get(Frame, (cohort_id, place.index)) or session.get(
                Chunk, (cohort_id, place.index, place.offset)
            )
            if there is None:
                self._require_room(session, caller, size)

    def put_frame(self, cohort_id: str, caller: Caller, index: int, data: bytes) -> bool:
        """Store a frame; whether it is new. It is durable when this returns.

        :raises RefusalError: 404, 409 if another frame has this index or the cohort takes no more, 507.
        :raises BundleError: if it cannot be opened or does not fit the task.
        :raises KeyMismatchError: if it was protected with another key.
        """
        digest = frame_digest(data)
        with self._database.reading() as session:
            cohort = own_cohort(session, cohort_id, caller)
            if has_frame(session, cohort, index, digest):
                return False
            task = session.get_one(Task, cohort.task_id)
            consortium = session.get_one(Consortium, cohort.task_id)
        frame, bundle, inner_check = self._open(cohort, parse_task(task.document), caller, index, data)
        require_inner_key(inner_check, consortium)
        content = encrypt(cohort_key(self._keys, cohort), bundle, frame_context(cohort_id, digest))
        frame.stored_bytes = len(content)
        chunks: list[str] = []

        def record(session: Session, site: Site, current: Cohort) -> bool:
            if has_frame(session, current, index, digest):
                return False
            if current.inner_check not in (None, inner_check):
                raise BundleError("The cohort's bundles were made with different inner keys; export it again.")
            before = current.stored_bytes
            chunks.extend(discard_chunks(session, current, index))
            if current.stored_bytes + len(content) > before:
                self._room.require_quota(session, site, current.stored_bytes + len(content) - before)
            current.inner_check = inner_check
            current.stored_bytes += len(content)
            session.add(frame)
            return True

        new = self._keep(cohort_id, caller, frame.blob, content, record)
        for blob in chunks:
            self._blobs.delete(blob)
        return new

    def put_chunk(self, cohort_id: str, caller: Caller, place: ChunkPlace, data: bytes, take: TakeMemory) -> bool:
        """Store a part of a frame; whether it is new. It is durable when this returns.

        The last one that was missing makes the frame whole, which then is stored as :meth:`put_frame` does, in place of
        its chunks.

        :param take: called with the frame's bytes before they are put together.
        :raises RefusalError: 404, 409 if it overlaps others or the cohort takes no more, 422 if it is damaged, 507.
        :raises BundleError: as of :meth:`put_frame`; the frame's chunks are gone then.
        :raises KeyMismatchError: likewise.
        """
        require_chunk(place, data)
        with self._database.reading() as session:
            cohort = own_cohort(session, cohort_id, caller)
            if has_frame(session, cohort, place.index, place.frame_digest):
                return False
            there = has_chunk(session, cohort_id, place, len(data))
        new = not there and self._store_chunk(cohort, caller, place, data)
        with self._database.reading() as session:
            complete = is_complete(session, cohort_id, place)
        if complete:
            take(place.frame_bytes)
            self._assemble(cohort, caller, place)
        return new

    def _require_room(self, session: Session, caller: Caller, size: int) -> None:
        self._room.require_space(size)
        self._room.require_quota(session, session.get_one(Site, caller.site_id), size)

    def _keep(
        self,
        cohort_id: str,
        caller: Caller,
        blob: str,
        content: bytes,
        record: Callable[[Session, Site, Cohort], bool],
    ) -> bool:
        """Write a blob, then what names it; whether it was wanted. A blob that no row names is deleted again."""
        self._room.require_space(len(content))
        try:
            self._blobs.write(blob, content)
        except FileNotFoundError:
            self._require_open(cohort_id, caller)  # a withdrawal removes the folder, also beneath what is being written
            raise
        try:
            with self._database.writing() as session:
                cohort = own_cohort(session, cohort_id, caller)
                kept = record(session, session.get_one(Site, caller.site_id), cohort)
                if kept:
                    cohort.touched = clock.now()
        except PpcmiError:
            self._blobs.delete(blob)  # the cohort was withdrawn, or another frame stored, in the meantime
            raise
        except DBAPIError as error:
            if isinstance(error, IntegrityError) or is_full(error) or is_busy(error):  # else it may have been kept
                self._blobs.delete(blob)
            if isinstance(error, IntegrityError):
                raise conflict("frame-differs", "The same place was written at the same time; send it again.") from None
            raise
        if not kept:
            self._blobs.delete(blob)
        return kept

    def _store_chunk(self, cohort: Cohort, caller: Caller, place: ChunkPlace, data: bytes) -> bool:
        chunk = new_chunk(cohort, place, len(data))
        content = encrypt(cohort_key(self._keys, cohort), data, chunk_context(chunk))

        def record(session: Session, site: Site, current: Cohort) -> bool:
            if has_frame(session, current, place.index, place.frame_digest):
                return False
            if has_chunk(session, current.id, place, len(data)):
                return False
            self._room.require_quota(session, site, len(content))
            current.stored_bytes += len(content)
            session.add(chunk)
            return True

        return self._keep(cohort.id, caller, chunk.blob, content, record)

    def _assemble(self, cohort: Cohort, caller: Caller, place: ChunkPlace) -> None:
        """Make a frame of its chunks; somebody else may do the same at the same time."""
        try:
            frame = self._join_chunks(cohort, place)
            if self._is_there(cohort.id, caller, place):
                return
            _require_digest(frame, place)
            self.put_frame(cohort.id, caller, place.index, frame)
        except (BundleError, KeyMismatchError):
            with self._database.writing() as session:
                useless = discard_chunks(session, own_cohort(session, cohort.id, caller), place.index)
            for blob in useless:
                self._blobs.delete(blob)
            raise
        except FileNotFoundError:
            if not self._is_there(cohort.id, caller, place):
                raise

    def _join_chunks(self, cohort: Cohort, place: ChunkPlace) -> bytes:
        key, frame = cohort_key(self._keys, cohort), bytearray()
        with self._database.reading() as session:
            chunks = chunks_of(session, cohort.id, place.index)
        try:
            for chunk in chunks:
                frame += decrypt(key, self._blobs.read(chunk.blob), chunk_context(chunk))
        except OperatorError as error:
            raise BundleError("A part of the frame was damaged where it was stored; upload the file again.") from error
        return bytes(frame)

    def _is_there(self, cohort_id: str, caller: Caller, place: ChunkPlace) -> bool:
        with self._database.reading() as session:
            return has_frame(session, own_cohort(session, cohort_id, caller), place.index, place.frame_digest)

    def _require_open(self, cohort_id: str, caller: Caller) -> None:
        """Refuse a cohort that was withdrawn in the meantime."""
        with self._database.reading() as session:
            if own_cohort(session, cohort_id, caller).state == "withdrawn":
                raise withdrawn()

    def _open(
        self, cohort: Cohort, task: TaskDocument, caller: Caller, index: int, data: bytes
    ) -> tuple[Frame, bytes, str | None]:
        """The frame's row, its bundle and the check of its inner key."""
        if cohort.header is None:
            raise withdrawn()
        part, bundle = CohortKey.open(cohort.header, self._keys.private_key).open_frame(index, data)
        header = read_header(bundle)
        require_labelled(header, task)  # before room for any latent is made
        try:
            _, streams = self._channel_of(caller, task.identity, parse_header(cohort.header).mode).open(bundle)
        except KeyMismatchError as error:
            raise KeyMismatchError(
                "The cohort was exported by another site, or before this one enrolled anew; export it at this site."
            ) from error
        if not all(latents.finite for latents in streams.values()):  # the link layer may have added up what was finite
            raise BundleError("The frame holds values too large for latents; check the images and the codec.")
        digest = frame_digest(data)
        frame = Frame(
            cohort_id=cohort.id, index=index, digest=digest,
            blob=f"{cohort_folder(cohort.id)}/{index}-{digest.hex()[:16]}-{secrets.token_hex(8)}",
            pseudonym=part.case, part=part.part, parts=part.parts,
            variant=header.variant, slices=len(header.slice_indices),
        )  # fmt: skip
        return frame, bundle, header.inner_check


def cohort_folder(cohort_id: str) -> str:
    """Where a cohort's blobs are."""
    return f"cohorts/{cohort_id}"


def cohort_key(keys: ServerKeys, cohort: Cohort) -> bytes:
    """The key that a cohort's bundles are stored under.

    :raises RefusalError: 409 if it was withdrawn.
    """
    if cohort.wrapped_key is None:
        raise withdrawn()
    return keys.unwrap(cohort.wrapped_key, cohort.id.encode())


def frame_context(cohort_id: str, digest: bytes) -> bytes:
    """What a stored frame's encryption is bound to."""
    return b"ppcmi frame|" + cohort_id.encode() + b"|" + digest


def _require_digest(frame: bytes, place: ChunkPlace) -> None:
    if frame_digest(frame) != place.frame_digest:
        raise BundleError("The frame is not the one of X-PPCMI-Frame-Digest; upload the file again.")

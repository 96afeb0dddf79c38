"""Cohorts: announced by their header, filled frame by frame, committed whole, withdrawn.

:mod:`ppcmi_server.intake.uploads` takes the frames. Training sees whole cohorts only.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections import defaultdict
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, exists, func, or_, select
from sqlalchemy.orm import Session

from ppcmi.cohort_file import CohortKey
from ppcmi_server import audit, clock
from ppcmi_server.access.identity import Caller
from ppcmi_server.database.engine import Database
from ppcmi_server.database.schema import Case, Cohort, Consortium, Frame, Site, Task
from ppcmi_server.errors import OperatorError, conflict
from ppcmi_server.intake import garbage
from ppcmi_server.intake.chunks import discard_chunks, extents
from ppcmi_server.intake.cohort_checks import own_cohort, require_fit, require_shapes, require_whole, withdrawn
from ppcmi_server.intake.quota import Room, stored_bytes
from ppcmi_server.intake.uploads import ChannelOf, Uploads, cohort_folder, cohort_key, frame_context
from ppcmi_server.intake.withdrawal import withdraw_case, withdraw_cohort
from ppcmi_server.settings import StorageSettings
from ppcmi_server.storage.blobs import BlobStore
from ppcmi_server.storage.keys import KEY_BYTES, ServerKeys, decrypt
from ppcmi_server.tasks import membership

__all__ = [
    "CohortState",
    "CohortStore",
    "find_cohort",
    "fits_consortium",
    "list_cohorts",
    "require_shapes",
    "set_excluded",
    "sites_of_earlier_codec",
    "stored_bytes",
    "trainable",
]


@dataclass(frozen=True)
class CohortState:
    """How far a cohort is: indices of whole frames, and offset and size of the chunks of others."""

    cohort_id: str
    state: str
    frames: list[int]
    partial: dict[int, list[tuple[int, int]]]
    cases: int


def fits_consortium() -> ColumnElement[bool]:
    """That a cohort is in its consortium's mode and, where members share one, made with its present codec."""
    return exists().where(
        Consortium.task_id == Cohort.task_id,
        Consortium.mode == Cohort.mode,
        or_(Consortium.scope != "consortium", Consortium.codec == Cohort.codec),
    )


def trainable() -> ColumnElement[bool]:
    """That a training which began now would take a cohort."""
    return and_(Cohort.state == "whole", Cohort.excluded.is_(None), fits_consortium())


def list_cohorts(session: Session, task: Task | None = None) -> list[tuple[Cohort, Site, Task, bool]]:
    """Every cohort of a task, or of all, with its site, task and whether it fits its consortium; the oldest first."""
    wanted = (
        select(Cohort, Site, Task, fits_consortium()).join(Site, Site.id == Cohort.site_id)
        .join(Task, Task.id == Cohort.task_id).order_by(Cohort.created, Cohort.id)
    )  # fmt: skip
    if task is not None:
        wanted = wanted.where(Cohort.task_id == task.id)
    return [(cohort, site, of, fits) for cohort, site, of, fits in session.execute(wanted)]


def sites_of_earlier_codec(session: Session, task: Task) -> list[str]:
    """Names of the sites whose whole cohorts are of another codec than the consortium's present one."""
    found = list_cohorts(session, task)
    return sorted({site.name for cohort, site, _, fits in found if cohort.state == "whole" and not fits})


def find_cohort(session: Session, cohort_id: str) -> Cohort:
    """Any site's cohort, for the operator.

    :raises OperatorError: if there is none.
    """
    cohort = session.get(Cohort, cohort_id)
    if cohort is None:
        raise OperatorError("There is no such cohort; 'ppcmi-server cohort list' shows those there are.")
    return cohort


def set_excluded(session: Session, cohort_id: str, excluded: bool, actor: str = audit.OPERATOR) -> None:
    """Leave a cohort out of trainings from now on, or take it in again; its bytes stay.

    :raises OperatorError: if there is none, or it was withdrawn.
    """
    cohort = find_cohort(session, cohort_id)
    if cohort.state == "withdrawn":
        raise OperatorError("That cohort was withdrawn; there is nothing of it to train on.")
    if excluded == (cohort.excluded is not None):
        return
    cohort.excluded = clock.now() if excluded else None
    audit.record(session, actor, "cohort.exclude" if excluded else "cohort.include", cohort=cohort_id)


class CohortStore:
    """Everything that is done with cohorts."""

    def __init__(
        self, database: Database, blobs: BlobStore, keys: ServerKeys, channel_of: ChannelOf, storage: StorageSettings,
        room: Room,
    ) -> None:  # fmt: skip
        self._database = database
        self._blobs = blobs
        self._keys = keys
        self._upload_days = storage.upload_days
        self.room = room
        self.uploads = Uploads(database, blobs, keys, channel_of, room)

    def announce(self, task_name: str, caller: Caller, header: bytes) -> tuple[str, bool]:
        """The cohort's id, and whether it is new: the same header by the same site is the same cohort.

        :raises RefusalError: 403 for others than members, 409 if it does not fit the consortium, 507 without room.
        :raises BundleError: if the header is not valid.
        :raises KeyMismatchError: if it was exported for another server.
        """
        parsed = CohortKey.open(header, self._keys.private_key).header
        digest = hashlib.sha256(header).digest()
        with self._database.writing() as session:
            found = membership(session, task_name, caller)
            same = select(Cohort).where(Cohort.site_id == caller.site_id, Cohort.header_digest == digest)
            earlier = session.scalar(same)
            if earlier is not None and earlier.task_id == found.task.id:
                return earlier.id, False
            require_fit(parsed, found)
            self.room.require_space(len(header))
            self.room.require_quota(session, session.get_one(Site, caller.site_id), len(header))
            cohort_id, now = secrets.token_hex(16), clock.now()
            session.add(
                Cohort(
                    id=cohort_id, task_id=found.task.id, site_id=caller.site_id, header_digest=digest, header=header,
                    wrapped_key=self._keys.wrap(os.urandom(KEY_BYTES), cohort_id.encode()),
                    codec=parsed.codec, profile=parsed.profile.value, mode=parsed.mode, inner_check=None,
                    state="open", created=now, touched=now, stored_bytes=len(header),
                )
            )  # fmt: skip
            audit.record(session, caller.site_id, "cohort.announce", cohort=cohort_id, task=found.task.name)
        return cohort_id, True

    def state(self, cohort_id: str, caller: Caller) -> CohortState:
        """What the server has of a cohort.

        :raises RefusalError: 404 for others than its owner.
        """
        with self._database.reading() as session:
            cohort = own_cohort(session, cohort_id, caller)
            frames = list(
                session.scalars(select(Frame.index).where(Frame.cohort_id == cohort_id).order_by(Frame.index))
            )
            distinct = select(func.count(Frame.pseudonym.distinct())).where(Frame.cohort_id == cohort_id)
            cases = session.scalar(distinct) or 0
            return CohortState(cohort_id, cohort.state, frames, extents(session, cohort_id), cases)

    def commit(self, cohort_id: str, caller: Caller, frames: int, digest: str) -> tuple[int, int]:
        """Declare a cohort whole; numbers of cases and slices. The same again changes nothing.

        :raises RefusalError: 404, or 409 saying what is missing or differs.
        """
        with self._database.writing() as session:
            cohort = own_cohort(session, cohort_id, caller)
            if cohort.state == "withdrawn":
                raise withdrawn()
            if cohort.state == "whole":
                if cohort.digest != digest:
                    raise conflict("digest-differs", "The cohort was committed with another digest.")
                return cohort.cases, cohort.slices
            stored = list(session.scalars(select(Frame).where(Frame.cohort_id == cohort_id).order_by(Frame.index)))
            require_whole(stored, frames, digest)
            unneeded = discard_chunks(session, cohort)
            slices: dict[str, int] = defaultdict(int)
            for frame in stored:
                slices[frame.pseudonym] += frame.slices if frame.variant == 0 else 0
            session.add_all(Case(cohort_id=cohort_id, pseudonym=case, slices=count) for case, count in slices.items())
            cohort.state, cohort.digest, cohort.committed = "whole", digest, clock.now()
            cohort.cases, cohort.slices = len(slices), sum(slices.values())
            audit.record(session, caller.site_id, "cohort.commit", cohort=cohort_id)
            counted = cohort.cases, cohort.slices
        for blob in unneeded:
            self._blobs.delete(blob)
        return counted

    def withdraw(self, cohort_id: str, caller: Caller) -> None:
        """Take a cohort back: its key and bytes are gone, models trained on it are marked.

        :raises RefusalError: 404 for others than its owner.
        """
        with self._database.writing() as session:
            withdraw_cohort(session, own_cohort(session, cohort_id, caller), caller.site_id)
        self._delete_bytes(cohort_folder(cohort_id))

    def withdraw_by_operator(self, cohort_id: str, actor: str = audit.OPERATOR) -> None:
        """The same for the operator, e.g. at the request of a site that has lost its token.

        :raises OperatorError: if there is no such cohort.
        """
        with self._database.writing() as session:
            withdraw_cohort(session, find_cohort(session, cohort_id), actor)
        self._delete_bytes(cohort_folder(cohort_id))

    def withdraw_case(self, cohort_id: str, caller: Caller, pseudonym: str) -> None:
        """Take one case of a whole cohort back; with its last case the cohort is withdrawn.

        :raises RefusalError: 404 without such a case, 409 while the cohort is open.
        """
        with self._database.writing() as session:
            cohort = own_cohort(session, cohort_id, caller)
            blobs = withdraw_case(session, cohort, pseudonym, caller.site_id)
        self._delete_bytes(*blobs)

    def read_bundle(self, cohort: Cohort, frame: Frame) -> bytes:
        """A stored frame's bundle, still protected by the link layer."""
        key = cohort_key(self._keys, cohort)
        return decrypt(key, self._blobs.read(frame.blob), frame_context(cohort.id, frame.digest))

    def sweep(self, older_than_s: float = garbage.IN_USE_S) -> None:
        """Remove uploads that nobody went on with, and bytes that a crash left behind; see :mod:`garbage`."""
        garbage.expire_uploads(self._database, self._blobs, self._upload_days)
        garbage.delete_orphans(self._database, self._blobs, older_than_s)
        garbage.count_bytes(self._database, self._blobs)
        self._database.erase_traces()

    def _delete_bytes(self, *blobs: str) -> None:
        for blob in blobs:
            self._blobs.delete(blob)
        self._database.erase_traces()

"""Cohorts: announced by their header, filled frame by frame, committed whole, withdrawn.

A frame is opened when it arrives: what cannot be opened, was protected with another key, or does not fit the task is
refused then and there. It is stored encrypted under a key of the cohort's own. Training sees whole cohorts only.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from ppcmi.bundle_header import BundleHeader, Mode, read_header
from ppcmi.channel import Channel
from ppcmi.cohort_file import CohortHeader, CohortKey, cohort_digest, frame_digest, parse_header
from ppcmi.errors import BundleError, KeyMismatchError, PpcmiError
from ppcmi.scales import Profile, Stream, scale_shapes
from ppcmi.task import Task as TaskDocument
from ppcmi.task import parse_task
from ppcmi_server import audit, clock
from ppcmi_server.blobs import BlobStore
from ppcmi_server.database.engine import Database
from ppcmi_server.database.schema import Case, Cohort, Consortium, Frame, JobCohort, Model, Task
from ppcmi_server.errors import conflict, not_found
from ppcmi_server.identity import Caller
from ppcmi_server.keys import KEY_BYTES, ServerKeys, decrypt, encrypt
from ppcmi_server.tasks import TaskMembership, membership

ChannelOf = Callable[[Caller, str, Mode], Channel]
"""The channel with a site for a task's identity and a mode."""


@dataclass(frozen=True)
class CohortState:
    """How far a cohort is."""

    cohort_id: str
    state: str
    frames: list[int]
    cases: int


class CohortStore:
    """Everything that is done with cohorts."""

    def __init__(self, database: Database, blobs: BlobStore, keys: ServerKeys, channel_of: ChannelOf) -> None:
        self._database = database
        self._blobs = blobs
        self._keys = keys
        self._channel_of = channel_of

    def announce(self, task_name: str, caller: Caller, header: bytes) -> tuple[str, bool]:
        """The cohort's id, and whether it is new: the same header by the same site is the same cohort.

        :raises RefusalError: 403 for others than members, 409 if it does not fit the consortium.
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
            _require_fit(parsed, found)
            cohort_id = secrets.token_hex(16)
            session.add(
                Cohort(
                    id=cohort_id, task_id=found.task.id, site_id=caller.site_id, header_digest=digest, header=header,
                    wrapped_key=self._keys.wrap(os.urandom(KEY_BYTES), cohort_id.encode()),
                    codec=parsed.codec, profile=parsed.profile.value, mode=parsed.mode,
                    inner_check=None, state="open", created=clock.now(),
                )
            )  # fmt: skip
            audit.record(session, caller.site_id, "cohort.announce", cohort=cohort_id, task=found.task.name)
        return cohort_id, True

    def state(self, cohort_id: str, caller: Caller) -> CohortState:
        """What the server has of a cohort.

        :raises RefusalError: 404 for others than its owner.
        """
        with self._database.reading() as session:
            cohort = _own(session, cohort_id, caller)
            frames = list(
                session.scalars(select(Frame.index).where(Frame.cohort_id == cohort_id).order_by(Frame.index))
            )
            distinct = select(func.count(Frame.pseudonym.distinct())).where(Frame.cohort_id == cohort_id)
            return CohortState(cohort_id, cohort.state, frames, session.scalar(distinct) or 0)

    def put_frame(self, cohort_id: str, caller: Caller, index: int, data: bytes) -> bool:
        """Store a frame; whether it is new. It is durable when this returns.

        :raises RefusalError: 404, 409 if another frame has this index or the cohort takes no more.
        :raises BundleError: if it cannot be opened or does not fit the task.
        :raises KeyMismatchError: if it was protected with another key.
        """
        digest = frame_digest(data)
        with self._database.reading() as session:
            cohort = _own(session, cohort_id, caller)
            if _is_there(session, cohort, index, digest):
                return False
            task = session.get_one(Task, cohort.task_id)
            consortium = session.get_one(Consortium, cohort.task_id)
        frame, bundle, inner_check = self._open(cohort, parse_task(task.document), caller, index, data)
        _require_inner_key(inner_check, consortium)
        context = _frame_context(cohort_id, digest)
        self._blobs.write(frame.blob, encrypt(self.cohort_key(cohort), bundle, context))
        try:
            with self._database.writing() as session:
                current = _own(session, cohort_id, caller)
                if _is_there(session, current, index, digest):
                    return False
                if current.inner_check not in (None, inner_check):
                    raise BundleError("The cohort's bundles were made with different inner keys; export it again.")
                current.inner_check = inner_check
                session.add(frame)
        except PpcmiError:
            self._blobs.delete(frame.blob)  # the cohort was withdrawn or another frame stored in the meantime
            raise
        except IntegrityError:
            raise conflict(
                "frame-differs", "Another frame of this index arrived at the same time; send it again."
            ) from None
        return True

    def commit(self, cohort_id: str, caller: Caller, frames: int, digest: str) -> tuple[int, int]:
        """Declare a cohort whole; numbers of cases and slices. The same again changes nothing.

        :raises RefusalError: 404, or 409 saying what is missing or differs.
        """
        with self._database.writing() as session:
            cohort = _own(session, cohort_id, caller)
            if cohort.state == "withdrawn":
                raise _withdrawn()
            if cohort.state == "whole":
                if cohort.digest != digest:
                    raise conflict("digest-differs", "The cohort was committed with another digest.")
                return cohort.cases, cohort.slices
            stored = list(session.scalars(select(Frame).where(Frame.cohort_id == cohort_id).order_by(Frame.index)))
            _require_whole(stored, frames, digest)
            slices: dict[str, int] = defaultdict(int)
            for frame in stored:
                slices[frame.pseudonym] += frame.slices if frame.variant == 0 else 0
            session.add_all(Case(cohort_id=cohort_id, pseudonym=case, slices=count) for case, count in slices.items())
            cohort.state, cohort.digest, cohort.committed = "whole", digest, clock.now()
            cohort.cases, cohort.slices = len(slices), sum(slices.values())
            audit.record(session, caller.site_id, "cohort.commit", cohort=cohort_id)
            return cohort.cases, cohort.slices

    def withdraw(self, cohort_id: str, caller: Caller) -> None:
        """Take a cohort back: its key and bytes are gone, models trained on it are marked.

        :raises RefusalError: 404 for others than its owner.
        """
        with self._database.writing() as session:
            cohort = _own(session, cohort_id, caller)
            if cohort.state != "withdrawn":
                _withdraw(session, cohort)
                audit.record(session, caller.site_id, "cohort.withdraw", cohort=cohort_id)
        self._blobs.delete(_folder(cohort_id))
        self._database.erase_traces()

    def withdraw_case(self, cohort_id: str, caller: Caller, pseudonym: str) -> None:
        """Take one case of a whole cohort back; with its last case the cohort is withdrawn.

        :raises RefusalError: 404 without such a case, 409 while the cohort is open.
        """
        with self._database.writing() as session:
            cohort = _own(session, cohort_id, caller)
            if cohort.state == "open":
                raise conflict("cohort-open", "The cohort is not committed yet; withdraw the whole cohort instead.")
            case = session.get(Case, (cohort_id, pseudonym))
            if case is None:
                raise not_found("case")
            of_case = (Frame.cohort_id == cohort_id, Frame.pseudonym == pseudonym)
            blobs = list(session.scalars(select(Frame.blob).where(*of_case)))
            if case.withdrawn is None:
                session.execute(delete(Frame).where(*of_case))
                case.withdrawn = clock.now()
                cohort.cases, cohort.slices = cohort.cases - 1, cohort.slices - case.slices
                _mark_models(session, cohort_id)
                audit.record(session, caller.site_id, "case.withdraw", cohort=cohort_id, case=pseudonym)
                if cohort.cases == 0:
                    _withdraw(session, cohort)
        for blob in blobs:
            self._blobs.delete(blob)
        self._database.erase_traces()

    def read_bundle(self, cohort: Cohort, frame: Frame) -> bytes:
        """A stored frame's bundle, still protected by the link layer."""
        return decrypt(self.cohort_key(cohort), self._blobs.read(frame.blob), _frame_context(cohort.id, frame.digest))

    def cohort_key(self, cohort: Cohort) -> bytes:
        """The key that a cohort's bundles are stored under."""
        if cohort.wrapped_key is None:
            raise _withdrawn()
        return self._keys.unwrap(cohort.wrapped_key, cohort.id.encode())

    def sweep(self) -> None:
        """Delete bytes that a crash left behind a withdrawal or an upload."""
        with self._database.reading() as session:
            for cohort_id in self._blobs.names("cohorts"):
                cohort = session.get(Cohort, cohort_id)
                if cohort is None or cohort.state == "withdrawn":
                    self._blobs.delete(_folder(cohort_id))
                    continue
                known = set(session.scalars(select(Frame.blob).where(Frame.cohort_id == cohort_id)))
                for name in self._blobs.names(_folder(cohort_id)):
                    if f"{_folder(cohort_id)}/{name}" not in known:
                        self._blobs.delete(f"{_folder(cohort_id)}/{name}")

    def _open(
        self, cohort: Cohort, task: TaskDocument, caller: Caller, index: int, data: bytes
    ) -> tuple[Frame, bytes, str | None]:
        """The frame's row, its bundle and the check of its inner key."""
        if cohort.header is None:
            raise _withdrawn()
        part, bundle = CohortKey.open(cohort.header, self._keys.private_key).open_frame(index, data)
        header = read_header(bundle)
        _require_labelled(header, task)  # before room for any latent is made
        self._channel_of(caller, task.identity, parse_header(cohort.header).mode).open(bundle)
        digest = frame_digest(data)
        frame = Frame(
            cohort_id=cohort.id, index=index, digest=digest,
            blob=f"{_folder(cohort.id)}/{index}-{digest.hex()[:32]}",
            pseudonym=part.case, part=part.part, parts=part.parts,
            variant=header.variant, slices=len(header.slice_indices),
        )  # fmt: skip
        return frame, bundle, header.inner_check


def _own(session: Session, cohort_id: str, caller: Caller) -> Cohort:
    cohort = session.get(Cohort, cohort_id)
    if cohort is None or cohort.site_id != caller.site_id:
        raise not_found("cohort")
    return cohort


def _require_fit(header: CohortHeader, found: TaskMembership) -> None:
    """A cohort fits its consortium's task, mode and, where members share one, codec."""
    if header.task != found.document.identity:
        raise conflict("task-differs", "The cohort is of another task, or of another version of it.")
    if header.mode != found.consortium.mode:
        raise conflict("mode-differs", "The cohort was exported in another mode than the consortium's.")
    if found.consortium.scope == "consortium" and header.codec != found.consortium.codec:
        raise conflict(
            "codec-differs", "The cohort was exported with another codec than the consortium's; export it again."
        )


def _require_labelled(header: BundleHeader, task: TaskDocument) -> None:
    """A cohort's bundle has both streams in the task's shapes."""
    if set(header.streams) != {Stream.IMAGE, Stream.MASK}:
        raise BundleError("A cohort's bundles hold image and mask latents; export the cohort again.")
    require_shapes(header, task)


def require_shapes(header: BundleHeader, task: TaskDocument) -> None:
    """Latents have the shapes that the task's slices give.

    :raises BundleError: if not.
    """
    if dict(header.shapes) != scale_shapes(task.slicing.size, Profile(header.profile).scales):
        raise BundleError("The latents do not have the shapes of the task's slices; use the task's own codec.")


def _require_inner_key(inner_check: str | None, consortium: Consortium) -> None:
    if consortium.scope == "consortium" and inner_check != consortium.inner_check:
        raise KeyMismatchError("The cohort was protected with another inner key than the consortium's; join it again.")
    if (inner_check is None) != (consortium.mode == "paper"):
        raise BundleError("An inner key protects bundles in mode 'two-layer' and only there; export the cohort again.")


def _is_there(session: Session, cohort: Cohort, index: int, digest: bytes) -> bool:
    """Whether this very frame is stored; refuses what would change a frame or a cohort that takes no more."""
    if cohort.state == "withdrawn":
        raise _withdrawn()
    stored = session.get(Frame, (cohort.id, index))
    if stored is not None and stored.digest == digest:
        return True
    if stored is not None:
        raise conflict(
            "frame-differs", "The server has another frame of this index; export and upload the cohort anew."
        )
    if cohort.state == "whole":
        raise conflict("cohort-whole", "The cohort is committed and takes no more frames; export a new one.")
    return False


def _require_whole(stored: list[Frame], frames: int, digest: str) -> None:
    present = {frame.index for frame in stored}
    missing = sorted(set(range(frames)) - present)
    if missing:
        some = ", ".join(str(index) for index in missing[:10]) + (", ..." if len(missing) > 10 else "")
        raise conflict("frames-missing", f"Frames {some} are missing ({len(missing)} in all); send them, then commit.")
    if len(present) != frames:
        raise conflict(
            "frames-differ", "There are more frames than the commit says; export and upload the cohort anew."
        )
    if cohort_digest(frame.digest for frame in stored) != digest:
        raise conflict("digest-differs", "The frames' digest is another; export and upload the cohort anew.")
    parts: dict[str, list[int]] = defaultdict(list)
    totals: dict[str, set[int]] = defaultdict(set)
    for frame in stored:
        parts[frame.pseudonym].append(frame.part)
        totals[frame.pseudonym].add(frame.parts)
    for case, found in parts.items():
        if len(totals[case]) != 1 or sorted(found) != list(range(totals[case].pop())):
            raise conflict("case-incomplete", "A case of the cohort is not whole; export and upload the cohort anew.")


def _withdraw(session: Session, cohort: Cohort) -> None:
    session.execute(delete(Frame).where(Frame.cohort_id == cohort.id))
    session.execute(
        update(Case).where(Case.cohort_id == cohort.id, Case.withdrawn.is_(None)).values(withdrawn=clock.now())
    )
    cohort.state, cohort.withdrawn = "withdrawn", clock.now()
    cohort.wrapped_key = cohort.header = None
    cohort.cases = cohort.slices = 0
    _mark_models(session, cohort.id)


def _mark_models(session: Session, cohort_id: str) -> None:
    """Mark what was trained on a cohort, also a training that is still under way."""
    session.execute(update(JobCohort).where(JobCohort.cohort_id == cohort_id).values(withdrawn=True))
    jobs = select(JobCohort.job_id).where(JobCohort.cohort_id == cohort_id)
    session.execute(update(Model).where(Model.job_id.in_(jobs)).values(withdrawn_data=True))


def _folder(cohort_id: str) -> str:
    return f"cohorts/{cohort_id}"


def _frame_context(cohort_id: str, digest: bytes) -> bytes:
    return b"ppcmi frame|" + cohort_id.encode() + b"|" + digest


def _withdrawn() -> Exception:
    return conflict("cohort-withdrawn", "The cohort was withdrawn; export it again to upload it anew.")

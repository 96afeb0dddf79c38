"""What a cohort, its frames and its bundles have to be; what does not fit is refused with what to do about it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy.orm import Session

from ppcmi.bundle_header import BundleHeader
from ppcmi.cohort_file import CohortHeader, cohort_digest
from ppcmi.errors import BundleError, KeyMismatchError
from ppcmi.methods.shapes import item_shapes
from ppcmi.modes import has_inner_layer
from ppcmi.scales import MINIMIZED_CHANNELS, SCALE_CHANNELS, Profile, Stream
from ppcmi.task import Task as TaskDocument
from ppcmi_server.access.identity import Caller, require_access
from ppcmi_server.database.schema import Cohort, Consortium, Frame
from ppcmi_server.errors import RefusalError, conflict, not_found
from ppcmi_server.tasks import TaskMembership


def own_cohort(session: Session, cohort_id: str, caller: Caller) -> Cohort:
    """A cohort of the caller's.

    :raises RefusalError: 404 for all others, 401 if access was revoked meanwhile.
    """
    require_access(session, caller)
    cohort = session.get(Cohort, cohort_id)
    if cohort is None or cohort.site_id != caller.site_id:
        raise not_found("cohort")
    return cohort


def has_frame(session: Session, cohort: Cohort, index: int, digest: bytes) -> bool:
    """Whether this very frame is stored.

    :raises RefusalError: 409 if it would change a frame, or the cohort takes no more.
    """
    if cohort.state == "withdrawn":
        raise withdrawn()
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


def require_fit(header: CohortHeader, found: TaskMembership) -> None:
    """A cohort fits its consortium's task, mode and, where members share one, codec.

    :raises RefusalError: 409 if not.
    """
    if header.task != found.document.identity:
        raise conflict("task-differs", "The cohort is of another task, or of another version of it.")
    if header.mode != found.consortium.mode:
        raise conflict("mode-differs", "The cohort was exported in another mode than the consortium's.")
    if found.consortium.scope == "consortium" and header.codec != found.consortium.codec:
        raise conflict(
            "codec-differs", "The cohort was exported with another codec than the consortium's; export it again."
        )


def require_labelled(header: BundleHeader, task: TaskDocument) -> None:
    """A cohort's bundle has both streams in the task's shapes.

    :raises BundleError: if not.
    """
    if set(header.streams) != {Stream.IMAGE, Stream.MASK}:
        raise BundleError("A cohort's bundles hold image and mask latents; export the cohort again.")
    require_shapes(header, task)


def require_shapes(header: BundleHeader, task: TaskDocument) -> None:
    """Latents have the shapes that the task's slices give.

    :raises BundleError: if not.
    """
    possible = [
        item_shapes(task, header.profile, header.streams, channels) for channels in (SCALE_CHANNELS, MINIMIZED_CHANNELS)
    ]
    fits = (header.profile is Profile.MIXUP) == (task.method == "mixup")
    if not fits or header.shapes not in possible:
        raise BundleError("The latents do not have the shapes of the task's slices; use the task's own codec.")


def require_inner_key(inner_check: str | None, consortium: Consortium) -> None:
    """A bundle was protected with the consortium's inner key, and with one at all where the mode has it.

    :raises KeyMismatchError: if it is another.
    :raises BundleError: if there is one too many or too few.
    """
    if consortium.scope == "consortium" and inner_check != consortium.inner_check:
        raise KeyMismatchError("The cohort was protected with another inner key than the consortium's; join it again.")
    if (inner_check is not None) != has_inner_layer(consortium.mode):
        raise BundleError("An inner key protects bundles in mode 'two-layer' and only there; export the cohort again.")


def require_whole(stored: Sequence[Frame], frames: int, digest: str) -> None:
    """The frames are those that the cohort file's end speaks of, and every case of them is whole.

    :raises RefusalError: 409, saying what is missing or differs.
    """
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


def withdrawn() -> RefusalError:
    """409: nothing of the cohort is left."""
    return conflict("cohort-withdrawn", "The cohort was withdrawn; export it again to upload it anew.")

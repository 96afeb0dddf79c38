"""Tasks and their consortia: who takes part, and the sealed messages and codec that members leave for each other."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ppcmi.errors import TaskError
from ppcmi.methods.rules import rules_of
from ppcmi.modes import has_inner_layer
from ppcmi.task import Task as TaskDocument
from ppcmi.task import parse_task, task_to_json
from ppcmi_server import audit, clock
from ppcmi_server.access.identity import Caller, require_access
from ppcmi_server.database.schema import Consortium, Invitation, Member, SharedNetwork, Site, Task
from ppcmi_server.errors import conflict, forbidden, not_found, unprocessable


@dataclass(frozen=True)
class TaskMembership:
    """A task as a member of its consortium sees it."""

    task: Task
    document: TaskDocument
    consortium: Consortium


def add_task(session: Session, document: TaskDocument, actor: str = audit.OPERATOR) -> None:
    """Offer a task to the sites.

    :raises TaskError: if there is a task of that name.
    """
    text = task_to_json(document)
    found = session.scalar(select(Task).where(Task.name == document.name))
    if found is not None and found.document == text:
        raise TaskError("The server has this task already.")
    if found is not None:
        raise TaskError(
            "The server has another task of this name; latents are bound to it, so give yours another name."
        )
    session.add(Task(name=document.name, document=text, created=clock.now()))
    audit.record(session, actor, "task.add", task=document.identity)


def list_tasks(session: Session) -> list[Task]:
    """Every task, by name."""
    return list(session.scalars(select(Task).order_by(Task.name)))


def find_task(session: Session, name: str) -> Task:
    """A task by name.

    :raises RefusalError: 404.
    """
    task = session.scalar(select(Task).where(Task.name == name))
    if task is None:
        raise not_found("task")
    return task


def is_member(session: Session, task: Task, site_id: str) -> bool:
    """Whether a site takes part in a task."""
    return session.get(Member, (task.id, site_id)) is not None


def members(session: Session, task: Task) -> int:
    """How many sites take part in a task; those that were revoked do no longer."""
    wanted = select(func.count()).select_from(Member).join(Site, Site.id == Member.site_id)
    return session.scalar(wanted.where(Member.task_id == task.id, Site.revoked.is_(None))) or 0


def membership(session: Session, name: str, caller: Caller) -> TaskMembership:
    """The task and its consortium, for a member.

    :raises RefusalError: 404 without such a task, 403 for others than members, 401 if access was revoked meanwhile.
    """
    require_access(session, caller)
    task = find_task(session, name)
    consortium = session.get(Consortium, task.id)
    if consortium is None or not is_member(session, task, caller.site_id):
        how = "found it" if consortium is None else "have a member invite you"
        raise forbidden(f"Only members of the task's consortium may do this; {how}.")
    return TaskMembership(task, parse_task(task.document), consortium)


def found_consortium(
    session: Session, name: str, caller: Caller, *, scope: str, mode: str, inner_check: str | None
) -> None:
    """Make the caller the founder and first member.

    :raises RefusalError: 409 if there is a consortium, 422 if the inner key's check does not fit the mode.
    """
    task = find_task(session, name)
    if session.get(Consortium, task.id) is not None:
        raise conflict("consortium-exists", "The task has a consortium; have one of its members invite you.")
    if (inner_check is not None) != has_inner_layer(mode):
        raise unprocessable("inner_check is 16 hex digits in mode 'two-layer', and null in others.")
    method = parse_task(task.document).method
    if mode not in rules_of(method).modes:
        raise unprocessable(f"A task of method '{method}' works in mode {' or '.join(rules_of(method).modes)} only.")
    session.add(
        Consortium(
            task_id=task.id, scope=scope, mode=mode, inner_check=inner_check,
            founder_id=caller.site_id, created=clock.now(),
        )
    )  # fmt: skip
    session.add(Member(task_id=task.id, site_id=caller.site_id, joined=clock.now()))
    audit.record(session, caller.site_id, "consortium.found", task=task.name)


def invite(session: Session, name: str, caller: Caller, to: str, sealed: bytes) -> None:
    """Leave a sealed invitation for another site, in place of an earlier one of the caller's.

    :raises RefusalError: 403 for others than members, 404 without such a site, 409 if it is a member.
    """
    task = membership(session, name, caller).task
    site = session.get(Site, to)
    if site is None or site.public_key is None or site.revoked is not None:
        raise not_found("site")
    if is_member(session, task, to):
        raise conflict("already-member", "That site is a member already.")
    earlier = select(Invitation).where(
        Invitation.task_id == task.id, Invitation.from_id == caller.site_id, Invitation.to_id == to
    )
    for invitation in session.scalars(earlier):
        session.delete(invitation)
    session.add(Invitation(task_id=task.id, from_id=caller.site_id, to_id=to, sealed=sealed, created=clock.now()))
    audit.record(session, caller.site_id, "consortium.invite", task=task.name, site=to)


def newest_invitation(session: Session, name: str, caller: Caller) -> tuple[Invitation, Site]:
    """The caller's newest invitation and who it is from.

    :raises RefusalError: 404 if there is none.
    """
    found = _invitations(session, find_task(session, name), caller)
    if not found:
        raise not_found("invitation")
    return found[-1]


def _invitations(session: Session, task: Task, caller: Caller) -> list[tuple[Invitation, Site]]:
    """A site's invitations with whom they are from, the oldest first.

    Revoking a site deletes what it sent; before servers did so, it stayed, and nobody may join by it.
    """
    wanted = (
        select(Invitation, Site).join(Site, Site.id == Invitation.from_id)
        .where(Invitation.task_id == task.id, Invitation.to_id == caller.site_id, Site.revoked.is_(None))
        .order_by(Invitation.id)
    )  # fmt: skip
    return [(invitation, sender) for invitation, sender in session.execute(wanted)]


def join(session: Session, name: str, caller: Caller) -> None:
    """Make an invited site a member; nothing changes for one that is.

    :raises RefusalError: 403 without an invitation.
    """
    task = find_task(session, name)
    if is_member(session, task, caller.site_id):
        return
    found = _invitations(session, task, caller)
    if not found:
        raise forbidden("Joining takes an invitation; ask a member of the consortium for one.")
    for invitation, _ in found:
        session.delete(invitation)  # it holds a sealed key, which nobody needs any longer
    session.add(Member(task_id=task.id, site_id=caller.site_id, joined=clock.now()))
    audit.record(session, caller.site_id, "consortium.join", task=task.name)


def require_codec_publisher(found: TaskMembership, caller: Caller) -> None:
    """Only the founder publishes, and only a codec that members share.

    :raises RefusalError: 403 or 409.
    """
    if found.consortium.founder_id != caller.site_id:
        raise forbidden("Only the consortium's founder publishes its codec.")
    if found.consortium.scope != "consortium":
        raise conflict(
            "codec-not-shared", "In this consortium every site has a codec of its own; there is none to publish."
        )


def set_codec(session: Session, name: str, caller: Caller, fingerprint: str, blob: str) -> list[str]:
    """Publish the codec in ``blob``; returns the blobs that nothing names any longer.

    These are the codec that it replaces and, if it is another one, the networks that members shared: they belong to
    the earlier codec, and nobody could use them.
    """
    found = membership(session, name, caller)
    require_codec_publisher(found, caller)
    consortium = found.consortium
    unneeded = [] if consortium.codec_blob is None else [consortium.codec_blob]
    if consortium.codec != fingerprint:
        for network in list(session.scalars(select(SharedNetwork).where(SharedNetwork.task_id == found.task.id))):
            unneeded.append(network.blob)
            session.delete(network)
    consortium.codec, consortium.codec_blob = fingerprint, blob
    audit.record(session, caller.site_id, "codec.publish", task=found.task.name, codec=fingerprint)
    return unneeded

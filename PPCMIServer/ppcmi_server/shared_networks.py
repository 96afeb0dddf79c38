"""Local networks that a consortium's members leave for each other: encrypted by them, opaque here, one a member.

They belong to the consortium's present codec: another one takes them all away (:func:`ppcmi_server.tasks.set_codec`).
What changes them returns the blob that nothing names any longer; it is deleted once the transaction is kept.
"""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from ppcmi_server import audit, clock
from ppcmi_server.access.identity import Caller
from ppcmi_server.database.schema import Consortium, SharedNetwork, Site, Task
from ppcmi_server.errors import conflict, not_found
from ppcmi_server.intake.quota import Room
from ppcmi_server.tasks import TaskMembership, membership


def require_shareable(
    session: Session, room: Room, name: str, caller: Caller, fingerprint: str, size: int
) -> TaskMembership:
    """A network may be shared: what its sender can be told before a byte of it is read, and once more at the end.

    :param fingerprint: of the codec that the network belongs to.
    :param size: bytes that it has, or is said to have; the caller's earlier one makes room for it.
    :raises RefusalError: 403 for others than members, 409 if nobody could use it, 507 beyond the site's quota.
    """
    found = membership(session, name, caller)
    if found.consortium.scope != "consortium":
        raise conflict(
            "networks-not-shared",
            "In this consortium every site has a codec of its own, and its network is of no use to others.",
        )
    if found.consortium.codec != fingerprint:
        raise conflict("another-codec", "The consortium has another codec by now; get it and refine again.")
    earlier = session.get(SharedNetwork, (found.task.id, caller.site_id))
    more = size if earlier is None else size - earlier.stored_bytes
    if more > 0:  # what gets smaller is taken also from a site whose quota was lowered
        room.require_quota(session, session.get_one(Site, caller.site_id), more)
    return found


def share(
    session: Session, room: Room, name: str, caller: Caller, fingerprint: str, blob: str, size: int
) -> str | None:
    """Share the network in ``blob``; returns the blob of the caller's earlier one.

    :raises RefusalError: as :func:`require_shareable`: codec and quota may be others than when the body began.
    """
    task = require_shareable(session, room, name, caller, fingerprint, size).task
    earlier = session.get(SharedNetwork, (task.id, caller.site_id))
    replaced = None if earlier is None else earlier.blob
    session.merge(
        SharedNetwork(
            task_id=task.id, site_id=caller.site_id, codec=fingerprint, blob=blob, stored_bytes=size,
            shared=clock.now(),
        )
    )  # fmt: skip
    audit.record(session, caller.site_id, "network.share", task=task.name, codec=fingerprint)
    return replaced


def withdraw(session: Session, name: str, caller: Caller) -> str | None:
    """Take the caller's network back; its blob, or None where there was none.

    :raises RefusalError: 403 for others than members.
    """
    return _withdraw(session, membership(session, name, caller).task, caller.site_id, caller.site_id)


def withdraw_by_operator(session: Session, task: Task, site: Site, actor: str = audit.OPERATOR) -> str | None:
    """Take a site's network back for it, also of one that is no member any more; its blob, or None."""
    return _withdraw(session, task, site.id, actor, site=site.id)


def _withdraw(session: Session, task: Task, site_id: str, actor: str, **subject: str) -> str | None:
    network = session.get(SharedNetwork, (task.id, site_id))
    if network is None:
        return None
    session.delete(network)
    audit.record(session, actor, "network.withdraw", task=task.name, **subject)
    return network.blob


def networks_of(session: Session, consortium: Consortium) -> list[tuple[SharedNetwork, Site]]:
    """Networks that members may use, with whose they are, the oldest first.

    Revoking a site deletes its networks; one that came in at the same moment is offered to nobody.
    """
    wanted = (
        select(SharedNetwork, Site).join(Site, Site.id == SharedNetwork.site_id)
        .where(
            SharedNetwork.task_id == consortium.task_id, SharedNetwork.codec == consortium.codec,
            Site.revoked.is_(None),
        )
        .order_by(SharedNetwork.shared, SharedNetwork.site_id)
    )  # fmt: skip
    return [(network, site) for network, site in session.execute(wanted)]


def list_stored(session: Session, task: Task | None = None) -> list[tuple[SharedNetwork, Site, Task]]:
    """Every network that is stored for a task, or for all, with whose it is, for the operator."""
    wanted = (
        select(SharedNetwork, Site, Task).join(Site, Site.id == SharedNetwork.site_id)
        .join(Task, Task.id == SharedNetwork.task_id).order_by(Task.name, SharedNetwork.shared)
    )  # fmt: skip
    if task is not None:
        wanted = wanted.where(SharedNetwork.task_id == task.id)
    return [(network, site, of) for network, site, of in session.execute(wanted)]


def list_networks(session: Session, name: str, caller: Caller) -> list[tuple[SharedNetwork, Site]]:
    """The same for a member.

    :raises RefusalError: 403 for others.
    """
    return networks_of(session, membership(session, name, caller).consortium)


def find_network(session: Session, name: str, caller: Caller, site_id: str) -> SharedNetwork:
    """The network of one of the sites, for a member.

    :raises RefusalError: 403 for others, 404 if the site offers none.
    """
    for network, _ in list_networks(session, name, caller):
        if network.site_id == site_id:
            return network
    raise not_found("network")

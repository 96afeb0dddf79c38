"""Networks that a consortium's members leave for each other on the server, which cannot open them.

A site that learns together with others (:mod:`ppcmi.codec.together`) shares its own network and gets theirs. Whoever
is a member can look at each of them, and a network can tell of the images that it learned from: docs/security.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ppcmi import among_members
from ppcmi.client import NOT_FOUND, ServerClient
from ppcmi.codec.codec import Codec
from ppcmi.codec.trained_network import TrainedNetwork
from ppcmi.errors import (
    BundleError,
    CodecError,
    ConnectionFailedError,
    KeyMismatchError,
    ServerRefusedError,
    UsageError,
)
from ppcmi.site import TaskProfile, printable
from ppcmi.wording import counted

MAGIC = b"PPCMI-N1"
POLL_S = 5.0


@dataclass(frozen=True)
class SharedBy:
    """A member that shares a network.

    :param shared: when, UTC, ISO 8601.
    :param version: changes whenever the member shares another one.
    """

    site_id: str
    site_name: str
    shared: str
    version: str


def require_sharing(part: TaskProfile) -> None:
    """Check that the site's consortium is one whose members can learn together.

    :raises UsageError: if its members share no codec, or its method has no network at the sites.
    """
    if not part.learns_together:
        raise UsageError("Networks are shared in a consortium whose members have one codec; this task has none.")


def list_shared(client: ServerClient, part: TaskProfile) -> list[SharedBy]:
    """Members that share a network with the consortium's present codec, this site included."""
    return [
        SharedBy(
            str(found.get("site_id", "")),
            printable(str(found.get("site_name", ""))),
            str(found.get("shared", "")),
            str(found.get("version", "")),
        )
        for found in client.networks(part.task.name)
    ]


def share(client: ServerClient, part: TaskProfile, site_id: str, network: TrainedNetwork) -> None:
    """Leave the site's network for the other members, in place of an earlier one."""
    context = _context(part, network.codec, site_id)
    encrypted = among_members.encrypt(part.inner_key, MAGIC, context, network.to_bytes())
    client.put_network(part.task.name, encrypted, network.codec)


def fetch(client: ServerClient, part: TaskProfile, member: SharedBy, codec: Codec) -> TrainedNetwork | None:
    """A member's network; None if it was taken back meanwhile.

    :raises PpcmiError: if it is damaged, of another codec, or not from a member.
    """
    try:
        encrypted = client.network(part.task.name, member.site_id)
    except ServerRefusedError as refusal:
        if refusal.status == NOT_FOUND:
            return None
        raise
    context = _context(part, codec.fingerprint, member.site_id)
    return TrainedNetwork.from_bytes(among_members.decrypt(part.inner_key, MAGIC, context, encrypted), codec)


@dataclass(frozen=True)
class Telling:
    """Who is told what happens between two rounds.

    :param keep: is given every network that this site trained, before it is shared.
    :param remark: is given sentences: whose network was left out, what could not be sent.
    :param progress: is told for whom a round waits.
    """

    keep: Callable[[TrainedNetwork], None]
    remark: Callable[[str], None]
    progress: Callable[[str], None]


class ConsortiumMembers:
    """The other members of a task's consortium, behind the server; :class:`~ppcmi.codec.together.Members`.

    Once training has begun, a server that cannot be reached ends nothing: a round goes on with the networks before.

    :param shares: whether this site gives the others its network, too.
    :param wait_for: a round begins once so many others have shared since the one before, ...
    :param longest_wait_s: ... or after so many seconds, once; then no round waits any longer.
    :param pause: sleeps for so many seconds.
    """

    def __init__(
        self,
        client: ServerClient,
        part: TaskProfile,
        site_id: str,
        codec: Codec,
        telling: Telling,
        *,
        shares: bool,
        wait_for: int = 0,
        longest_wait_s: float = 1800.0,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client, self._part, self._site_id, self._codec = client, part, site_id, codec
        self._telling, self._shares, self._pause = telling, shares, pause
        self._wanted, self._longest_s = wait_for, longest_wait_s
        self._begun = False
        self._networks: dict[SharedBy, TrainedNetwork] = {}
        self._at_first: frozenset[SharedBy] = frozenset()

    @property
    def names(self) -> list[str]:
        """Of the members whose networks were last read."""
        return [member.site_name for member in self._networks]

    def networks(self) -> Sequence[TrainedNetwork]:
        """The newest network of each other member.

        Between rounds it waits for as many members as it shall, so that all learn from each other's last round. A
        network that cannot be used is left out, and the user is told.
        """
        try:
            self._networks = self._read(self._awaited() if self._begun else self._others())
            if not self._begun:
                self._at_first = frozenset(self._networks)
        except (ConnectionFailedError, ServerRefusedError) as error:
            if not self._begun:
                raise
            self._telling.remark(f"The members' networks are those of the round before: {error}")
        return list(self._networks.values())

    def share(self, network: TrainedNetwork) -> None:
        """Keep the network, and leave it for the others if this site shares."""
        self._begun = True
        self._telling.keep(network)
        if not self._shares:
            return
        try:
            share(self._client, self._part, self._site_id, network)
        except (ConnectionFailedError, ServerRefusedError) as error:
            self._telling.remark(f"This round's network was not shared: {error}")

    def _others(self) -> list[SharedBy]:
        return [member for member in list_shared(self._client, self._part) if member.site_id != self._site_id]

    def _awaited(self) -> list[SharedBy]:
        """The others, once enough of them have shared since the last time or will not share again."""
        waited = 0.0
        while True:
            found = self._others()
            ready = sum(map(self._need_not_be_awaited, found))
            if ready >= self._wanted:
                return found
            if waited >= self._longest_s:
                self._telling.remark(f"Of {counted(self._wanted, 'other member')} {ready} shared in time; going on.")
                self._wanted = 0
                return found
            self._telling.progress(f"waiting for other members' networks, {ready} of {self._wanted} are there")
            self._pause(POLL_S)
            waited += POLL_S

    def _need_not_be_awaited(self, member: SharedBy) -> bool:
        known = self._networks.get(member)
        return known is None or (known.last and member not in self._at_first)

    def _read(self, members: Sequence[SharedBy]) -> dict[SharedBy, TrainedNetwork]:
        read = {}
        for member in members:
            try:
                network = self._networks.get(member) or fetch(self._client, self._part, member, self._codec)
            except (BundleError, CodecError, KeyMismatchError) as error:
                self._telling.remark(f"The network of {member.site_name} is left out: {error}")
                continue
            if network is not None:
                read[member] = network
        return read


def _context(part: TaskProfile, codec: str, site_id: str) -> bytes:
    """What a network is encrypted as."""
    return b"|".join((b"ppcmi network", part.task.identity.encode(), codec.encode(), site_id.encode()))

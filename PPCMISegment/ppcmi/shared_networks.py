"""Networks that a consortium's members leave for each other on the server, which cannot open them.

A site that learns together with others (:mod:`ppcmi.codec.together`) shares its own network and gets theirs. Whoever
is a member can look at each of them, and a network can tell of the images that it learned from: docs/security.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from ppcmi import among_members
from ppcmi.client import NOT_FOUND, ServerClient
from ppcmi.codec.codec import Codec
from ppcmi.codec.trained_network import TrainedNetwork
from ppcmi.connection_errors import OffProtocolError
from ppcmi.errors import (
    BundleError,
    CodecError,
    ConnectionFailedError,
    KeyMismatchError,
    PpcmiError,
    ServerRefusedError,
    UsageError,
)
from ppcmi.task_profile import TaskProfile
from ppcmi.wording import counted, printable

MAGIC = b"PPCMI-N1"
POLL_S = 5.0
TOO_MANY = 429


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
    """Members that share a network with the consortium's present codec, this site included.

    :raises OffProtocolError: if a member is there twice: it would count twice in every mean.
    """
    try:
        found = [
            SharedBy(*(str(item[name]) for name in ("site_id", "site_name", "shared", "version")))
            for item in client.networks(part.task.name)
        ]
    except (KeyError, TypeError) as error:
        raise OffProtocolError from error
    if len({member.site_id for member in found}) != len(found):
        raise OffProtocolError
    return [replace(member, site_name=printable(member.site_name)) for member in found]


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
class Shared:
    """What a member shares now.

    :param network: None if it cannot be read.
    :param why_not: why it is no part of the members' mean, as the end of a sentence about it; empty if it is one.
    """

    member: SharedBy
    network: TrainedNetwork | None
    why_not: str


def read_shared(client: ServerClient, part: TaskProfile, codec: Codec) -> Iterator[Shared]:
    """Every network that members share, this site's included; one that is taken back meanwhile is left out."""
    for member in list_shared(client, part):
        try:
            network = fetch(client, part, member, codec)
        except (BundleError, CodecError, KeyMismatchError) as error:
            yield Shared(member, None, str(error).rstrip("."))
            continue
        if network is not None:
            yield Shared(member, network, _why_not(network))


def _why_not(network: TrainedNetwork) -> str:
    if not network.last:
        return "its training is under way, or was cut off"
    return "" if network.mixes else "at its site the mean with others was worse"


@dataclass(frozen=True)
class Telling:
    """Who is told what happens between two rounds.

    :param keep: is given the network of this site's last round, before it is shared.
    :param remark: is given sentences: whose network was left out, what could not be sent.
    :param progress: is told for whom a round waits.
    """

    keep: Callable[[TrainedNetwork], None]
    remark: Callable[[str], None]
    progress: Callable[[str], None]


@dataclass(frozen=True)
class Waiting:
    """For whom a round waits.

    :param members: a round begins once so many others have shared since the one before, ...
    :param longest_s: ... or after so many seconds; those who did not come then are awaited no longer.
    :param pause: sleeps for so many seconds.
    :param clock: seconds that only grow.
    """

    members: int = 0
    longest_s: float = 1800.0
    pause: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic


class ConsortiumMembers:
    """The other members of a task's consortium, behind the server; :class:`~ppcmi.codec.together.Members`.

    Once training has begun, a server that cannot be reached ends nothing: a round goes on with the networks before.
    One that refuses, as it has another codec by now, is not asked again.
    """

    def __init__(
        self,
        client: ServerClient,
        part: TaskProfile,
        site_id: str,
        codec: Codec,
        telling: Telling,
        waiting: Waiting | None = None,
    ) -> None:
        self._client, self._part, self._site_id, self._codec = client, part, site_id, codec
        self._telling, self._waiting = telling, waiting or Waiting()
        self._awaited = self._waiting.members
        self._rounds = 0
        self._cut_off = False
        self.have_some = False
        """Whether the server got a network of this site, which stays there if the training is broken off."""
        self._networks: dict[SharedBy, TrainedNetwork] = {}
        self._unusable: set[SharedBy] = set()
        self._spoilers: set[str] = set()
        self._at_first: frozenset[SharedBy] = frozenset()

    def networks(self) -> Sequence[TrainedNetwork]:
        """The newest network of each other member.

        Between rounds it waits for as many members as it shall, so that all learn from each other's last round. A
        network that cannot be used is left out, and the user is told, once.
        """
        if self._cut_off:
            return list(self._networks.values())
        try:
            self._networks = self._read(self._once_shared() if self._rounds else self._others())
        except (ConnectionFailedError, ServerRefusedError) as error:
            if not self._rounds:
                raise
            self._go_on(error, "The members' networks are those of the round before")
        if not self._rounds:
            self._at_first = frozenset(self._networks)
        return list(self._networks.values())

    def share(self, network: TrainedNetwork) -> None:
        """Leave this site's network for the others; the last one is kept here first."""
        self._rounds += 1
        if network.last:
            self._telling.keep(network)
        if self._cut_off:
            return
        try:
            share(self._client, self._part, self._site_id, network)
            self.have_some = True
        except (ConnectionFailedError, ServerRefusedError) as error:
            self._go_on(error, "This round's network was not shared")

    def left_out(self, network: TrainedNetwork) -> None:
        """Tell the user, once, whose network spoils the mean."""
        for name in self.names_of([network]):
            if name not in self._spoilers:
                self._spoilers.add(name)
                self._telling.remark(
                    f"The network of {name} is left out for now: with it, this site's own cases come out far worse."
                )

    def names_of(self, networks: Sequence[TrainedNetwork]) -> list[str]:
        """The members whose networks these are."""
        known = [id(network) for network in networks]
        return [member.site_name for member, network in self._networks.items() if id(network) in known]

    def _go_on(self, error: PpcmiError, what: str) -> None:
        self._telling.remark(f"{what}: {error}")
        # Asked too often or while it is busy, a server says so after all of the client's patience; nothing is wrong.
        if isinstance(error, ServerRefusedError) and error.status < 500 and error.status != TOO_MANY:
            self._cut_off = True
            self._telling.remark("The training goes on without the other members.")

    def _others(self) -> list[SharedBy]:
        return [member for member in list_shared(self._client, self._part) if member.site_id != self._site_id]

    def _once_shared(self) -> list[SharedBy]:
        """The others, once enough of them have shared since the last time or will not share again."""
        began = self._waiting.clock()
        while True:
            found = self._others()
            ready = sum(map(self._is_ready, found))
            if ready >= self._awaited:
                return found
            if self._waiting.clock() - began >= self._waiting.longest_s:
                missing = counted(self._awaited - ready, "other member")
                self._telling.remark(
                    f"The network of {missing} did not come in time; no round waits for it any longer."
                )
                self._awaited = ready
                return found
            self._telling.progress(f"waiting for other members' networks, {ready} of {self._awaited} are there")
            self._waiting.pause(POLL_S)

    def _is_ready(self, member: SharedBy) -> bool:
        """Whether nobody need wait for a member, by the newest that it shared."""
        if member in self._unusable:
            return False
        known = self._networks.get(member)
        if known is None:
            return True
        if member in self._at_first:  # of an earlier time, or of a training that began before this one
            return self._rounds == 1 and not known.last
        return known.last

    def _read(self, members: Sequence[SharedBy]) -> dict[SharedBy, TrainedNetwork]:
        read = {}
        for member in members:
            if member in self._unusable:
                continue
            try:
                network = self._networks.get(member) or fetch(self._client, self._part, member, self._codec)
            except (BundleError, CodecError, KeyMismatchError) as error:
                self._unusable.add(member)
                self._telling.remark(f"The network of {member.site_name} is left out: {error}")
                continue
            if network is not None:
                read[member] = network
        return read


def _context(part: TaskProfile, codec: str, site_id: str) -> bytes:
    """What a network is encrypted as."""
    return b"|".join((b"ppcmi network", part.task.identity.encode(), codec.encode(), site_id.encode()))

"""A8: the server and a member of the consortium together (SECURITY 1.6).

Scope ``consortium``: members share codec and inner key, so the two hold plain latents; A5 applies, too.

Scope ``site``: every site has a codec and a key of its own, but the server's network, trained on all, brings them into
one space, by an adapter for each codec. The victim's latents go in by its adapter, and what the member has reads them.
Control: with the member's own adapter and latents it is a legitimate decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ppcmi.audit.attacker import Knowledge, Reconstruct, Seen
from ppcmi.audit.attacks.channel_map import draw
from ppcmi.audit.attacks.plain_latents import Effort, learn_to_draw
from ppcmi.audit.attacks.rehearsal import sees_plain
from ppcmi.codec.codec import Codec
from ppcmi.latents import Latents


@dataclass(frozen=True, eq=False)
class Adapter:
    """The server's way in for one codec: ``W z + b`` at every position of a scale, into the space of its network.

    :param weight: ``(hidden, channels)`` by scale.
    :param bias: ``(hidden,)`` by scale.
    """

    weight: Mapping[str, Tensor]
    bias: Mapping[str, Tensor]

    def enter(self, latents: Latents) -> Latents:
        """Latents ``(n, C, h, w)`` of a site to the network's space ``(n, hidden, h, w)``."""
        return latents.map(
            lambda s, v: torch.einsum("dc,nchw->ndhw", self.weight[s], v.float()) + self.bias[s][:, None, None]
        )

    def leave(self, hidden: Latents) -> Latents:
        """The latents of this codec that come nearest to ``hidden``, by least squares."""
        return hidden.map(
            lambda s, v: torch.einsum(
                "cd,ndhw->nchw", torch.linalg.pinv(self.weight[s].double()).float(), v - self.bias[s][:, None, None]
            )
        )


@dataclass(frozen=True, eq=False)
class Member:
    """The colluding member of scope ``site``.

    :param codec: its own.
    :param adapter: the server's way in for its codec.
    :param key: plain latents to what the server sees of them; its own key is in it.
    :param unkey: the inverse.
    """

    codec: Codec
    adapter: Adapter
    key: Callable[[Latents], Latents]
    unkey: Callable[[Latents], Latents]


@dataclass(frozen=True)
class SharedCodec:
    """A8, scope ``consortium``: a member decodes another member's latents with the codec and the key they share."""

    name: str = "A8"
    title: str = "the member's own decoder"

    def obstacle(self, knowledge: Knowledge) -> str | None:
        """A codec or a key that is missing."""
        if knowledge.codec is None or not sees_plain(knowledge):
            return "This attacker lacks the codec or a key, which a member of the consortium has."
        return None

    def learn(self, knowledge: Knowledge) -> Reconstruct:
        """Nothing to learn."""
        return lambda seen: draw(knowledge.encoder, seen.latents)


@dataclass(frozen=True, eq=False)
class AlignedAdapters:
    """A8, scope ``site``: through the victim's adapter, back through the member's, then the member's decoder."""

    victim: Adapter
    member: Member
    name: str = "A8"
    title: str = "the member's own decoder, by the server's adapters"

    def obstacle(self, knowledge: Knowledge) -> str | None:
        """None."""
        return None

    def learn(self, knowledge: Knowledge) -> Reconstruct:
        """Nothing to learn: the server's training did it."""

        def reconstruct(seen: Seen) -> Tensor:
            aligned = self.member.adapter.leave(self.victim.enter(seen.latents))
            return draw(self.member.codec, self.member.unkey(aligned))

        return reconstruct


@dataclass(frozen=True, eq=False)
class CommonSpaceDecoder:
    """A8, scope ``site``: a decoder trained on the member's latents in the space that the adapters lead to."""

    victim: Adapter
    member: Member
    effort: Effort = field(default_factory=Effort)
    name: str = "A8"
    title: str = "decoder trained behind the server's adapters"

    def obstacle(self, knowledge: Knowledge) -> str | None:
        """None."""
        return None

    def learn(self, knowledge: Knowledge) -> Reconstruct:
        """Train the decoder on images that the member encodes and protects as its own."""

        def as_member(latents: Latents, case: Tensor, generator: torch.Generator) -> Latents:
            return self.member.key(latents)

        return learn_to_draw(
            replace(knowledge, protect=as_member),
            self.member.codec,
            lambda seen: self.member.adapter.enter(seen.latents),
            self.effort,
            of_victims=lambda seen: self.victim.enter(seen.latents),
        )

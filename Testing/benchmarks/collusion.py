"""The server with a member at scope ``site``: A8's attacks from a trained network, for the privacy benchmark.

Every site has a codec and an inner key of its own; the network's 1 x 1 entries, one for each codec, are the adapters.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from torch import nn

from benchmarks import federation
from ppcmi.audit.attacker import ReconstructionAttack
from ppcmi.audit.attacks.collusion import Adapter, AlignedAdapters, CommonSpaceDecoder, Member
from ppcmi.audit.attacks.plain_latents import Effort
from ppcmi.scales import Stream
from ppcmi_server.umn.model import TrainedUmn


def collusion_attacks(
    umn: TrainedUmn, victim: federation.Member, member: federation.Member, effort: Effort
) -> Iterator[ReconstructionAttack]:
    """What ``member`` and the server can do to ``victim``, whose codec and key they have not got.

    :param umn: the default network, trained on cohorts of both.
    """
    adapter, colluder = adapter_of(umn, victim.fingerprint), colluding(umn, member)
    yield AlignedAdapters(adapter, colluder)
    yield CommonSpaceDecoder(adapter, colluder, effort)


def colluding(umn: TrainedUmn, member: federation.Member) -> Member:
    """All that the two have together of the member."""
    inner = member.inner
    if inner is None:
        raise ValueError("a member of scope site has an inner key")
    return Member(
        member.codec,
        adapter_of(umn, member.fingerprint),
        lambda latents: inner.apply(latents, Stream.IMAGE),
        lambda latents: inner.invert(latents, Stream.IMAGE),
    )


def adapter_of(umn: TrainedUmn, codec: str) -> Adapter:
    """The network's way in for a codec's fingerprint."""
    entries = cast(nn.ModuleDict, umn.network.entries)
    index = umn.description.codecs.index(codec)
    convolutions = {s: cast(nn.Conv2d, cast(nn.ModuleList, entry)[index]) for s, entry in entries.items()}
    weight = {s: c.weight.detach().cpu().float()[:, :, 0, 0] for s, c in convolutions.items()}
    return Adapter(weight, {s: cast(nn.Parameter, c.bias).detach().cpu().float() for s, c in convolutions.items()})

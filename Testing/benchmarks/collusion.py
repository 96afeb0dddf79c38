"""The server with a member at scope ``site``: A8's attacks from a trained network, for the privacy benchmark.

Every site has a codec and an inner key of its own; the network's 1 x 1 entries, one for each codec, are the adapters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from benchmarks import federation
from benchmarks.kept import show_umn
from ppcmi.audit.attacker import ReconstructionAttack
from ppcmi.audit.attacks.collusion import Adapter, AlignedAdapters, CommonSpaceDecoder, Member
from ppcmi.audit.attacks.plain_latents import Effort
from ppcmi.audit.setting import Observer, Setting
from ppcmi.audit.settings import two_layers
from ppcmi.audit.subjects import Subjects
from ppcmi.codec.codec import Codec
from ppcmi.latents import Latents
from ppcmi.scales import Profile, Stream
from ppcmi_server.umn.config import UmnConfig
from ppcmi_server.umn.model import TrainedUmn
from ppcmi_server.umn.training import Watching

VARIANTS = 2
UMN = UmnConfig(epochs=6, batch_size=64, validation_share=0.0)


def victim_and_colluder(victim: Codec, colluder: Codec, profile: Profile) -> list[federation.Member]:
    """Two sites of scope ``site``: a codec, an inner key and a link key for each."""
    return [
        federation.join_consortium(codec, profile, inner_key=bytes([16 + number]) * 32, link_key=bytes([number]) * 32)
        for number, codec in enumerate((victim, colluder), start=1)
    ]


def network_of_both(sites: list[federation.Member], subjects: Subjects, profile: Profile, kept: Path) -> TrainedUmn:
    """The server's network, trained on what the victim's site and the colluder export; read from ``kept`` if it is
    there, else kept there."""
    if not kept.exists():
        plains = [
            federation.encode_site(site.codec, cases, VARIANTS, seed)
            for seed, (site, cases) in enumerate(zip(sites, (subjects.collected, subjects.outside), strict=True))
        ]
        federation.train_together(
            sites, plains, replace(UMN, profile=profile), watching=Watching(report=show_umn)
        ).save(kept)
    return TrainedUmn.load(kept)


def as_the_server_sees(victim: federation.Member, profile: Profile, prefix: str) -> Setting:
    """The victim's latents under its own inner key, which neither the server nor the colluder has."""
    inner = victim.inner
    if inner is None:
        raise ValueError("a victim of scope site has an inner key")

    def protect(latents: Latents, case: Tensor, generator: torch.Generator) -> Latents:
        return inner.apply(latents, Stream.IMAGE)

    defense = f"{prefix}{two_layers(profile)}, scope site"
    return Setting(
        f"{defense}; server with a member", defense, Observer.COLLUSION, profile, victim.codec, False, True, protect
    )


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

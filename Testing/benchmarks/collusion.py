"""The server with a member at scope ``site``: A8's attacks from a trained network, for the privacy benchmark.

Every site has a codec and an inner key of its own; the network's 1 x 1 entries, one for each codec, are the adapters.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from benchmarks import federation
from benchmarks.kept import show_umn
from ppcmi.audit.attacker import Finding, ReconstructionAttack
from ppcmi.audit.attacks.collusion import Adapter, AlignedAdapters, CommonSpaceDecoder, Member
from ppcmi.audit.attacks.plain_latents import Effort
from ppcmi.audit.attacks.stolen_masks import dice_of_usual_mask
from ppcmi.audit.mapping import dice_by_case
from ppcmi.audit.metrics import interval
from ppcmi.audit.setting import Observer, Setting
from ppcmi.audit.settings import two_layers
from ppcmi.audit.subjects import Subjects
from ppcmi.codec.codec import Codec
from ppcmi.codec.mask_autoencoder import MaskEncoder
from ppcmi.latents import Latents, concatenate
from ppcmi.scales import Profile, Stream
from ppcmi_server.umn.config import UmnConfig
from ppcmi_server.umn.model import TrainedUmn
from ppcmi_server.umn.training import Watching

VARIANTS = 2
UMN = UmnConfig(epochs=6, batch_size=64, validation_share=0.0)

MEMBERS_EXIT = "masks by the member's exit"
CONTROL = "control, masks by the victim's own exit"
CONTROL_WITH_SLICES = "control, the victim's own exit and slices"


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


def measure_masks_by_exit(
    umn: TrainedUmn,
    victim: federation.Member,
    member: federation.Member,
    setting: Setting,
    subjects: Subjects,
    seed: int,
) -> list[Finding]:
    """Dice of the victims' masks that the two get by the member's exit, its inner key and its mask decoder.

    Nothing in its training makes the network bring two sites' cases to the same place: as it leaves, hardly anything is
    taken for a structure. So it is also brought to the mean and deviation that the member's own cases have behind that
    exit, which takes no label of the victim's; the server has many cases of its site.

    A mask decoder wants the image, which the two have not got: tried are what it does without, and the mean slice of
    the member's own cases in its place. Controls are the victim's exit, key and decoder, without its slices and with
    them, which is what the server gives the victim. Chance is the Dice of the mask that fits most of the member's own
    cases.

    :param setting: :func:`as_the_server_sees` of ``victim``.
    """
    started = time.monotonic()
    victims, own, profile = subjects.victims, subjects.outside, setting.profile
    seen, others = (
        setting.look(cases.slices, cases.case, site_keys=seed).latents for cases in (victims, subjects.collected)
    )
    members = colluding(umn, member).key(member.codec.encode_images(own.slices).of(profile).to("cpu"))
    like = masks_by_exit(umn, members, entry=member, leave=member)
    found = masks_by_exit(umn, concatenate([seen, others]), entry=victim, leave=member)
    masks = {
        "": found,
        ", by the moments of channels": with_moments(found, like, (0, 2, 3)),
        ", by the moments of each value": with_moments(found, like, (0,)),
    }
    mean_slice = own.slices.mean(dim=0).expand_as(victims.slices)
    drawn = {
        f"{MEMBERS_EXIT}{way}{words}": probabilities
        for way, latents in masks.items()
        for words, probabilities in _drawn(member, latents.select(slice(len(victims))), mean_slice, profile)
    }
    legitimate = masks_by_exit(umn, seen, entry=victim, leave=victim)
    drawn |= {
        f"{CONTROL}{words}": probabilities for words, probabilities in _drawn(victim, legitimate, mean_slice, profile)
    }
    drawn[CONTROL_WITH_SLICES] = victim.codec.decode_masks(legitimate, victims.slices, profile)
    guess = dice_of_usual_mask(own.known_labels, victims, member.codec.task.classes)
    seconds = time.monotonic() - started
    findings = []
    for title, probabilities in drawn.items():
        dice = dice_by_case(probabilities.cpu(), victims, member.codec)
        value = interval(dice, subjects.victim_patient, seed)
        findings.append(Finding("A8", title, setting.name, "Dice", *value, guess, seconds))
    return findings


def _drawn(site: federation.Member, masks: Latents, in_place: Tensor, profile: Profile) -> Iterator[tuple[str, Tensor]]:
    """A site's readings of mask latents without their slices, in words."""
    yield ", by the blocks alone", decode_blocks(site.codec, masks)
    yield ", by the decoder with the mean slice", site.codec.decode_masks(masks, in_place, profile)


def with_moments(latents: Latents, like: Latents, over: tuple[int, ...]) -> Latents:
    """Latents with the mean and deviation over some axes that ``like`` has over them."""

    def moved(scale: str, values: Tensor) -> Tensor:
        deviation, mean = torch.std_mean(values, over, keepdim=True)
        wanted, centre = torch.std_mean(like[scale], over, keepdim=True)
        return (values - mean) / deviation.clamp_min(1e-3) * wanted + centre

    return latents.map(moved)


def masks_by_exit(umn: TrainedUmn, seen: Latents, *, entry: federation.Member, leave: federation.Member) -> Latents:
    """Plain mask latents of one site's keyed image latents that leave the network by another site's exit and key."""
    inner = leave.inner
    if inner is None:
        raise ValueError("a member of scope site has an inner key")
    masks = with_exit(umn, entry.fingerprint, leave.fingerprint).map(seen, entry.fingerprint)
    return inner.invert(masks.to("cpu"), Stream.MASK)


def with_exit(umn: TrainedUmn, entry: str, leave: str) -> TrainedUmn:
    """The network with the exit of the codec ``leave`` for what comes in by that of ``entry``; as the server can."""
    network, codecs = copy.deepcopy(umn.network), umn.description.codecs
    for exits in cast(nn.ModuleDict, network.exits).values():
        by_codec = cast(nn.ModuleList, exits)
        by_codec[codecs.index(entry)] = by_codec[codecs.index(leave)]
    return TrainedUmn(umn.description, network)


def decode_blocks(codec: Codec, masks: Latents) -> Tensor:
    """The linear part of the codec's mask decoder, which needs no image, from standardized mask latents.

    :returns: ``(n, K + 1, h, w)``; the largest counts.
    """
    encoder = codec.get_submodule("network.mask_encoder")
    if not isinstance(encoder, MaskEncoder):
        raise TypeError("only our codecs' mask decoders have a linear part")
    plain = codec.standardization(Stream.MASK).remove_from(masks.to(codec.device))
    soft = encoder.soft_masks(plain, tuple(plain))
    mean = soft.reshape(len(soft), len(plain.shapes), -1, *soft.shape[2:]).mean(dim=1)
    return torch.cat((1 - mean.sum(dim=1, keepdim=True), mean), dim=1)

"""The product in one process: a consortium of the split's sites in one privacy profile, trained and asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.bench.budgets import Budget
from benchmarks.bench.curve import Curve
from benchmarks.bench.scoring import mean_dice, score_held_out
from benchmarks.bench.splits import BenchSite
from benchmarks.federation import Exchange, Member, PlainLatents, encode_site, join_consortium
from benchmarks.kept import KeptNetworks
from ppcmi.codec.codec import Codec
from ppcmi.codec.presets import Preset as CodecPreset
from ppcmi.codec.presets import image_channels
from ppcmi.codec.refinement import RefinementConfig, SiteDecoder, choose_share
from ppcmi.latents import Latents
from ppcmi.quantization import FOR_MAPPING, Quantization
from ppcmi.scales import Profile
from ppcmi.task import Task
from ppcmi_server.umn.model import TrainedUmn, UmnDescription
from support.descriptions import describe_umn

Predictions = Mapping[str, torch.Tensor]
"""Probabilities ``(n, K + 1, h, w)`` for each site's test slices."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """What does not depend on the privacy profile: codec, every site's decoder and exported latents."""

    name: str
    codec: Codec
    decoders: Mapping[str, SiteDecoder]
    plains: Sequence[PlainLatents]


def prepare(
    name: str, sites: Sequence[BenchSite], task: Task, budget: Budget, networks: KeptNetworks, preset: CodecPreset
) -> Prepared:
    """The first site makes the codec, every site refines its decoder and encodes its cases."""
    config = replace(budget.codec, preset=preset)
    codec = networks.codec(f"{name}-{preset}", sites[0].site, task, config)
    refinement = RefinementConfig(local=budget.refine)
    decoders = {site.name: networks.decoder(f"{name}-decoder", codec, site.site, refinement) for site in sites}
    plains = [encode_site(codec, site.train, budget.variants, seed) for seed, site in enumerate(sites)]
    return Prepared(f"{name}-{preset}", codec, decoders, plains)


@dataclass(frozen=True, eq=False)
class Collaboration:
    """Members whose latents one network, or one for each of them, maps; and its answers for the test cases.

    :param name: of the network, and of its training's curve.
    """

    name: str
    sites: Sequence[BenchSite]
    profile: Profile
    members: Mapping[str, Member]
    umns: Mapping[str, TrainedUmn]
    decoders: Mapping[str, SiteDecoder]
    answers: Mapping[str, Exchange]

    def as_used(self) -> Predictions:
        """The site's own network and the server's answer, averaged as the site's validation cases choose."""
        for site in self.sites:
            if site.validation is not None:
                member, umn = self.members[site.name], self.umns[site.name]
                choose_share(
                    self.decoders[site.name], site.validation.slices, lambda z, m=member, u=umn: m.ask(z, u),
                    self.profile,
                )  # fmt: skip
        return {
            site.name: self.decoders[site.name].decode(self._masks(site), site.test.slices.slices, self.profile)
            for site in self.sites
        }

    def server_alone(self) -> Predictions:
        """The server's answer, decoded with the common codec."""
        return {
            site.name: self.members[site.name].codec.decode_masks(
                self._masks(site), site.test.slices.slices, self.profile
            )
            for site in self.sites
        }

    def without_labels(self) -> Predictions:
        """What a member gets that has no labels: the consortium's network and the usual weight."""
        return {
            site.name: SiteDecoder(self.members[site.name].codec).decode(
                self._masks(site), site.test.slices.slices, self.profile
            )
            for site in self.sites
        }

    def bytes_a_slice(self) -> float:
        """Both directions, over all test cases."""
        total = sum(answer.sent + answer.received for answer in self.answers.values())
        return total / sum(len(site.test.slices) for site in self.sites)

    def _masks(self, site: BenchSite) -> Latents:
        return self.answers[site.name].masks


def collaborate(
    prepared: Prepared,
    sites: Sequence[BenchSite],
    profile: Profile,
    budget: Budget,
    networks: KeptNetworks,
    quantization: Quantization = FOR_MAPPING,
) -> Collaboration:
    """One network for all sites; cohorts have eight bits a value, requests as many as ``quantization`` says."""
    members = _members(prepared.codec, profile, len(sites))
    config = replace(budget.umn, profile=profile)
    name = f"{prepared.name}-{profile}"
    curve = _curve(networks, name, prepared.codec, members[0], sites, profile, budget)
    umn = networks.umn(name, members, prepared.plains, config, curve)
    return ask_all(name, sites, profile, members, [umn] * len(sites), prepared.decoders, quantization)


def collaborate_one_by_one(
    prepared: Prepared, sites: Sequence[BenchSite], profile: Profile, budget: Budget, networks: KeptNetworks
) -> Collaboration:
    """A network for each site, trained on its cases alone; together as long as the one for all."""
    members = _members(prepared.codec, profile, len(sites))
    steps = budget.umn.minimum_steps // len(sites)
    config = replace(budget.umn, profile=profile, minimum_steps=steps)
    umns = [
        networks.umn(f"{prepared.name}-{profile}-only-{site.name}", [member], [plain], config)
        for site, member, plain in zip(sites, members, prepared.plains, strict=True)
    ]
    return ask_all("", sites, profile, members, umns, prepared.decoders, FOR_MAPPING)


def join_later(
    prepared: Prepared, sites: Sequence[BenchSite], profile: Profile, budget: Budget, networks: KeptNetworks
) -> Collaboration:
    """The last site joins a consortium of the others, and none of its labels are used."""
    *trained, late = _members(prepared.codec, profile, len(sites))
    config = replace(budget.umn, profile=profile)
    umn = networks.umn(f"{prepared.name}-{profile}-before-the-last", trained, prepared.plains[:-1], config)
    return ask_all("", sites[-1:], profile, [late], [umn], {}, FOR_MAPPING)


def ask_all(
    name: str,
    sites: Sequence[BenchSite],
    profile: Profile,
    members: Sequence[Member],
    umns: Sequence[TrainedUmn],
    decoders: Mapping[str, SiteDecoder],
    quantization: Quantization,
) -> Collaboration:
    """Every site asks for its test cases."""
    asking = [replace(member, quantization=quantization) for member in members]
    answers = {
        site.name: member.ask_each_case(site.test.slices, umn)
        for site, member, umn in zip(sites, asking, umns, strict=True)
    }
    names = [site.name for site in sites]
    return Collaboration(
        name,
        sites,
        profile,
        dict(zip(names, asking, strict=True)),
        dict(zip(names, umns, strict=True)),
        decoders,
        answers,
    )


def _members(codec: Codec, profile: Profile, count: int) -> list[Member]:
    return [join_consortium(codec, profile, link_key=bytes([number]) * 32) for number in range(1, count + 1)]


def curve_file(networks: KeptNetworks, name: str) -> Path:
    """Where the points of a network's training are."""
    return networks.folder / f"curve-{name}.json"


def _curve(
    networks: KeptNetworks, name: str, codec: Codec, member: Member, sites: Sequence[BenchSite], profile: Profile,
    budget: Budget,
) -> Curve | None:  # fmt: skip
    """On some validation cases, where there are any; they are no one's training cases."""
    size, channels = codec.task.slicing.size, image_channels(codec.preset)
    description = describe_umn(budget.umn.preset, profile, size, (codec.fingerprint,), channels)
    return curve_of(
        curve_file(networks, name), description, [(member, site) for site in sites], budget, networks.device
    )


def curve_of(
    file: Path, description: UmnDescription, members: Sequence[tuple[Member, BenchSite]], budget: Budget,
    device: torch.device,
) -> Curve | None:  # fmt: skip
    """Dice of the decoded answers alone for the first validation cases of each site; None if there are none."""
    judged = [(member, site.validation) for member, site in members if site.validation is not None]
    if not judged or not budget.curve_cases:
        return None
    asked = [(member, validation.first(budget.curve_cases)) for member, validation in judged]

    def score(umn: TrainedUmn) -> float:
        umn.to(device)
        rows = []
        for member, cases in asked:
            masks = member.ask_each_case(cases.slices, umn).masks
            decoded = member.codec.decode_masks(masks, cases.slices.slices, description.profile)
            rows += score_held_out(cases, decoded, member.codec.task, "")
        return mean_dice(rows)

    return Curve(file, description, score)

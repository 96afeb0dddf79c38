"""The published system, its ablations, and Privacy-SF: a codec for each site, and nothing but the server's answer.

A system is three choices: the sites' networks, the server's network, and the transform between them. Without skips only
the bottleneck leaves; without the KLT latents leave as they are. The ablation of the pyramid pooling takes the server's
blocks of Privacy-SF as they are: with the pooling's 0.87 million parameters go 13.8 million of the stages around it, so
that a difference is not the pooling's alone. They are measured at 256 x 256, which their networks need, on the same
patients, scored on the volumes' own voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast, get_args

from benchmarks.bench.budgets import Budget
from benchmarks.bench.ours import Collaboration, ask_all, curve_file, curve_of
from benchmarks.bench.splits import BenchSite, thinned
from benchmarks.federation import encode_site, join_consortium
from benchmarks.kept import KeptNetworks
from ppcmi.bundle_header import Mode
from ppcmi.codec.presets import Preset as CodecPreset
from ppcmi.codec.training import CodecTrainingConfig
from ppcmi.fitting import FitConfig
from ppcmi.quantization import Quantization
from ppcmi.scales import Profile
from ppcmi.task import Task
from ppcmi_server.umn.config import UmnConfig, privacy_sf_config
from ppcmi_server.umn.model import Preset as UmnPreset
from support.descriptions import describe_umn


@dataclass(frozen=True)
class Published:
    """One of them."""

    title: str
    codec: str
    umn: str
    mode: Mode
    one_by_one: bool = False

    @property
    def profile(self) -> Profile:
        """Without skips only the bottleneck leaves."""
        if self.codec != "paper":
            return Profile.MINIMAL
        return Profile.PAPER if self.mode == "paper" else Profile.FULL

    @property
    def available(self) -> bool:
        """Whether this version has the networks."""
        return self.codec in get_args(CodecPreset) and self.umn in get_args(UmnPreset)


PAPER = Published("PPCMI-SF, as published", "paper", "paper", "paper")
WITHOUT_KLT = Published("PPCMI-SF without KLT", "paper", "paper", "plain")
ONE_BY_ONE = Published("PPCMI-SF, a mapping network for each site", "paper", "paper", "paper", one_by_one=True)
WITHOUT_SKIPS = Published("PPCMI-SF without skips", "privacy-sf", "paper", "paper")
PRIVACY_SF_BLOCKS = Published(
    "PPCMI-SF with Privacy-SF's bottleneck in place of pyramid pooling", "paper", "privacy-sf", "paper"
)
PRIVACY_SF = Published("Privacy-SF", "privacy-sf", "privacy-sf", "plain")


def collaborate_as_published(
    system: Published, name: str, sites: Sequence[BenchSite], task: Task, budget: Budget, networks: KeptNetworks
) -> Collaboration:
    """Train all networks of ``system`` and ask for every test case."""
    preset, profile = cast(CodecPreset, system.codec), system.profile
    fit = budget.published_codec
    config = CodecTrainingConfig(preset=preset, images=fit, masks=fit, local=FitConfig(1, minimum_steps=0))
    small = [replace(site, train=thinned(site.train, budget.published_slices)) for site in sites]
    codecs = [networks.codec(f"{name}-{preset}", site.site, task, config) for site in small]
    members = [
        join_consortium(
            codec, profile, inner_key=None, link_key=bytes([number]) * 32, quantization=Quantization.F32,
            mode=system.mode,
        )
        for number, codec in enumerate(codecs, start=1)
    ]  # fmt: skip
    plains = [encode_site(codec, site.train, 0, 0) for codec, site in zip(codecs, small, strict=True)]
    umn_config = _training(system, budget.published_umn)
    umn_name = f"{name}-{system.codec}-{system.umn}-{system.mode}"
    trained_as = f"{umn_name}-one-by-one" if system.one_by_one else umn_name
    if system.one_by_one:
        umns = [
            networks.umn(f"{umn_name}-only-{site.name}", [member], [plain], umn_config)
            for site, member, plain in zip(sites, members, plains, strict=True)
        ]
    else:
        curve = None
        if system == PAPER:
            fingerprints = tuple(codec.fingerprint for codec in codecs)
            description = describe_umn("paper", profile, task.slicing.size, fingerprints)
            asked = list(zip(members, sites, strict=True))
            curve = curve_of(curve_file(networks, umn_name), description, asked, budget, networks.device)
        umns = [networks.umn(umn_name, members, plains, umn_config, curve)] * len(sites)
    return ask_all(trained_as, sites, profile, members, umns, {}, Quantization.F32)


def _training(system: Published, usual: UmnConfig) -> UmnConfig:
    """As PPCMI-SF is trained; Privacy-SF augments the encoded data as well."""
    config = replace(usual, preset=cast(UmnPreset, system.umn), profile=system.profile)
    if system != PRIVACY_SF:
        return config
    augmented = privacy_sf_config(system.profile)
    return replace(config, mixup=augmented.mixup, noise=augmented.noise)

"""The rows of the benchmark: which system on which split, in the order they are measured.

A row holds the scores of every test case and the facts of its networks; what the tables show is made of that later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.bench import published
from benchmarks.bench.budgets import Budget
from benchmarks.bench.curve import read_points
from benchmarks.bench.ours import (
    Collaboration,
    Predictions,
    Prepared,
    collaborate,
    collaborate_one_by_one,
    curve_file,
    join_later,
    prepare,
)
from benchmarks.bench.published import Published, collaborate_as_published
from benchmarks.bench.scoring import score_held_out
from benchmarks.bench.splits import BenchSite, DataSet, Split
from benchmarks.bench.unet import flops, kept_unet, parameters_count
from benchmarks.kept import KeptNetworks
from benchmarks.sites import at_published_size
from ppcmi.codec.presets import Preset as CodecPreset
from ppcmi.codec.refinement import SiteDecoder
from ppcmi.codec.training import predict_locally
from ppcmi.quantization import Quantization
from ppcmi.scales import Profile
from ppcmi.task import Task
from ppcmi.wording import counted

T = TypeVar("T")

SITES, SHIFTED = Split("site"), Split("site_shifted")
COUNTS = "number of sites"
POOLED, ALONE = "U-Net on pooled raw images", "U-Net, each site alone"
SERVER_OFF, FOURTH = "ours, the server switched off", "ours, coarse, a fourth member without labels"
AUTOENCODER = "ours, coarse, a codec that is not minimized"
UNCOMPRESSED, ONE_BY_ONE = "ours, coarse, float32", "ours, coarse, a mapping network for each site"


@dataclass(frozen=True)
class Plan:
    """A row to measure: in which table, under which name, and how."""

    table: str
    name: str
    measure: Callable[[], Mapping[str, Any]]

    @property
    def key(self) -> str:
        """Unique among all rows of a data set."""
        return f"{self.table} / {self.name}"


def ours(profile: Profile, part: str = "") -> str:
    """Name of a row of the product, as it is used or of a part of it."""
    return f"ours, {profile}{part}"


def server_part(profile: Profile) -> str:
    """Name of the row of the server's answer alone, which is all that the published systems have."""
    return ours(profile, ", server's part alone")


def table_of(split: Split) -> str:
    """Title of the table that a split's rows are in."""
    if split == SITES:
        return "three sites"
    if split == SHIFTED:
        return "three sites with shifted data"
    return COUNTS if split.labelled is None else f"{split.labelled} labelled cases a site"


class Bench:
    """All rows of one data set.

    :param folder: where trained networks are kept.
    """

    def __init__(self, data: DataSet, budget: Budget, folder: Path, device: torch.device) -> None:
        self.data, self.budget, self.device = data, budget, device
        self.networks = KeptNetworks(folder, device)
        self._latest: dict[str, tuple[object, Any]] = {}

    def plans(self) -> Iterator[Plan]:
        """The rows that say most first."""
        yield from self._raw_images(SITES)
        yield from self._ours(SITES, (Profile.COARSE,))
        yield from self._published(SITES, (published.PAPER, published.PRIVACY_SF))
        yield from self._ours(SITES, (Profile.FULL, Profile.MINIMAL))
        yield from self._our_comparisons()
        yield from self._raw_images(SHIFTED)
        yield from self._ours(SHIFTED, (Profile.COARSE,))
        for labelled in self.budget.labelled:
            split = Split("site", labelled=labelled)
            yield from self._raw_images(split)
            yield from self._ours(split, (Profile.COARSE,))
        for count in self.budget.site_counts:
            yield self._ours_of_sites(count)
        ablations = (published.WITHOUT_KLT, published.WITHOUT_SKIPS, published.PRIVACY_SF_BLOCKS, published.ONE_BY_ONE)
        if self.budget.ablations:
            yield from self._published(SITES, ablations)
        yield from self._published(SHIFTED, (published.PAPER,))
        for count in self.budget.published_site_counts:
            for plan in self._published(Split("", count), (published.PAPER,)):
                yield Plan(plan.table, f"{plan.name}, {counted(count, 'site')}", plan.measure)

    def _raw_images(self, split: Split) -> Iterator[Plan]:
        yield Plan(table_of(split), POOLED, lambda: self._measure_unets(split, [self._sites(split)]))
        yield Plan(table_of(split), ALONE, lambda: self._measure_unets(split, [[site] for site in self._sites(split)]))

    def _measure_unets(self, split: Split, groups: Sequence[Sequence[BenchSite]]) -> Mapping[str, Any]:
        """A network for each group of sites, which pool their images."""
        task, predictions = self.data.task, {}
        network = None
        for sites in groups:
            names = "-".join(site.name for site in sites)
            network = kept_unet(
                self.networks.folder / f"unet-{split.name}-{names}.safetensors",
                task,
                [(site.train, site.validation.slices if site.validation else None) for site in sites],
                self.budget.unet,
                self.device,
            )
            predictions |= {site.name: predict_locally(network, site.test.slices.slices) for site in sites}
        assert network is not None
        sample = groups[0][0].test.slices.slices[:1].to(self.device)
        facts = {
            "site_gflop": flops(network, sample) / 1e9,
            "site_parameters": parameters_count(network),
        }
        return self._scored([site for sites in groups for site in sites], predictions, task, facts)

    def _ours(self, split: Split, profiles: Sequence[Profile]) -> Iterator[Plan]:
        table = table_of(split)
        for profile in profiles:
            if profile is Profile.COARSE:
                yield Plan(table, SERVER_OFF, lambda: self._measure_server_off(split))
            yield Plan(
                table, ours(profile),
                lambda profile=profile: self._measure(split, self._together(split, profile), Collaboration.as_used),
            )  # fmt: skip
            yield Plan(
                table, server_part(profile),
                lambda profile=profile: self._measure(
                    split, self._together(split, profile), Collaboration.server_alone
                ),
            )  # fmt: skip

    def _our_comparisons(self) -> Iterator[Plan]:
        table = table_of(SITES)
        yield Plan(
            table, UNCOMPRESSED,
            lambda: self._measure(
                SITES, self._together(SITES, Profile.COARSE, Quantization.F32), Collaboration.as_used
            ),
        )  # fmt: skip
        yield Plan(table, ONE_BY_ONE, lambda: self._measure(SITES, self._one_by_one(), Collaboration.as_used))
        yield Plan(table, FOURTH, lambda: self._measure(SITES, self._late(), Collaboration.without_labels))
        yield Plan(table, AUTOENCODER, lambda: self._measure(SITES, self._not_minimized(), Collaboration.as_used))

    def _ours_of_sites(self, count: int) -> Plan:
        split = Split("", count)
        return Plan(
            COUNTS, f"{ours(Profile.COARSE)}, {counted(count, 'site')}",
            lambda: self._measure(split, self._together(split, Profile.COARSE), Collaboration.as_used),
        )  # fmt: skip

    def _published(self, split: Split, systems: Sequence[Published]) -> Iterator[Plan]:
        for system in systems:
            if system.available:
                yield Plan(table_of(split), system.title, lambda system=system: self._measure_published(split, system))

    def _measure_published(self, split: Split, system: Published) -> Mapping[str, Any]:
        task = at_published_size(self.data.task)
        sites = self._sites(split, task)
        together = collaborate_as_published(system, split.name, sites, task, self.budget, self.networks)
        return self._measure(split, together, Collaboration.server_alone)

    def _measure_server_off(self, split: Split) -> Mapping[str, Any]:
        sites, prepared = self._sites(split), self._prepared(split)
        alone = {site.name: prepared.decoders[site.name].alone(site.test.slices.slices) for site in sites}
        facts = {"site_parameters": parameters_count(prepared.decoders[sites[0].name].local)}
        return self._scored(sites, alone, self.data.task, facts)

    def _measure(
        self, split: Split, together: Collaboration, predict: Callable[[Collaboration], Predictions]
    ) -> Mapping[str, Any]:
        codec = together.members[together.sites[0].name].codec
        with_local = predict is not Collaboration.server_alone
        return self._scored(together.sites, predict(together), codec.task, self._facts(together, with_local))

    def _facts(self, together: Collaboration, with_local: bool) -> dict[str, Any]:
        """Of the networks, of what leaves, and of the training.

        Parameters of the server are those of all its networks, one or one for each site; of a site its own.

        :param with_local: whether the site's own network has a part in what it makes of the server's answer.
        """
        first = together.sites[0]
        member, umn = together.members[first.name], together.umns[first.name]
        codec, profile = member.codec, together.profile
        decode = SiteDecoder(codec).decode if with_local else codec.decode_masks
        with FlopCounterMode(display=False) as counter:
            codec.encode_images(first.test.slices.slices[:1])
            masks = together.answers[first.name].masks.select(slice(0, 1))
            decode(masks, first.test.slices.slices[:1], profile)
        quality = codec.report["quality"]
        known = str(profile) if str(profile) in quality["psnr_db"] else next(iter(quality["psnr_db"]))
        dice = [value for value in quality["mask_dice"][known].values() if value is not None]
        used = (codec.network, codec.local) if with_local else (codec.network,)
        return {
            "umn_gflop": umn.flops() / 1e9,
            "umn_parameters": sum(umn.parameters_count for umn in {id(u): u for u in together.umns.values()}.values()),
            "site_gflop": counter.get_total_flops() / 1e9,
            "site_parameters": sum(map(parameters_count, used)),
            "bytes_a_slice": together.bytes_a_slice(),
            "codec_psnr_db": quality["psnr_db"][known],
            "codec_ssim": quality["ssim"][known],
            "codec_mask_dice": sum(dice) / max(1, len(dice)),
            "server_share": {name: decoder.weight(profile) for name, decoder in together.decoders.items()},
            "curve": [list(point) for point in read_points(curve_file(self.networks, together.name))],
        }

    def _scored(
        self, sites: Sequence[BenchSite], predictions: Predictions, task: Task, facts: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        cases = [row for site in sites for row in score_held_out(site.test, predictions[site.name], task, site.name)]
        return {"cases": cases, **facts}

    def _sites(self, split: Split, task: Task | None = None) -> list[BenchSite]:
        task = task or self.data.task
        return self._kept("sites", (split, task), lambda: self.data.sites(split, task))

    def _prepared(self, split: Split, preset: CodecPreset = "minimized") -> Prepared:
        return self._kept(
            "prepared", (split, preset),
            lambda: prepare(split.name, self._sites(split), self.data.task, self.budget, self.networks, preset),
        )  # fmt: skip

    def _together(self, split: Split, profile: Profile, quantization: Quantization | None = None) -> Collaboration:
        def make() -> Collaboration:
            prepared, sites = self._prepared(split), self._sites(split)
            if quantization is None:
                return collaborate(prepared, sites, profile, self.budget, self.networks)
            return collaborate(prepared, sites, profile, self.budget, self.networks, quantization)

        return self._kept("together", (split, profile, quantization), make)

    def _not_minimized(self) -> Collaboration:
        prepared = self._prepared(SITES, "autoencoder")
        return collaborate(prepared, self._sites(SITES), Profile.COARSE, self.budget, self.networks)

    def _one_by_one(self) -> Collaboration:
        prepared, sites = self._prepared(SITES), self._sites(SITES)
        return collaborate_one_by_one(prepared, sites, Profile.COARSE, self.budget, self.networks)

    def _late(self) -> Collaboration:
        return join_later(self._prepared(SITES), self._sites(SITES), Profile.COARSE, self.budget, self.networks)

    def _kept(self, kind: str, key: object, make: Callable[[], T]) -> T:
        """The latest of its kind stays in memory: rows that follow each other share it."""
        if kind not in self._latest or self._latest[kind][0] != key:
            self._latest.pop(kind, None)
            self._latest[kind] = (key, make())
        found: T = self._latest[kind][1]
        return found

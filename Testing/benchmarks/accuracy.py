"""Accuracy of private collaboration on real images: `make bench-accuracy DATA=folder`.

Three sites (column ``site`` of split.csv, or ``site_shifted``) train together; every row of the table is Dice on the
``test`` fold, the mean over structures and cases of a site, then over sites. Beside it stand a U-Net on the pooled raw
images (the ceiling) and each site's own U-Net (the floor), with the same network and as many steps. One run is one data
folder and one label budget; rows are kept as they are finished, so that a run that was cut off goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.accuracy_budget import Budget, budget, of_many_slices
from benchmarks.accuracy_report import (
    ALONE,
    COARSE,
    FOURTH,
    MINIMIZED,
    PAPER,
    POOLED,
    TOGETHER,
    USUAL,
    WITHOUT_LABELS,
    report,
)
from benchmarks.federation import Member, PlainLatents, Site, encode_site, join_consortium
from benchmarks.kept import KeptNetworks, KeptRows, Row, show
from benchmarks.learning_together import learn_in_step
from benchmarks.sites import SITES, TASKS, at_published_size, load_site
from ppcmi.codec.codec import Codec
from ppcmi.codec.codec import Preset as CodecPreset
from ppcmi.codec.local_network import LocalNetwork, build_local_network
from ppcmi.codec.quality import mean_dice
from ppcmi.codec.refinement import (
    RefinementConfig,
    SiteDecoder,
    choose_share,
    leave_alone,
)
from ppcmi.codec.slice_set import SliceSet, join
from ppcmi.codec.training import CodecTrainingConfig, predict_locally, train_local_network
from ppcmi.fitting import FitConfig
from ppcmi.quantization import FOR_MAPPING, Quantization
from ppcmi.scales import Profile
from ppcmi.task import Task, load_task
from ppcmi_server.umn.model import TrainedUmn

TWIN = "each site in the consortium, the server switched off"
ROUNDS = 12
"""Of a refinement where members learn together."""
PROFILES = (Profile.COARSE, Profile.FULL, Profile.MINIMAL)
FEW = {"hippocampus_mr": 5, "fetal_head_us": 20}
"""Labelled cases a site in the tables that are called "few labels"."""


class Run:
    """One data folder with one label budget: rows are measured one by one, each kept at once.

    :param labelled: labelled cases a site, None for all.
    :param store: file for the rows; what is trained lies beside it.
    :param column: of split.csv, with the cases' sites.
    """

    def __init__(
        self, data: Path, task: Task, labelled: int | None, budget: Budget, store: Path, column: str = "site"
    ) -> None:
        self.task, self.budget = task, budget
        self.title = f"{data.name}, {labelled or 'all'} labelled cases a {column}"
        self.sites = [load_site(data, task, name, labelled, column) for name in SITES]
        self.kept = KeptRows(store, budget=hashlib.sha256(repr(budget).encode()).hexdigest()[:12])
        self.networks = KeptNetworks(store.parent / f"{store.stem}-{self.kept.code}")

    @property
    def rows(self) -> dict[str, Row]:
        """What is measured so far."""
        return self.kept.rows

    def row(self, name: str, measure: Callable[[], dict[str, object]]) -> None:
        """Measure a row unless it was measured before, and show it."""
        print(f"{self.title}: {name}: {json.dumps(self.kept.row(name, measure))}", flush=True)

    def scores(self, predict: Callable[[Site], torch.Tensor]) -> dict[str, object]:
        """Mean Dice by site and over sites of labels ``(n, h, w)`` predicted for each site's test cases."""
        by_site = {site.name: mean_dice(predict(site), site.test, self.task.classes) for site in self.sites}
        return {"dice": sum(by_site.values()) / len(by_site), "by_site": by_site}

    def measure_alone(self) -> None:
        """Each site alone."""
        networks = {site.name: lambda site=site: self._local([site.train], self.budget.alone) for site in self.sites}
        self.row(ALONE, lambda: self.scores(lambda site: _labels(networks[site.name](), site.test)))

    def measure_pooled(self) -> None:
        """A network that sees all sites' raw images."""
        self.row(POOLED, self._pooled)

    def measure_product(self, profiles: Sequence[Profile] = PROFILES) -> None:
        """The sites together, by privacy profile."""
        shared = self._shared_codec()
        self.row("codec", lambda: dict(shared[0].report["quality"]))
        self.row(TWIN, lambda: self.scores(lambda site: shared[1][site.name].alone(site.test.slices).argmax(dim=1)))
        for profile in profiles:
            self._private(*shared, profile)

    def measure_minimized(self, profiles: Sequence[Profile]) -> None:
        """The product as it is by default: what leaves is minimized, everything else is the same to the bit."""
        _, decoders, _ = self._shared_codec()
        codec, plains = self.minimized_codec()
        own = {name: SiteDecoder(codec) for name in decoders}
        for name, decoder in decoders.items():
            own[name].local = decoder.local
        for profile in profiles:
            self._private(codec, own, plains, profile, codec_words=MINIMIZED)
        if Profile.COARSE in profiles:
            for quantization in (FOR_MAPPING, Quantization.F32):
                self._asked_with(quantization, codec, own, plains, MINIMIZED)

    def measure_together(self) -> None:
        """The usual codec, and members that share their networks with each other in rounds of the refinement."""
        codec, plains = self.minimized_codec()
        decoders = self._learnt_together(codec, self.sites)
        del decoders[""]  # every site here has labels that it learned from: see the fourth member
        self.row(TWIN + TOGETHER, lambda: self.scores(lambda s: decoders[s.name].alone(s.test.slices).argmax(dim=1)))
        members = [join_consortium(codec, Profile.COARSE, link_key=bytes([number]) * 32) for number in (1, 2, 3)]
        umn = self.networks.umn(USUAL, members, plains, replace(self.budget.umn, profile=Profile.COARSE))
        self._together(USUAL + TOGETHER, dict(zip(SITES, members, strict=True)), umn, decoders, without_labels=False)

    def measure_fourth_member_together(self) -> None:
        """A member that nobody's labels are from, where the others learn together."""
        codec, plains = self.minimized_codec()
        decoders = self._learnt_together(codec, self.sites[:-1])
        self.row(USUAL + TOGETHER + WITHOUT_LABELS, lambda: self._fourth_member(codec, plains, decoders))

    def _learnt_together(self, codec: Codec, sites: Sequence[Site]) -> dict[str, SiteDecoder]:
        """Every site's decoder by its name; "" is that of a member without labels."""
        names = [site.name for site in sites]
        config = RefinementConfig(rounds=ROUNDS, local=self.budget.refine)
        title = f"together-of-{''.join(names)}"
        return self.networks.decoders(title, codec, [*names, ""], lambda: learn_in_step(codec, sites, config)[0])

    def measure_fourth_member(self) -> None:
        """A member that nobody's labels are from."""
        codec, decoders, plains = self._shared_codec()
        self.row(FOURTH, lambda: self._fourth_member(codec, plains, {**decoders, "": SiteDecoder(codec)}))

    def measure_comparisons(self) -> None:
        """What the product's choices cost or gain: quantization, inner layer, codec scope."""
        shared = self._shared_codec()
        self._private(*shared, Profile.COARSE, quantization=Quantization.F32)
        self._asked_with(FOR_MAPPING, *shared)
        self._private(*shared, Profile.COARSE, inner_key=None)
        self._site_codecs(shared[0])

    def minimized_codec(self) -> tuple[Codec, list[PlainLatents]]:
        """The first site's usual codec, and what every site exports with it."""
        founder = self.sites[0]
        codec = self.networks.minimized(self._codec(founder), founder, self.budget.minimizer)
        return codec, self._exported(codec)

    def autoencoder_codec(self) -> tuple[Codec, list[PlainLatents]]:
        """The same with a codec that is not minimized."""
        codec = self._codec(self.sites[0])
        return codec, self._exported(codec)

    def _exported(self, codec: Codec) -> list[PlainLatents]:
        """What every site exports with one codec."""
        return [encode_site(codec, site.train, self.budget.variants, seed) for seed, site in enumerate(self.sites)]

    def _shared_codec(self) -> tuple[Codec, dict[str, SiteDecoder], list[PlainLatents]]:
        """The first site's codec, every site's decoder, and what every site exports."""
        codec, plains = self.autoencoder_codec()
        return codec, {site.name: self._refined(codec, site) for site in self.sites}, plains

    def _pooled(self) -> dict[str, object]:
        network = self._local([site.train for site in self.sites], self.budget.pooled)
        return self.scores(lambda site: _labels(network, site.test))

    def _local(self, sets: Sequence[SliceSet], config: FitConfig) -> LocalNetwork:
        pooled = sets[0]
        for other in sets[1:]:
            pooled = join(pooled, other)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            network = build_local_network(self.task.slicing.channels, self.task.classes, self.task.slicing.size)
        train_local_network(network, pooled, config, torch.Generator().manual_seed(1), report=show)
        return network

    def _codec(self, founder: Site, preset: CodecPreset = "autoencoder") -> Codec:
        b = self.budget
        config = CodecTrainingConfig("autoencoder", images=b.images, masks=b.masks, local=b.local)
        if preset == "paper":
            # As published there is no local network: it is in the codec's file, but nothing uses it here.
            config = CodecTrainingConfig(preset="paper", images=b.paper_codec, masks=b.paper_codec, local=FitConfig(1))
        return self.networks.codec(preset, founder, self.task, config)

    def _refined(self, codec: Codec, site: Site) -> SiteDecoder:
        return self.networks.decoder("decoder", codec, site, RefinementConfig(local=self.budget.refine))

    def _private(
        self,
        codec: Codec,
        decoders: dict[str, SiteDecoder],
        plains: Sequence[PlainLatents],
        profile: Profile,
        *,
        quantization: Quantization = Quantization.I8,
        inner_key: bytes | None = b"i" * 32,
        codec_words: str = "",
    ) -> None:
        suffix = codec_words + ("" if quantization is Quantization.I8 else f", {quantization.value} bundles")
        suffix += "" if inner_key is not None else ", without the inner layer"
        name = f"private, {profile.value}{suffix}"
        if f"{name}, member without labels" in self.rows:
            return
        keys = [bytes([number]) * 32 for number in range(1, len(self.sites) + 1)]
        members = [
            join_consortium(codec, profile, inner_key=inner_key, link_key=key, quantization=quantization)
            for key in keys
        ]
        umn = self.networks.umn(name, members, plains, replace(self.budget.umn, profile=profile))
        self._together(name, dict(zip(SITES, members, strict=True)), umn, decoders)

    def _fourth_member(
        self, codec: Codec, plains: Sequence[PlainLatents], decoders: Mapping[str, SiteDecoder]
    ) -> dict[str, object]:
        """A scanner that nobody's labels are from: the last site, whose labels are used nowhere.

        :param decoders: of the others by their names, "" is that of the member without labels.
        :returns: ``dice`` and ``by_site`` of it, ``others`` of those whose labels the same networks learned from.
        """
        *labelled, unseen = self.sites
        member = join_consortium(codec, Profile.COARSE)
        umn = self.networks.umn(f"fourth member {codec.preset}", [member] * len(labelled), plains[:-1], self.budget.umn)

        def dice(site: Site, decoder: SiteDecoder) -> float:
            if site.validation is not None and site is not unseen:
                choose_share(decoder, site.validation, lambda latents: member.ask(latents, umn), Profile.COARSE)
            masks = member.ask_each_case(site.test, umn).masks
            labels = decoder.decode(masks, site.test.slices, Profile.COARSE).argmax(dim=1)
            return mean_dice(labels, site.test, self.task.classes)

        found = dice(unseen, decoders[""])
        others = {site.name: dice(site, decoders[site.name]) for site in labelled}
        return {"dice": found, "by_site": {unseen.name: found}, "others": others}

    def _together(
        self,
        name: str,
        members: dict[str, Member],
        umn: TrainedUmn,
        decoders: dict[str, SiteDecoder],
        *,
        without_labels: bool = True,
    ) -> None:
        """Rows of a trained consortium: as used, the server alone, and a site as if it had no labels of its own.

        :param without_labels: whether there is such a row.
        """
        answers = {site.name: members[site.name].ask_each_case(site.test, umn).masks for site in self.sites}
        profile = umn.description.profile
        weights = {}
        for site in self.sites:
            decoder = decoders[site.name]
            decoder.weights.setdefault(profile.value, decoder.usual_weight)
            if site.validation is not None:
                ask = lambda latents, member=members[site.name]: member.ask(latents, umn)  # noqa: E731
                choose_share(decoder, site.validation, ask, profile)
            weights[site.name] = decoder.weight(profile)

        def as_used(site: Site) -> torch.Tensor:
            return decoders[site.name].decode(answers[site.name], site.test.slices, profile).argmax(dim=1)

        def server_only(site: Site) -> torch.Tensor:
            codec = decoders[site.name].codec
            return codec.decode_masks(answers[site.name], site.test.slices, profile).argmax(dim=1)

        def unlabelled(site: Site) -> torch.Tensor:
            decoder = SiteDecoder(decoders[site.name].codec)
            return decoder.decode(answers[site.name], site.test.slices, profile).argmax(dim=1)

        facts = {"weights": weights, "umn_gflop": umn.flops() / 1e9, "umn_parameters": umn.parameters_count}
        self.row(name, lambda: self.scores(as_used) | facts)
        self.row(f"{name}, server's part alone", lambda: self.scores(server_only))
        if without_labels and len(umn.description.codecs) == 1:
            self.row(f"{name}, member without labels", lambda: self.scores(unlabelled))

    def _asked_with(
        self,
        quantization: Quantization,
        codec: Codec,
        decoders: dict[str, SiteDecoder],
        plains: Sequence[PlainLatents],
        codec_words: str = "",
    ) -> None:
        """Requests and answers of other bits; the cohorts that the model learned from have eight."""
        trained = COARSE + codec_words
        name = f"{trained}, {quantization.value} requests"
        if f"{name}, member without labels" in self.rows:
            return
        eight = [join_consortium(codec, Profile.COARSE, link_key=bytes([number]) * 32) for number in (1, 2, 3)]
        umn = self.networks.umn(trained, eight, plains, replace(self.budget.umn, profile=Profile.COARSE))
        members = [replace(member, quantization=quantization) for member in eight]
        self._together(name, dict(zip(SITES, members, strict=True)), umn, decoders)

    def _site_codecs(self, first: Codec) -> None:
        name = f"{COARSE}, a codec for each site"
        if f"{name}, server's part alone" in self.rows:
            return
        codecs = [first, *(self._codec(site) for site in self.sites[1:])]
        members = [
            join_consortium(codec, Profile.COARSE, inner_key=bytes([number + 9]) * 32, link_key=bytes([number]) * 32)
            for number, codec in enumerate(codecs, start=1)
        ]
        plains = [
            encode_site(codec, site.train, self.budget.variants, seed)
            for seed, (codec, site) in enumerate(zip(codecs, self.sites, strict=True))
        ]
        umn = self.networks.umn(name, members, plains, self.budget.umn)
        decoders = {site.name: self._own(c, site) for c, site in zip(codecs, self.sites, strict=True)}
        self._together(name, dict(zip(SITES, members, strict=True)), umn, decoders)

    def _own(self, codec: Codec, site: Site) -> SiteDecoder:
        """The decoder of a site that shares its codec with nobody."""
        if site.validation is not None:
            return self._refined(codec, site)
        config = RefinementConfig(local=self.budget.alone)
        return leave_alone(codec, site.train, Profile.COARSE, config, report=show)[0]

    def measure_published(self) -> None:
        """The published system: the decoded answer of the server is all there is; slices of the published size."""
        if PAPER in self.rows:
            return
        members, plains = self.published_sites()
        umn = self.networks.umn(PAPER, list(members.values()), plains, self.budget.paper_umn)
        facts = {"umn_gflop": umn.flops() / 1e9, "umn_parameters": umn.parameters_count}
        self.row(PAPER, lambda: self.scores(lambda site: answered(members[site.name], site.test, umn)) | facts)

    def published_sites(self) -> tuple[dict[str, Member], list[PlainLatents]]:
        """The sites with the published codec, and what they export."""
        members = {
            site.name: join_consortium(
                self._codec(site, "paper"), Profile.PAPER,
                inner_key=None, link_key=bytes([number]) * 32, quantization=Quantization.F32,
            )
            for number, site in enumerate(self.sites, start=1)
        }  # fmt: skip
        return members, [encode_site(members[site.name].codec, site.train, 0, 0) for site in self.sites]


def answered(member: Member, cases: SliceSet, umn: TrainedUmn) -> torch.Tensor:
    """Labels of the server's decoded answer, without the site's own network."""
    masks = member.ask_each_case(cases, umn).masks
    return member.codec.decode_masks(masks, cases.slices, member.profile).argmax(dim=1)


def _labels(network: LocalNetwork, cases: SliceSet) -> torch.Tensor:
    return predict_locally(network, cases.slices).argmax(dim=1)


def main() -> int:
    """Measure, keep the rows, write docs/results/accuracy.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "data", type=Path, help="folder with images/, labels/, split.csv: hippocampus_mr or fetal_head_us"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--labelled", type=int, metavar="N", help="so many labelled cases a site instead of all")
    which.add_argument("--shifted", action="store_true", help="sites whose data differ, by the column site_shifted")
    parser.add_argument(
        "--comparisons", action="store_true", help="the rows to compare with: f32, no inner layer, codec a site, paper"
    )
    parser.add_argument("--minimized", action="store_true", help="the rows of the usual, minimized codec")
    parser.add_argument("--together", action="store_true", help="the rows of members that share their networks")
    parser.add_argument("--profiles", nargs="+", type=Profile, default=list(PROFILES), help="which privacy profiles")
    parser.add_argument("--store", type=Path, default=Path("bench-output"), help="where finished rows are kept")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tasks = Path(__file__).resolve().parents[2] / "Resources" / "Tasks"
    task = load_task(tasks / f"{TASKS[options.data.name]}.json")
    few = options.labelled
    kind = "shifted" if options.shifted else "few" if few == FEW[options.data.name] else str(few or "all")
    store = options.store / f"accuracy-{options.data.name}-{kind}.json"
    column = "site_shifted" if options.shifted else "site"
    run = Run(options.data, task, few, budget(task, few is not None), store, column)
    if options.comparisons:
        run.measure_comparisons()
        published = at_published_size(task)
        length = budget(published, few is not None)
        if few is None and published.slicing.size != task.slicing.size:
            length = of_many_slices(length)
        Run(options.data, published, few, length, store, column).measure_published()
    elif options.together:
        run.measure_together()
        if not options.shifted:
            run.measure_fourth_member_together()
    elif options.minimized:
        run.measure_minimized(options.profiles)
    elif options.shifted:
        run.measure_alone()
        run.measure_pooled()
        run.measure_minimized((Profile.COARSE,))
    else:
        run.measure_alone()
        run.measure_pooled()
        run.measure_product(options.profiles)
        run.measure_fourth_member()
    report(options.store)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Membership inference against the server's network and the codec: ``make bench-membership DATA=.../hippocampus_mr``.

The codec is site A's. The server's real network is trained on random halves of the patients of the other two sites,
whom the codec never saw, from what their sites send: bundles under both layers. LiRA asks who was in which half
(:mod:`ppcmi.audit.attacks.membership`); rows with DP-SGD stand beside. Numbers are in docs/results/membership.json,
bounds are by patient. What each model's losses are is kept, so that a run that was cut off goes on.

Slices are few and trainings short, so that 33 networks are trained in some twenty minutes of two cores: a network that
trains longer on fewer patients remembers more, one with more patients less.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from benchmarks.accuracy import ROUNDS
from benchmarks.accuracy_budget import budget
from benchmarks.federation import Member, encode_site, join_consortium, received
from benchmarks.learning_together import learn_in_step
from benchmarks.private_training import PrivacyConfig, train_privately
from benchmarks.results import REPOSITORY, SEPARATOR, Measurement, add_text, here_and_now, measurement, merge
from benchmarks.sites import SITES, load_site
from ppcmi.audit.attacker import Finding
from ppcmi.audit.attacks.likelihood_ratio import Evidence
from ppcmi.audit.attacks.membership import (
    MembershipConfig,
    Records,
    draw_halves,
    judge,
    overfitted,
    quantile_findings,
)
from ppcmi.audit.attacks.membership_among_members import measure_codec_membership, measure_network_membership
from ppcmi.audit.mapping import MapLatents
from ppcmi.audit.subjects import patients_of, thin
from ppcmi.codec.codec import Codec
from ppcmi.codec.local_network import LocalNetwork
from ppcmi.codec.refinement import RefinementConfig, SiteDecoder
from ppcmi.codec.slice_set import SliceSet, read_slice_set
from ppcmi.codec.training import CodecTrainingConfig, train_codec
from ppcmi.data_folders import CaseFiles, find_cases
from ppcmi.fitting import FitConfig
from ppcmi.scales import Profile
from ppcmi.task import Task, load_task
from ppcmi_server.umn.config import UmnConfig
from ppcmi_server.umn.dataset import LatentDataset
from ppcmi_server.umn.model import TrainedUmn
from ppcmi_server.umn.training import train_umn

COMMAND = "make bench-membership DATA=.../hippocampus_mr"
TITLE = "hippocampus_mr, membership (A10)"
SEED = 1
SLICES_A_CASE = 3
REFERENCE_SHARE = 0.15
"""Of the patients, for the quantile attack: no network is trained on them."""
PRIVATE_SHADOWS = 4
CANARIES = 50
UMN = UmnConfig(profile=Profile.COARSE, epochs=8, batch_size=16, minimum_steps=0, validation_share=0.0)
BY_HEART = replace(UMN, epochs=20, mixup=0.0, noise=0.0, weight_decay=0.0)

TEXT = """\
Who was a model trained on? 77 of the 91 patients of two sites, whom the codec never saw (the other 14 are what the
quantile attack learns from). Each network was trained on a random half of them, 3 slices a case, 8 epochs, by the
server's own code from what the sites send; LiRA's shadows are the other networks. AUC 0.5 is guessing; intervals of
AUCs are bootstraps by patient, bounds of true positive rates (TPR) are exact and count each patient once. A rate is
left out where there are too few decisions about non-members to measure it (1,000 for 1 %, 200 for 5 %, 100 for 10 %).
"gate" rows say whether to believe the others: a classifier that sees no model must not tell members from others (its
interval reaches down to 0.5), a network made to overfit must be caught. "mislabelled" rows are the worst case: 50
patients have each other's masks, which nothing but memory can tell, and only they are asked about. The error of other
patients (mean squared, of standardized mask latents; 1 is a network that knows nothing) is what privacy costs. DP-SGD
rows: the same network, the guarantee is by patient (delta 0.001), 5 networks each, trained as briefly as it takes to
compare them. "network that a site shares" is what another member could tell from it: three sites learned together,
and one compares another's network with its own; the patients asked about are that site's. A member that looks at the
networks of all rounds, or trains networks to compare with, may see more.

The networks are trained briefly on few patients. A longer training remembers more, and more patients are remembered
less; a site measures its own cases with `ppcmi audit --attacks full`.
"""

Train = Callable[[LatentDataset, Tensor, int], TrainedUmn]
"""A data set, the patient of each of its slices, and a seed, to a network."""


@dataclass(frozen=True, eq=False)
class Pool:
    """What two sites sent, in the inner key's space as the server holds it.

    :param patient: ``(n,)`` int64 from 0, the patient of each slice.
    """

    dataset: LatentDataset
    patient: Tensor

    @property
    def records(self) -> Records:
        """For the attack."""
        images, masks = (
            source.select(torch.arange(len(self.patient))) for source in (self.dataset.images, self.dataset.masks)
        )
        floats = [latents.map(lambda _, values: values.float()) for latents in (images, masks)]
        return Records(floats[0], floats[1], self.patient)

    def of_patients(self, chosen: Tensor) -> tuple[LatentDataset, Tensor]:
        """Only some patients' slices."""
        index = torch.nonzero(torch.isin(self.patient, chosen))[:, 0]
        return self.dataset.select(index), self.patient[index]

    def first_patients(self, count: int) -> Pool:
        """Only patients 0 to ``count`` - 1."""
        return Pool(*self.of_patients(torch.arange(count)))

    def mislabelled(self, count: int) -> Pool:
        """With the masks of the first ``count`` patients exchanged: nothing but memory can tell which is whose."""
        index = torch.nonzero(self.patient < count)[:, 0]
        index = index[self.patient[index].argsort(stable=True)]
        order = torch.arange(len(self.patient))
        order[index] = index.roll(int(torch.bincount(self.patient[index]).max()))  # to another patient's slices
        return Pool(replace(self.dataset, masks=self.dataset.masks.select(order)), self.patient)


class Run:
    """One data folder; the losses of trained networks are kept in ``store``.

    :param asked: only the first so many patients are attacked, all are trained on.
    """

    def __init__(self, pool: Pool, reference: Pool, member: Member, store: Path, asked: int | None = None) -> None:
        self.pool, self.reference, self.member, self.store = pool, reference, member, store
        self.patients, self.others = pool.records.patients, reference.records
        self.records = pool.first_patients(asked or self.patients).records

    def row(self, name: str, train: Train, shadows: int) -> list[Finding]:
        """Train ``shadows`` + 1 networks and attack each; ``name`` is the row's and that of the kept losses."""
        started = time.monotonic()
        halves = draw_halves(self.patients, MembershipConfig(shadows), SEED)
        kept = [self._losses(name, model, chosen, train) for model, chosen in enumerate(halves)]
        asked = halves[:, : self.records.patients]
        evidence = Evidence(torch.stack([one["records"] for one in kept]), asked, self.records.patient)
        of_others = [one["reference"] for one in kept]
        findings = judge(evidence, self.records, name, SEED, time.monotonic() - started)
        findings += quantile_findings(evidence, self.records, self.others, of_others, name, SEED)
        mean_loss = float(torch.stack(of_others).exp().mean())
        spread = torch.stack(of_others).exp().mean(dim=(1, 2))
        low, high = float(spread.min()), float(spread.max())
        findings.append(Finding("A10", "error of other patients", name, "MSE", mean_loss, low, high, 1.0, 0.0))
        return findings

    def gate(self, name: str, shadows: int) -> Finding:
        """The positive control, beside the networks of the row ``name``."""
        halves = draw_halves(self.records.patients, MembershipConfig(shadows), SEED)
        kept = [self._load(self._path(name, model)) for model in range(len(halves))]
        evidence = Evidence(torch.stack([one["records"] for one in kept]), halves, self.records.patient)

        def by_heart(chosen: Tensor, _: int) -> MapLatents:
            umn = train_umn(self.pool.of_patients(chosen)[0], replace(BY_HEART, seed=SEED))
            return lambda images: umn.map(images, self.member.fingerprint)

        return overfitted(by_heart, evidence, self.records, name, SEED)

    def _losses(self, name: str, model: int, chosen: Tensor, train: Train) -> dict[str, Tensor]:
        path = self._path(name, model)
        if not path.exists():
            started = time.monotonic()
            umn = train(*self.pool.of_patients(torch.nonzero(chosen)[:, 0]), SEED + model)

            def mapping(images):  # type: ignore[no-untyped-def]
                return umn.map(images, self.member.fingerprint)

            losses = {"records": self.records.log_losses(mapping), "reference": self.others.log_losses(mapping)}
            path.parent.mkdir(parents=True, exist_ok=True)
            safetensors.torch.save_file(losses, path)
            print(f"  {name}: network {model + 1}, {time.monotonic() - started:.0f} s", flush=True)
        return self._load(path)

    def _path(self, name: str, model: int) -> Path:
        return self.store / f"{name.replace(' ', '-').replace(',', '')}-{model}.safetensors"

    @staticmethod
    def _load(path: Path) -> dict[str, Tensor]:
        return safetensors.torch.load_file(path)


def train_usually(dataset: LatentDataset, patient: Tensor, seed: int) -> TrainedUmn:
    """As the server trains, for a short time."""
    return train_umn(dataset, replace(UMN, seed=seed))


def train_with(epsilon: float) -> Train:
    """With differential privacy by patient."""
    config = PrivacyConfig(epsilon)
    return lambda dataset, patient, seed: train_privately(dataset, patient, UMN, config, seed)


def read_pools(cases: Sequence[CaseFiles], task: Task, member: Member) -> tuple[Pool, Pool]:
    """What the given cases' sites send, by patient: those that networks may be trained on, and the reference's."""
    names = patients_of(cases, None)
    patients = sorted(set(names))
    order = torch.randperm(len(patients), generator=torch.Generator().manual_seed(SEED)).tolist()
    count = round(REFERENCE_SHARE * len(patients))
    whole = thin(read_slice_set(cases, task), SLICES_A_CASE)

    def pool(chosen: Sequence[int]) -> Pool:
        number = {patients[one]: place for place, one in enumerate(chosen)}
        kept = [case for case, name in enumerate(names) if name in number]
        part = whole.of_cases(kept)
        patient = torch.tensor([number[names[case]] for case in kept])[part.case]
        return Pool(received(member, encode_site(member.codec, part, 0, SEED)), patient)

    return pool(order[count:]), pool(order[:count])


def attack_codec(codec: Codec, other: Codec, cases: Sequence[CaseFiles], task: Task) -> list[Finding]:
    """Site A's codec, stolen; the other is site B's, who trained on neither group."""

    def part(site: str, fold: str) -> list[CaseFiles]:
        return [case for case in cases if case.site == site and case.fold == fold]

    inside = part("A", "train")
    outside = [*part("A", "test"), *(case for fold in ("train", "val", "test") for case in part("C", fold))]
    names = patients_of([*inside, *outside], None)
    number = {name: place for place, name in enumerate(sorted(set(names)))}
    patient = torch.tensor([number[name] for name in names])

    def sliced(chosen: Sequence[CaseFiles]) -> SliceSet:
        return thin(read_slice_set(chosen, task), SLICES_A_CASE)

    return measure_codec_membership(
        codec, (sliced(inside), patient[: len(inside)]), (sliced(outside), patient[len(inside) :]), SEED,
        surrogate=other, setting="stolen codec",
    )  # fmt: skip


def attack_shared_networks(codec: Codec, data: Path, task: Task, labelled: int | None) -> list[Finding]:
    """The network that site B shared last, of three sites that learned together; a member compares it with C's.

    :param labelled: cases that each site learns from, None for all.
    """
    sites = [load_site(data, task, name, labelled) for name in SITES]
    config = RefinementConfig(rounds=ROUNDS, local=budget(task, few=labelled is not None).refine)
    networks = learn_in_step(codec, sites, config)[1]

    def of_site(name: str) -> LocalNetwork:
        decoder = SiteDecoder(codec)
        decoder.local.load_state_dict(networks[name].weights)
        return decoder.local

    own = [case for case in find_cases(data) if case.site == "B"]
    names = patients_of(own, None)
    number = {name: place for place, name in enumerate(sorted(set(names)))}

    def part(*folds: str) -> tuple[SliceSet, Tensor]:
        chosen = [place for place, case in enumerate(own) if case.fold in folds]
        if "train" in folds and labelled is not None:
            chosen = chosen[:labelled]
        cases = thin(read_slice_set([own[place] for place in chosen], task), SLICES_A_CASE)
        return cases, torch.tensor([number[names[place]] for place in chosen])

    return measure_network_membership(
        of_site("B"), [of_site("C")], part("train"), part("val", "test"), SEED,
        setting=f"network that a site shares, {labelled or 'all'} labelled cases",
    )  # fmt: skip


def find_codec(site: str, cases: Sequence[CaseFiles], task: Task, folder: Path) -> Codec:
    """The site's codec from ``folder``, or trained now, briefly, and kept there."""
    path = folder / f"autoencoder-codec-{site}.safetensors"
    if not path.exists():
        fit = FitConfig(epochs=10, batch_size=32, patience=6)
        own = [case for case in cases if case.site == site]
        train, judged = ([case for case in own if case.fold == fold] for fold in ("train", "val"))
        config = CodecTrainingConfig("autoencoder", images=fit, masks=FitConfig(epochs=3), local=FitConfig(1))
        codec = train_codec(read_slice_set(train, task), task, config, held_out=read_slice_set(judged, task))
        folder.mkdir(parents=True, exist_ok=True)
        codec.save(path)
    return Codec.load(path)


def measurements_of(findings: Sequence[Finding]) -> list[Measurement]:
    """Rows of the table; what cannot be measured has none."""
    origin = here_and_now()
    found = []
    for finding in findings:
        for column, value in (("", finding.value), (", low", finding.low), (", high", finding.high)):
            if not math.isnan(finding.value):
                name = SEPARATOR.join((TITLE, f"{finding.setting}; {finding.title}", f"{finding.measure}{column}"))
                found.append(measurement(name, value, "share", command=COMMAND, origin=origin))
    return found


def main() -> int:
    """Measure what is named, or all."""
    rows = ("codec", "shared", "usual", "gate", "mislabelled", "epsilon-8", "epsilon-1")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the data folder hippocampus_mr")
    parser.add_argument("rows", nargs="*", default=rows, help=f"of {', '.join(rows)} (default: all)")
    parser.add_argument(
        "--codecs", type=Path, help="folder with autoencoder-codec-A.safetensors and -B; default: the store"
    )
    parser.add_argument("--store", type=Path, default=Path("bench-output/membership"))
    parser.add_argument("--shadows", type=int, default=32)
    options = parser.parse_args()
    task = load_task(REPOSITORY / "Resources" / "Tasks" / "hippocampus-mr.json")
    cases = find_cases(options.data)
    folder = options.codecs or options.store
    codec = find_codec("A", cases, task, folder)
    member = join_consortium(codec, Profile.COARSE)
    if "codec" in options.rows:
        _keep(attack_codec(codec, find_codec("B", cases, task, folder), cases, task))
    if "shared" in options.rows:
        for labelled in (None, 20, 5):
            _keep(attack_shared_networks(codec, options.data, task, labelled))
    pools = read_pools([case for case in cases if case.site != "A"], task, member)
    run = Run(*pools, member, options.store)
    usual = "server's network, coarse"
    if "usual" in options.rows:
        _keep(run.row(usual, train_usually, options.shadows))
    if "gate" in options.rows:
        _keep([run.gate(usual, options.shadows)])
    if "mislabelled" in options.rows:
        spoilt = Run(pools[0].mislabelled(CANARIES), pools[1], member, options.store, asked=CANARIES)
        _keep(spoilt.row(f"{usual}, {CANARIES} mislabelled patients", train_usually, options.shadows))
    for epsilon in (8, 1):
        if f"epsilon-{epsilon}" in options.rows:
            _keep(run.row(f"{usual}, DP-SGD epsilon {epsilon}", train_with(epsilon), PRIVATE_SHADOWS))
    return 0


def _keep(findings: Sequence[Finding]) -> None:
    for one in findings:
        bounds = f"[{one.low:.3f}, {one.high:.3f}]"
        print(f"{one.setting}; {one.title}: {one.measure} {one.value:.3f} {bounds} {one.note}", flush=True)
    add_text("membership", TEXT)
    merge("membership", measurements_of(findings))


if __name__ == "__main__":
    sys.exit(main())

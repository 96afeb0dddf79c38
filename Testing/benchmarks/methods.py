"""The systems that ours is compared with, on one data folder: ``make bench-methods DATA=folder``.

Dice is the mean over structures, cases and sites of the fold ``test``, through encoding or mixing, the server's network
and back; attacks are on patients of site A's fold ``test``, by a server that knows the method and has images of another
site. Mixup-Privacy's 3D networks are trained briefly (:class:`Budget`), because this is to run on two CPU cores: its
Dice is a lower bound, its attacks need no training. Rows are kept as they are finished.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.federation import Site, encode_site
from benchmarks.kept import KeptRows, show, show_umn
from benchmarks.privacy import attack_subjects
from benchmarks.privacy_report import best_scores
from benchmarks.results import REPOSITORY, RESULTS, SEPARATOR, Measurement, Origin, measurement, merge
from benchmarks.sites import SITES, TASKS, load_site
from ppcmi.audit.attack_list import Lengths, Score, picture_attacks, scores_of
from ppcmi.audit.attacker import Finding, ReconstructionAttack
from ppcmi.audit.attacks.decoder import DecoderConfig
from ppcmi.audit.attacks.mixtures import MixedPatches, picture_findings
from ppcmi.audit.attacks.mixup_separation import mean_mixtures, separate
from ppcmi.audit.attacks.mixup_unmixing import unmix_requests, unmixed_mean
from ppcmi.audit.attacks.rehearsal import RehearsalConfig
from ppcmi.audit.reconstruction import Bench
from ppcmi.audit.setting import Observer, Setting
from ppcmi.audit.suite import attacked
from ppcmi.audit.views import PlainView
from ppcmi.codec.codec import Codec
from ppcmi.codec.quality import mean_dice
from ppcmi.codec.slice_set import SliceSet
from ppcmi.codec.training import CodecTrainingConfig, train_codec
from ppcmi.data_folders import find_cases
from ppcmi.fitting import FitConfig
from ppcmi.latents import Latents, concatenate
from ppcmi.methods.mixup.case import (
    LabelledPatches,
    Unmixing,
    as_shape,
    box_of,
    labelled_patches,
    middle_channel,
    mixed_with_several,
)
from ppcmi.methods.mixup.mixing import latents_to_soft
from ppcmi.methods.mixup.patches import PatchGrid
from ppcmi.methods.mixup.references import References, without_any
from ppcmi.methods.mixup.site_unmixing import UnmixingConfig, refine
from ppcmi.methods.shapes import REFERENCES_A_PATCH
from ppcmi.scales import Profile, Stream
from ppcmi.task import Task, load_task
from ppcmi_server.umn.config import mixup_config, privacy_sf_config
from ppcmi_server.umn.dataset import LatentDataset, join_datasets
from ppcmi_server.umn.model import TrainedUmn
from ppcmi_server.umn.training import Watching, train_umn

COMMAND = "make bench-methods DATA=.../hippocampus_mr"
SEED = 1
DICE, ATTACKS = "{data}, other methods, Dice", "{data}, other methods, attacks by the server"
SCORES = "{data}, other methods, linking and structure by the server"


@dataclass(frozen=True)
class Budget:
    """How much of it all.

    :param sites_cases: labelled cases a site that Mixup-Privacy learns from, and ``tested`` that it is measured on.
    :param attacked: cases whose patches are attacked.
    """

    mixup_cases: int = 16
    mixup_epochs: int = 4
    tested: int = 6
    attacked: int = 10
    privacy_sf_epochs: int = 6
    privacy_sf_codec: FitConfig = field(default_factory=lambda: FitConfig(epochs=12, batch_size=16))


class Run:
    """One data folder.

    :param store: folder for rows and networks.
    """

    def __init__(self, data: Path, store: Path, budget: Budget) -> None:
        self.budget = budget
        task = load_task(REPOSITORY / "Resources" / "Tasks" / f"{TASKS[data.name]}.json")
        self.privacy_sf, self.mixup = replace(task, method="privacy-sf"), replace(task, method="mixup")
        self.cases = find_cases(data)
        self.sites = [load_site(data, task, name, None) for name in SITES]
        self.kept = KeptRows(store / f"methods-{data.name}.json")
        self.folder = store / f"methods-{data.name}"
        self.folder.mkdir(parents=True, exist_ok=True)

    def row(self, name: str, measure: Any) -> None:
        """Measure unless it was measured before."""
        print(f"{name}: {self.kept.row(name, measure)}", flush=True)

    # ---- Privacy-SF

    def measure_privacy_sf(self) -> None:
        """Dice, and every attack by its server, which gets plain bottlenecks."""
        self.row("dice / Privacy-SF", self._privacy_sf_dice)
        codec, surrogate = self._privacy_sf_codec(self.sites[0]), self._privacy_sf_codec(self.sites[2])
        rehearsal = RehearsalConfig(copies=2, slices=800, most=800)
        lengths = Lengths(victims=160, others=800, decoder=DecoderConfig(steps=300), rehearsal=rehearsal)
        bench = Bench(attacked(attack_subjects(self.cases, self.privacy_sf), lengths), surrogate, (SEED,), leaked=20)
        setting = Setting(
            "Privacy-SF, its server", "Privacy-SF", Observer.SERVER, Profile.MINIMAL, codec, True, True, PlainView()
        )
        for attack in picture_attacks("full", setting, lengths, show, bench.known_cases):
            self.row(f"attack / Privacy-SF: {attack.title}", lambda attack=attack: _attempt(bench, setting, attack))
        for words, measure in scores_of("quick", lengths, {}, show):

            def scores(measure: Score = measure) -> Mapping[str, Any]:
                knowledge, _ = bench.scene(setting)[0]
                return _document(measure(setting, bench.subjects, knowledge, SEED))

            self.row(f"score / Privacy-SF: {words}", scores)

    def _privacy_sf_codec(self, site: Site) -> Codec:
        file = self.folder / f"privacy-sf-{site.name}.safetensors"
        if not file.exists():
            fit = self.budget.privacy_sf_codec
            config = CodecTrainingConfig(preset="privacy-sf", images=fit, masks=fit)
            train_codec(site.train, self.privacy_sf, config, held_out=site.validation, report=show).save(file)
        return Codec.load(file)

    def _privacy_sf_dice(self) -> Mapping[str, Any]:
        codec = self._privacy_sf_codec(self.sites[0])
        parts = []
        for seed, site in enumerate(self.sites):
            plain = encode_site(codec, site.train, 1, seed)
            members = torch.zeros_like(plain.case)
            parts.append(LatentDataset(plain.images, plain.masks, ("c",), members, plain.case, plain.variant))
        config = replace(privacy_sf_config(epochs=self.budget.privacy_sf_epochs), validation_share=0.0)
        umn = train_umn(join_datasets(parts), config, watching=Watching(report=show_umn))

        def labels(cases: SliceSet) -> Tensor:
            answer = umn.map(codec.encode_images(cases.slices), "c")
            return codec.decode_masks(answer, cases.slices, Profile.MINIMAL).argmax(dim=1)

        scores = [mean_dice(labels(site.test), site.test, codec.task.classes) for site in self.sites]
        return {"value": sum(scores) / len(scores), "by_site": scores}

    # ---- Mixup-Privacy

    def measure_mixup_attacks(self) -> None:
        """What its server makes of requests to segment; nothing has to be trained."""
        site, other = self.sites[0], self.sites[2]
        references = self._references(site)
        victims = labelled_patches(_first(site.test, self.budget.attacked), self.mixup)
        truth = torch.cat([pictures for pictures, _ in victims])
        patient = torch.arange(len(victims)).repeat_interleave(torch.tensor([len(one) for one, _ in victims]))
        own = torch.cat([one for one, _ in labelled_patches(_first(other.train, 20), self.mixup)])
        mixture = mixed_with_several(truth, references, REFERENCES_A_PATCH, torch.Generator().manual_seed(SEED))
        pictures = mixture.pictures.reshape(len(truth), -1, *truth.shape[1:])
        mixed = MixedPatches(pictures, own.mean(dim=0), len(references))
        attacks = {
            "a mixture as it is": lambda: mixed.pictures[:, 0],
            "blind source separation (FastICA)": lambda: separate(mixed, SEED),
            f"mean of {REFERENCES_A_PATCH} mixtures": lambda: mean_mixtures(mixed),
            f"mean of {REFERENCES_A_PATCH} mixtures, without the mean of all": lambda: unmixed_mean(mixed),
            "references found again (Carlini et al.)": lambda: unmix_requests(mixed, SEED),
        }
        for title, attack in attacks.items():

            def measure(title: str = title, attack: Any = attack) -> Mapping[str, Any]:
                started = time.monotonic()
                found = attack()
                seconds = time.monotonic() - started
                return _document(picture_findings(title, found, truth, patient, mixed, seconds=seconds, seed=SEED))

            self.row(f"attack / Mixup-Privacy: {title}", measure)

    def measure_mixup_dice(self) -> None:
        """Dice of naive and learned unmixing, of one answer and of the mean over several."""
        task, founder = self.mixup, self.sites[0]
        file = self.folder / "umn-mixup.safetensors"
        if not file.exists():
            parts = [self._exported(site, seed) for seed, site in enumerate(self.sites)]
            config = replace(mixup_config(epochs=self.budget.mixup_epochs), validation_share=0.0)
            train_umn(join_datasets(parts), config, watching=Watching(report=show_umn)).save(file)
        umn = TrainedUmn.load(file)
        codec = Codec(task, "mixup")
        config = CodecTrainingConfig(preset="mixup", masks=FitConfig(epochs=2, batch_size=4, minimum_steps=60))
        few = _first(founder.train, self.budget.tested)
        codec = train_codec(few, task, config, held_out=_first(few, 2), report=show)
        refined = {}
        for site in self.sites:
            fit = FitConfig(epochs=1, batch_size=4, minimum_steps=80, learning_rate=1e-3)
            refined[site.name] = refine(
                codec, _first(site.train, self.budget.tested), self._references(site),
                lambda latents: umn.map(latents, "c"), UnmixingConfig(mixtures=1, fit=fit), show,
            )  # fmt: skip
        for words, times in (("", 1), (f" + mean of {REFERENCES_A_PATCH}", REFERENCES_A_PATCH)):
            naive = {site.name: Unmixing(self._references(site), None, times) for site in self.sites}
            learned = {name: replace(one, network=refined[name]) for name, one in naive.items()}
            self.row(f"dice / Mixup-Privacy, naive{words}", lambda by=naive: self._mixup_dice(umn, by))
            self.row(f"dice / Mixup-Privacy, learned{words}", lambda by=learned: self._mixup_dice(umn, by))
        self.row("dice / Mixup-Privacy, unmixing before an answer was seen", lambda: {"value": _consortiums(codec)})

    def _mixup_dice(self, umn: TrainedUmn, by_site: Mapping[str, Unmixing]) -> Mapping[str, Any]:
        scores = []
        for site in self.sites:
            cases = _first(site.test, self.budget.tested)
            labels = torch.cat([_segment(case, by_site[site.name], umn, self.mixup) for case in cases.each_case()])
            scores.append(mean_dice(labels, cases, self.mixup.classes))
        return {"value": sum(scores) / len(scores), "by_site": scores}

    def _references(self, site: Site) -> References:
        references = without_any(self.mixup.patch)
        for pictures, labels in labelled_patches(_first(site.train, self.budget.mixup_cases), self.mixup):
            references = references.with_more(pictures, labels)
        return references

    def _exported(self, site: Site, seed: int) -> LatentDataset:
        references = self._references(site)
        images, masks, case = [], [], []
        patches = labelled_patches(_first(site.train, self.budget.mixup_cases), self.mixup)
        for number, (pictures, labels) in enumerate(patches):
            exported = LabelledPatches(pictures, labels, self.mixup, references, seed * 1000 + number)
            streams = exported.protect(slice(0, len(exported)), 0)
            images.append(streams[Stream.IMAGE].map(lambda _, v: v.half()))
            masks.append(streams[Stream.MASK].map(lambda _, v: v.half()))
            case.append(torch.full((len(exported),), number))
        cases = torch.cat(case)
        member = torch.zeros_like(cases)
        return LatentDataset(concatenate(images), concatenate(masks), ("c",), member, cases, member)


def _segment(case: SliceSet, unmixing: Unmixing, umn: TrainedUmn, task: Task) -> Tensor:
    """Labels ``(n, h, w)`` as a site finds them with a server."""
    stack = middle_channel(case.slices)
    grid = PatchGrid.over(as_shape(stack), task.patch, box_of(stack))
    generator = torch.Generator().manual_seed(SEED)
    mixture = mixed_with_several(grid.cut(stack), unmixing.references, unmixing.times, generator)
    found = []
    for part in torch.split(torch.arange(len(mixture.share)), 16):
        answer = latents_to_soft(umn.map(Latents({"x": mixture.pictures[part]}), "c")["y"])
        found.append(unmixing.apply(answer, mixture.references[part], mixture.share[part]))
    each = torch.cat(found)
    return grid.blend(each.reshape(len(grid), -1, *each.shape[1:]).mean(dim=1)).argmax(dim=1)


def _consortiums(codec: Codec) -> float:
    """Mean Dice of the unmixing on true mixtures."""
    dice = [value for value in codec.report["quality"]["mask_dice"]["mixup"].values() if value is not None]
    return float(sum(dice) / len(dice))


def _attempt(bench: Bench, setting: Setting, attack: ReconstructionAttack) -> Mapping[str, Any]:
    attempt = bench.attempt(setting, attack)
    return {} if attempt is None else _document(attempt.findings)


def _document(findings: Sequence[Finding]) -> dict[str, Any]:
    return {"findings": [asdict(finding) for finding in findings]}


def _first(cases: SliceSet, count: int) -> SliceSet:
    return cases.of_cases(range(min(count, cases.cases)))


OURS = {
    "ours, coarse": ("accuracy", "{data}, all labels / private, coarse, minimized codec / mean"),
    "ours, coarse, server's part alone": (
        "accuracy", "{data}, all labels / private, coarse, minimized codec, server's part alone / mean"
    ),
    "PPCMI-SF, as published": ("accuracy", "{data}, all labels / private, paper codecs, UMN and protocol / mean"),
    "ours, coarse: decoder trained on 20 leaked cases": (
        "privacy", "{data} / two layers, coarse; server with the codec / A4"
    ),
    "ours, coarse: alignment of statistics": ("privacy", "{data} / two layers, coarse; server with the codec / A3"),
    "KLT as published: decoder trained on plain latents": ("privacy", "{data} / KLT as published; its server / A5"),
}  # fmt: skip
"""Rows of other benchmarks on the same patients that stand beside these: by name, the file and the number there."""

OUR_SCORES = {
    "ours, coarse": "{data}, scores / two layers, coarse; server with the codec / ",
    "KLT as published": "{data}, scores / KLT as published; its server / ",
}
"""The same for what ends in numbers: how the names there begin."""


def beside(data: str) -> Iterator[Measurement]:
    """Ours and PPCMI-SF, as the benchmarks of accuracy and privacy found them."""
    for row, start in OUR_SCORES.items():
        for entry in json.loads((RESULTS / "privacy.json").read_text()):
            if entry["name"].startswith(start.format(data=data)):
                name = SEPARATOR.join((SCORES.format(data=data), row, entry["name"].split(SEPARATOR)[-1]))
                yield Measurement(**{**entry, "name": name, "target": None, "holds": None})
    for row, (file, wanted) in OURS.items():
        for entry in json.loads((RESULTS / f"{file}.json").read_text()):
            if entry["name"] == wanted.format(data=data):
                table, column = (DICE, "Dice") if file == "accuracy" else (ATTACKS, "SSIM")
                name = SEPARATOR.join((table.format(data=data), row, column))
                unit = "Dice" if file == "accuracy" else "attack"
                yield Measurement(**{**entry, "name": name, "unit": unit, "target": None, "holds": None})


def report(data: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Write docs/results/methods.json of what is finished."""
    found: list[Measurement] = []
    for name, row in rows.items():
        origin = Origin(row["commit"], row["machine"], row["date"])
        kind, words = name.split(SEPARATOR, 1)
        if kind == "score":
            method = words.split(": ")[0]
            found += [
                measurement(
                    SEPARATOR.join((SCORES.format(data=data), method, column)), value, "score", command=COMMAND,
                    origin=origin,
                )
                for column, value in best_scores(row["findings"])
            ]  # fmt: skip
            continue
        title = (DICE if kind == "dice" else ATTACKS).format(data=data)
        numbers = {"": row["value"]} if kind == "dice" else {}
        for finding in row.get("findings", ()):
            numbers |= {finding["measure"]: finding["value"], f"{finding['measure']} of a guess": finding["chance"]}
        for column, value in numbers.items():
            label = SEPARATOR.join((title, words, column)) if column else SEPARATOR.join((title, words, "Dice"))
            found.append(
                measurement(label, value, "Dice" if kind == "dice" else "attack", command=COMMAND, origin=origin)
            )
    merge("methods", [*found, *beside(data)])


PARTS = {
    "mixup-attacks": Run.measure_mixup_attacks,
    "mixup-dice": Run.measure_mixup_dice,
    "privacy-sf": Run.measure_privacy_sf,
}
"""What can be measured."""


def main() -> int:
    """Measure, keep the rows, write docs/results/methods.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with images/, labels/, split.csv: hippocampus_mr")
    parser.add_argument("--parts", nargs="*", choices=list(PARTS), default=list(PARTS), help="what to measure")
    parser.add_argument("--store", type=Path, default=Path("bench-output"), help="where finished rows are kept")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    run = Run(options.data, options.store, Budget())
    for part in options.parts:
        PARTS[part](run)
        report(options.data.name, run.kept.rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())

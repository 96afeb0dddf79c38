"""What attackers make of what leaves, beside its Dice: ``make bench-privacy DATA=folder``.

Attacked are patients of site A's fold ``test``, on whom nothing was trained. The attacker's own images are of site C;
collected are those that site A trained on, of 20 of which the images leaked. Codecs are of sites A and C, the Dice is
with the server's real network. Every attack in every setting is a row, kept as it is finished, so that a run that was
cut off goes on. Slices are subsampled (:data:`SUBSAMPLED`), keys and attackers have one seed, and learned attacks train
briefly: the order of the rows is more certain than their third digit.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.collusion import (
    as_the_server_sees,
    collusion_attacks,
    measure_masks_by_exit,
    network_of_both,
    victim_and_colluder,
)
from benchmarks.federation import Member, join_consortium
from benchmarks.kept import KeptRows, show
from benchmarks.privacy_report import AUTOENCODER, FLOOR, report
from benchmarks.results import REPOSITORY
from benchmarks.sites import TASKS
from ppcmi.audit.attack_list import Lengths, picture_attacks, scores_of
from ppcmi.audit.attacker import Finding, ReconstructionAttack
from ppcmi.audit.attacks.channel_map import draw as draw_plain
from ppcmi.audit.attacks.decoder import DecoderConfig, draw, train_decoder
from ppcmi.audit.attacks.plain_latents import Effort
from ppcmi.audit.attacks.rehearsal import RehearsalConfig
from ppcmi.audit.controls import check_suite
from ppcmi.audit.dfil import diagonal_fisher_leakage
from ppcmi.audit.mapping import MapLatents, MappingConfig, measure_usefulness, train_mapper
from ppcmi.audit.metrics import SSIM, WHOLE_SSIM, interval, middle, picture_scores
from ppcmi.audit.reconstruction import Bench
from ppcmi.audit.setting import Observer, Setting
from ppcmi.audit.settings import NOISES, product_settings, reference_settings, two_layers
from ppcmi.audit.subjects import Subjects, patients_of, split_subjects, thin
from ppcmi.audit.suite import AuditConfig, attacked, audit
from ppcmi.codec.codec import Codec
from ppcmi.codec.presets import Preset
from ppcmi.codec.refinement import SiteDecoder
from ppcmi.codec.slice_set import SliceSet, read_slice_set
from ppcmi.codec.training import CodecTrainingConfig, train_codec
from ppcmi.data_folders import CaseFiles, find_cases
from ppcmi.fitting import FitConfig
from ppcmi.latents import Latents, concatenate
from ppcmi.scales import Profile
from ppcmi.task import Task, load_task
from ppcmi_server.umn.model import TrainedUmn

PROFILES = (Profile.FULL, Profile.COARSE, Profile.MINIMAL)
SEED, LEAKED, QUICK_CASES = 1, 20, 50

SUBSAMPLED = {"hippocampus_mr": Lengths(victims=160, others=800), "fetal_head_us": Lengths(victims=40, others=110)}
"""Most slices that are attacked, and most that the attacker owns and that it collected."""

EFFORT = {
    "hippocampus_mr": (DecoderConfig(steps=300), RehearsalConfig(copies=2, slices=800, most=800)),
    "fetal_head_us": (DecoderConfig(steps=150, batch_size=8), RehearsalConfig(copies=2, slices=220, most=110)),
}
"""Of each learned attack."""


@dataclass(frozen=True, eq=False)
class Networks:
    """What sites trained.

    :param minimized: the usual codec of site A, and ``minimized_surrogate`` the attacker's own.
    :param autoencoder: the same without minimization, and ``surrogate`` the attacker's own.
    :param published: the published codec of site A; where none was trained, ``autoencoder``, which the report says.
    :param decoder: site A's own.
    """

    minimized: Codec
    minimized_surrogate: Codec
    autoencoder: Codec
    surrogate: Codec
    published: Codec
    decoder: SiteDecoder


class Run:
    """One data folder.

    :param folder: networks that were trained before, by ``make bench-accuracy``; what is missing is trained into it.
    :param only: what a setting's name must hold to be measured; empty for all.
    """

    def __init__(self, data: Path, folder: Path, store: Path, only: str = "") -> None:
        self.name, self.folder, self.only = data.name, folder, only
        self.task = load_task(REPOSITORY / "Resources" / "Tasks" / f"{TASKS[data.name]}.json")
        self.cases = find_cases(data)
        decoder, rehearsal = EFFORT[data.name]
        self.lengths = replace(SUBSAMPLED[data.name], decoder=decoder, rehearsal=rehearsal)
        self.kept = KeptRows(store / f"privacy-{data.name}.json")
        self.subjects = attack_subjects(self.cases, self.task)
        self.networks = self._networks()
        subjects = attacked(self.subjects, self.lengths)
        self.bench = Bench(subjects, self.networks.surrogate, (SEED,), LEAKED)
        self.minimized_bench = Bench(subjects, self.networks.minimized_surrogate, (SEED,), LEAKED)

    def settings(self) -> list[Setting]:
        """All rows; of noise, which is added where nothing is minimized, only what the server with the codec sees."""
        minimized, autoencoder, published = (
            self.networks.minimized,
            self.networks.autoencoder,
            self.networks.published,
        )
        rows = reference_settings(autoencoder, published)
        for profile in PROFILES:
            rows += product_settings(minimized, profile, "consortium")
        for profile, noise in (*((profile, 0.0) for profile in PROFILES), *((Profile.COARSE, n) for n in NOISES)):
            rows += [
                replace(s, name=f"{AUTOENCODER} {s.name}", defense=f"{AUTOENCODER} {s.defense}")
                for s in product_settings(autoencoder, profile, "consortium", noise)
                if not noise or (s.observer is Observer.SERVER and s.codec_known)
            ]
        return [row for row in rows if self.only in row.name]

    def measure_attacks(self, learned: bool) -> None:
        """Attacks that end in pictures: those that train a decoder, or those that do not."""
        known = self.bench.known_cases
        for setting in self.settings():
            quick = [(a.name, a.title) for a in picture_attacks("quick", setting, self.lengths, show, known)]
            for attack in picture_attacks("full", setting, self.lengths, lambda _: None, known):
                if ((attack.name, attack.title) not in quick) == learned:
                    self._row(
                        "attack", f"{setting.name} / {attack.name}, {attack.title}", self._attempt, setting, attack
                    )

    def measure_collusion(self) -> None:
        """The server and a member where every site has a codec and an inner key of its own: A8 by the adapters."""
        nets, profile = self.networks, Profile.COARSE
        effort = Effort(self.lengths.decoder, self.lengths.rehearsal, show)
        for prefix, victim, colluder in (
            ("", nets.minimized, nets.minimized_surrogate),
            (f"{AUTOENCODER} ", nets.autoencoder, nets.surrogate),
        ):
            sites = victim_and_colluder(victim, colluder, profile)
            kept = self._file(f"umn-scope-site-{victim.preset}")
            umn = network_of_both(sites, self.subjects, profile, kept)
            setting = as_the_server_sees(sites[0], profile, prefix)
            self._row("score", f"{setting.name} / A8, masks", self._masks_by_exit, umn, sites, setting)
            for attack in collusion_attacks(umn, *sites, effort):
                self._row("attack", f"{setting.name} / {attack.name}, {attack.title}", self._attempt, setting, attack)

    def measure_scores(self, learned: bool) -> None:
        """Attacks that end in numbers: those that train a network, where it is not on the other preset; or the rest."""
        quick = [words for words, _ in scores_of("quick", self.lengths, {}, show)]
        for setting in self.settings():
            if setting.noise or (learned and setting.name.startswith(AUTOENCODER)):
                continue
            for words, measure in scores_of("full", self.lengths, {}, lambda _: None):
                if (words in quick) == learned:
                    continue

                def findings(setting: Setting, measure: Any) -> dict[str, Any]:
                    knowledge, _ = self._bench_of(setting).scene(setting)[0]
                    return _document(measure(setting, self.bench.subjects, knowledge, SEED))

                self._row("score", f"{setting.name} / {words}", findings, setting, measure)

    def measure_use(self) -> None:
        """Dice: of each profile with the server's real network and with the stand-in, and of noise with the latter."""
        minimized, autoencoder = self.networks.minimized, self.networks.autoencoder
        for profile in PROFILES:
            for prefix, codec, file in (
                ("", minimized, f"umn-private-{profile.value}-minimized-codec"),
                (f"{AUTOENCODER} ", autoencoder, f"umn-private-{profile.value}"),
            ):
                name = prefix + two_layers(profile)
                if self._file(file).exists():
                    self._row("use", f"{name} / server's network", self._real_use, codec, profile, self._file(file))
                self._row("use", f"{name} / stand-in", self._stand_in_use, codec, profile, 0.0)
        for noise in NOISES:
            name = f"{AUTOENCODER} {two_layers(Profile.COARSE, noise)} / stand-in"
            self._row("use", name, self._stand_in_use, autoencoder, Profile.COARSE, noise)

    def measure_rest(self) -> None:
        """Controls, what the noise bounds, and what the mask alone shows of the image."""
        self._row("controls", "controls", self._controls)
        for noise in NOISES:
            self._row("fisher", f"{AUTOENCODER} {two_layers(Profile.COARSE, noise)} / dFIL", self._fisher, noise)
        for profile in PROFILES:
            self._row("floor", f"true masks, {profile.value} / {FLOOR}", self._floor, profile)

    def measure_quick(self) -> None:
        """How long a quick privacy check of :data:`QUICK_CASES` cases takes."""
        self._row("quick", "quick", self._quick)

    def _row(self, kind: str, name: str, measure: Any, *arguments: Any) -> None:
        found = self.kept.row(name, lambda: {"kind": kind, **measure(*arguments)})
        print(f"{self.name}: {name}: {found['seconds']} s", flush=True)

    def _bench_of(self, setting: Setting) -> Bench:
        return self.minimized_bench if setting.codec is self.networks.minimized else self.bench

    def _attempt(self, setting: Setting, attack: ReconstructionAttack) -> dict[str, Any]:
        attempt = self._bench_of(setting).attempt(setting, attack)
        return {} if attempt is None else _document(attempt.findings) | {
            "defense": setting.defense, "collusion": setting.observer is Observer.COLLUSION,
        }  # fmt: skip

    def _masks_by_exit(self, umn: TrainedUmn, sites: Sequence[Member], setting: Setting) -> dict[str, Any]:
        victim, member = sites
        return _document(measure_masks_by_exit(umn, victim, member, setting, self.bench.subjects, SEED))

    def _real_use(self, codec: Codec, profile: Profile, file: Path) -> dict[str, Any]:
        umn = TrainedUmn.load(file)
        member = join_consortium(codec, profile, link_key=bytes([1]) * 32)
        case = self.subjects.victims.case

        def ask(latents: Latents) -> Latents:
            return concatenate([member.ask(latents.select(case == one), umn) for one in torch.unique(case)])

        return self._use(codec, profile, ask, 0.0)

    def _stand_in_use(self, codec: Codec, profile: Profile, noise: float) -> dict[str, Any]:
        config = MappingConfig(FitConfig(epochs=4, batch_size=16, minimum_steps=200), copies=1)
        training = attacked(self.subjects, self.lengths).collected
        mapper = train_mapper(codec, training, profile, SEED, show, noise=noise, config=config)
        return self._use(codec, profile, mapper, noise)

    def _use(self, codec: Codec, profile: Profile, mapper: MapLatents, noise: float) -> dict[str, Any]:
        found = measure_usefulness(
            codec, mapper, self.subjects.victims, profile,
            noise=noise, seed=SEED, local=self.networks.decoder.local,
        )  # fmt: skip
        patient = self.subjects.victim_patient
        return {"together": interval(found.together, patient, SEED), "server": interval(found.server, patient, SEED)}

    def _controls(self) -> dict[str, Any]:
        codec, bench = self.networks.autoencoder, self.bench
        own = picture_scores(draw_plain(codec, codec.encode_images(bench.subjects.victims.slices)), bench.truth)
        return {
            "controls": [asdict(control) for control in check_suite(bench, codec)],
            "own_whole": float(own[WHOLE_SSIM].mean()),
            "guess_whole": bench.chance[WHOLE_SSIM],
        }

    def _fisher(self, noise: float) -> dict[str, Any]:
        slices = self.bench.subjects.victims.slices[:8]
        generator = torch.Generator().manual_seed(SEED)
        leakage = diagonal_fisher_leakage(self.networks.autoencoder, slices, Profile.COARSE, noise, generator)
        return {"dfil": float(leakage.mean())}

    def _floor(self, profile: Profile) -> dict[str, Any]:
        """SSIM of pictures drawn from the true mask latents: what the mask itself gives away."""
        subjects, generator = self.bench.subjects, torch.Generator().manual_seed(SEED)

        def masks(cases: SliceSet) -> Latents:
            return self.networks.autoencoder.encode_masks(cases.known_labels).of(profile).map(lambda _, v: v.float())

        own = masks(subjects.outside)
        decoder = train_decoder(
            lambda index, _: own.select(index), middle(subjects.outside.slices), self.lengths.decoder, generator,
            case=subjects.outside.case,
        )  # fmt: skip
        drawn = draw(decoder, masks(subjects.victims))[:, 0].clamp(0, 1)
        return {"ssim": float(picture_scores(drawn, self.bench.truth)[SSIM].mean())}

    def _quick(self) -> dict[str, Any]:
        files = [case for case in self.cases if case.site == "A" and case.label is not None][:QUICK_CASES]
        cases = thin(read_slice_set(files, self.task), 32)
        started, cpu = time.monotonic(), time.process_time()
        subjects = split_subjects(cases, patients_of(files, None), SEED)
        *_, last = audit(subjects, self.networks.minimized, AuditConfig(profiles=PROFILES))
        return {
            "wall": time.monotonic() - started, "cpu": time.process_time() - cpu, "cases": len(files),
            "holds": all(control.holds for control in last.report.controls) if last.report else False,
        }  # fmt: skip

    def _networks(self) -> Networks:
        autoencoder, published = self._codec("A", "autoencoder"), self._file("paper-codec-A")
        decoder = self._file(f"decoder-A-{autoencoder.fingerprint}")
        return Networks(
            self._codec("A", "minimized"),
            self._codec("C", "minimized"),
            autoencoder,
            self._codec("C", "autoencoder"),
            Codec.load(published) if published.exists() else autoencoder,
            SiteDecoder.load(decoder, autoencoder) if decoder.exists() else SiteDecoder(autoencoder),
        )

    def _codec(self, site: str, preset: Preset) -> Codec:
        file = self._file(f"{preset}-codec-{site}")
        if not file.exists():
            chosen = [case for case in self.cases if case.site == site and case.fold == "train"]
            large = self.task.slicing.size[0] >= 256
            fit = FitConfig(epochs=8, batch_size=4 if large else 32, minimum_steps=300 if large else 0)
            config = CodecTrainingConfig(preset, images=fit, masks=replace(fit, epochs=3), local=fit, minimizer=fit)
            self.folder.mkdir(parents=True, exist_ok=True)
            train_codec(read_slice_set(chosen, self.task), self.task, config, report=show).save(file)
        return Codec.load(file)

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


def attack_subjects(cases: Sequence[CaseFiles], task: Task) -> Subjects:
    """Attacked are site A's test cases, the attacker's own images are site C's, others of site A may have leaked."""

    def part(site: str, fold: str) -> tuple[SliceSet, list[str]]:
        chosen = [case for case in cases if case.site == site and case.fold == fold and case.label is not None]
        return read_slice_set(chosen, task), patients_of(chosen, None)

    (victims, one), (outside, two), (collected, three) = part("A", "test"), part("C", "train"), part("A", "train")
    number = {name: index for index, name in enumerate(sorted({*one, *two, *three}))}
    numbers = [torch.tensor([number[name] for name in names]) for names in (one, two, three)]
    return Subjects(victims, outside, collected, *numbers)


def _document(findings: Sequence[Finding]) -> dict[str, Any]:
    return {"findings": [asdict(finding) for finding in findings]}


PARTS = {
    "use": Run.measure_use,
    "collusion": Run.measure_collusion,
    "attacks": lambda run: run.measure_attacks(learned=False),
    "scores": lambda run: run.measure_scores(learned=False),
    "rest": Run.measure_rest,
    "learned": lambda run: run.measure_attacks(learned=True),
    "learned-scores": lambda run: run.measure_scores(learned=True),
    "quick": Run.measure_quick,
}
"""What can be measured, in this order."""


def main() -> int:
    """Measure, keep the rows, write docs/results/privacy.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "data", type=Path, help="folder with images/, labels/, split.csv: hippocampus_mr or fetal_head_us"
    )
    parser.add_argument("--parts", nargs="*", choices=list(PARTS), default=list(PARTS), help="what to measure")
    parser.add_argument("--only", default="", metavar="TEXT", help="only settings whose name holds this")
    parser.add_argument("--networks", type=Path, help="folder with networks that make bench-accuracy trained")
    parser.add_argument("--store", type=Path, default=Path("bench-output"), help="where finished rows are kept")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = options.networks or options.store / f"privacy-{options.data.name}"
    run = Run(options.data, folder, options.store, options.only)
    for part in options.parts:
        PARTS[part](run)
    report(options.store)
    return 0


if __name__ == "__main__":
    sys.exit(main())

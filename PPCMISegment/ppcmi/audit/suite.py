"""The audit: every attack in every setting beside the Dice of the same profile, as a generator of progress.

Example::

    for event in audit(subjects, codec, AuditConfig(attacks="quick")):
        show(event.text, event.done, event.total)
    report = event.report

It can be ended between steps, by closing the generator, and within a training, by a ``report`` that raises
``CancelledError``; with :class:`~ppcmi.audit.kept_settings.KeptSettings` the next one goes on behind the settings that
it was through with. Else it writes nothing, and it sends nothing.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version

import torch

from ppcmi import __version__
from ppcmi.audit.attack_list import Attacks, Lengths, Score, picture_attacks, scores_of
from ppcmi.audit.attacker import Finding, ReconstructionAttack
from ppcmi.audit.attacks.plain_latents import Effort
from ppcmi.audit.controls import check_learning, check_suite
from ppcmi.audit.document import AuditReport, Control
from ppcmi.audit.kept_settings import KeptSettings, SettingResult
from ppcmi.audit.mapping import MappingConfig, Usefulness, measure_usefulness, train_mapper
from ppcmi.audit.reconstruction import Attempt, Bench
from ppcmi.audit.setting import Setting
from ppcmi.audit.settings import NOISES, Scope, leaked_cases, settings_of, two_layers
from ppcmi.audit.subjects import Subjects, thin
from ppcmi.audit.summary import picture_rows, profile_row, slices_to_show
from ppcmi.audit.surrogate import train_surrogates
from ppcmi.audit.training_membership import TrainingMembershipConfig, check_membership
from ppcmi.audit.wording import CLAIMS_NOT_MADE, NOT_KNOWN, YES
from ppcmi.codec.codec import Codec
from ppcmi.codec.slice_set import SliceSet, join
from ppcmi.fitting import FitConfig, Report, ignore_report
from ppcmi.scales import Profile
from ppcmi.wording import counted

PROFILES = (Profile.FULL, Profile.COARSE, Profile.MINIMAL)
LIBRARIES = ("torch", "numpy", "scikit-image", "scikit-learn", "torchmetrics")


@dataclass(frozen=True)
class AuditConfig:
    """What is tried; recorded with the report.

    :param attacks: ``quick`` is what takes no trained decoder, for one seed; ``full`` is everything, what ends in
        pictures for three seeds and the rest for one.
    :param noises: levels of Gaussian noise to try beside the profiles, relative to the latents' deviation.
    :param leaked: most cases whose images an attacker got hold of.
    :param lengths: how much is attacked and how long attackers train; None takes what suits ``attacks``.
    :param unseen: whether the codec is known to be trained on nobody of the victims.
    :param surrogate: how long the attackers' own codec trains.
    """

    attacks: Attacks = "quick"
    profiles: tuple[Profile, ...] = PROFILES
    scope: Scope = "consortium"
    seed: int = 1
    noises: tuple[float, ...] = ()
    leaked: int = 20
    unseen: bool = False
    lengths: Lengths | None = None
    surrogate: FitConfig = field(default_factory=lambda: FitConfig(epochs=3, batch_size=8, minimum_steps=240))
    mapping: MappingConfig = field(default_factory=MappingConfig)
    membership: TrainingMembershipConfig = field(default_factory=TrainingMembershipConfig)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the site's keys and the attackers, where these end in pictures."""
        return (self.seed,) if self.attacks == "quick" else (self.seed, self.seed + 1, self.seed + 2)


@dataclass(frozen=True, eq=False)
class AuditEvent:
    """How far an audit is.

    :param text: what is done next, for people; no case's name.
    :param done, total: steps.
    :param report: with the last event only.
    """

    text: str
    done: int
    total: int
    report: AuditReport | None = None


def full_config(config: AuditConfig) -> AuditConfig:
    """The same as ``full``, with noise."""
    return replace(config, attacks="full", noises=NOISES)


def audit(
    subjects: Subjects,
    codec: Codec,
    config: AuditConfig,
    *,
    published: Codec | None = None,
    report: Report = ignore_report,
    kept: KeptSettings | None = None,
) -> Iterator[AuditEvent]:
    """Attack the site's own cases; see the module.

    :param codec: the site's; if it was trained on victims, that favors attackers, and the Dice.
    :param published: the codec for the published protocol; None takes ``codec``.
    :param report: told of every training.
    :param kept: the settings that are through, of an earlier check and of this one.
    :raises WriteError: if a setting cannot be kept.
    """
    run = _Audit(subjects, codec, config, published or codec, report, kept)
    steps = run.steps()
    for done, (text, work) in enumerate(steps):
        yield AuditEvent(text, done, len(steps))
        work()
    yield AuditEvent("The privacy check is done.", len(steps), len(steps), run.report())


class _Audit:
    """One audit's steps and what they found so far."""

    def __init__(
        self,
        subjects: Subjects,
        codec: Codec,
        config: AuditConfig,
        published: Codec,
        report: Report,
        kept: KeptSettings | None,
    ) -> None:
        self._started, self._kept = time.monotonic(), kept
        self._subjects, self._codec, self._config, self._progress = subjects, codec, config, report
        self._lengths = config.lengths or Lengths.of(config.attacks)
        self._settings = settings_of(
            codec, scope=config.scope, profiles=config.profiles, noises=config.noises, published=published
        )
        self._attempts: list[Attempt] = []
        self._findings: list[Finding] = []
        self._controls: list[Control] = []
        self._earlier_seconds = 0.0
        self._usefulness: dict[Profile, Usefulness] = {}
        self._bench: Bench | None = None
        self._seen_through = codec

    def steps(self) -> list[tuple[str, Callable[[], None]]]:
        """What is done, in order, with words for it."""
        steps: list[tuple[str, Callable[[], None]]] = []
        taken, known = 0, leaked_cases(self._subjects, self._config.leaked)
        for profile in self._config.profiles:
            steps.append((f"Segmenting with the profile {profile.value}", lambda p=profile: self._use(p)))  # type: ignore[misc]
        for setting in self._settings:
            if self._take(setting):
                taken += 1
                continue
            for attack in picture_attacks(self._config.attacks, setting, self._lengths, self._progress, known):
                text = f"{setting.name}: {attack.name}, {attack.title}"
                steps.append((text, lambda s=setting, a=attack: self._attempt(s, a)))  # type: ignore[misc]
            scores = scores_of(self._config.attacks, self._lengths, self._subjects.attributes, self._progress)
            for number, measure in scores:
                steps.append((f"{setting.name}: {number}", lambda s=setting, m=measure: self._score(s, m)))  # type: ignore[misc]
            if self._kept is not None:
                steps.append((f"{setting.name}: keeping what was found", partial(self._keep, setting, self._kept)))
        if self._config.attacks == "full":
            steps.append(("A10, membership in a training", self._membership))
        steps.append(("Checking the attacks themselves", self._check))
        goes_on = f"; {counted(taken, 'setting')} of an earlier check will not be tried again" if taken else ""
        return [(f"Training the attackers' own codec{goes_on}", self._prepare), *steps]

    def report(self) -> AuditReport:
        """Everything found."""
        bench, config, subjects = self._tools(), self._config, self._subjects
        profiles = [p for p in config.profiles if p in self._usefulness]
        networks = {s.profile: s for s in self._settings if s.name == f"{two_layers(s.profile)}; network"}
        parts = (subjects.victims, subjects.outside, subjects.collected)
        patients = (subjects.victim_patient, subjects.outside_patient, subjects.collected_patient)
        return AuditReport(
            findings=self._findings,
            profiles=[profile_row(p, self._usefulness[p], self._attempts, bench, self._codec.preset) for p in profiles],
            controls=self._controls,
            pictures=[row for p in profiles for row in picture_rows(p, networks[p], self._attempts, bench)],
            config={
                "task": self._codec.task.identity,
                "codec": self._codec.fingerprint,
                "attacks": config.attacks,
                "scope": config.scope,
                "seed": config.seed,
                "seeds": len(config.seeds),
                "cases": sum(part.cases for part in parts),
                "patients": sum(len(torch.unique(of)) for of in patients),
                "attacked": len(torch.unique(subjects.victim_patient)),
                "unseen": YES if config.unseen else NOT_KNOWN,
                "victims": subjects.victims.cases,
                "outside": subjects.outside.cases,
                "collected": subjects.collected.cases,
                "leaked": bench.known_cases,
                "slices": len(bench.truth),
                "device": self._codec.device.type,
                "threads": torch.get_num_threads(),
                "dice_alone": float(self._usefulness[profiles[0]].alone.nanmean()) if profiles else math.nan,
                **_spent(config, self._lengths),
            },
            versions={"ppcmi": __version__, "python": platform.python_version()}
            | {name: version(name) for name in LIBRARIES},
            seconds=self._seconds,
            claims_not_made=list(CLAIMS_NOT_MADE),
        )

    @property
    def _seconds(self) -> float:
        """Of this check so far, and of earlier ones that it went on from."""
        return time.monotonic() - self._started + self._earlier_seconds

    def _take(self, setting: Setting) -> bool:
        """Whether an earlier check was through with ``setting``; what it found counts as found."""
        found = self._kept.read(setting) if self._kept is not None else None
        if found is None:
            return False
        self._attempts += found.attempts
        self._findings += found.findings
        self._earlier_seconds = max(self._earlier_seconds, found.seconds)
        return True

    def _keep(self, setting: Setting, kept: KeptSettings) -> None:
        attempts = [attempt for attempt in self._attempts if attempt.setting is setting]
        of_attempts = {id(finding) for attempt in attempts for finding in attempt.findings}
        scores = [f for f in self._findings if f.setting == setting.name and id(f) not in of_attempts]
        kept.keep(setting, SettingResult(attempts, scores, self._seconds))

    def _prepare(self) -> None:
        config, codec = self._config, self._codec
        made = train_surrogates(self._subjects.outside, codec, config.surrogate, config.seed, self._progress)
        small = attacked(self._subjects, self._lengths)
        self._bench = Bench(small, made.alike, config.seeds, config.leaked, slices_to_show(small.victims))
        # A minimized codec may show no more than a guess: whether the attacks can see must be asked of another.
        self._seen_through = made.keeps_images if codec.preset == "minimized" else codec

    def _use(self, profile: Profile) -> None:
        config, subjects = self._config, self._subjects
        mapper = train_mapper(
            self._codec, subjects.collected, profile, config.seed, self._progress, config=config.mapping
        )
        self._usefulness[profile] = measure_usefulness(self._codec, mapper, subjects.victims, profile)

    def _attempt(self, setting: Setting, attack: ReconstructionAttack) -> None:
        attempt = self._tools().attempt(setting, attack)
        if attempt is not None:
            self._attempts.append(attempt)
            self._findings += attempt.findings

    def _score(self, setting: Setting, measure: Score) -> None:
        bench = self._tools()
        for (knowledge, _), seed in zip(bench.scene(setting), bench.seeds[:1], strict=False):
            self._findings += measure(setting, bench.subjects, knowledge, seed)

    def _membership(self) -> None:
        subjects, config = self._tools().subjects, self._config
        profile = Profile.COARSE if Profile.COARSE in config.profiles else config.profiles[-1]
        cases = join(subjects.victims, subjects.collected)
        patient = torch.cat((subjects.victim_patient, subjects.collected_patient))
        findings, gates = check_membership(
            self._codec, cases, patient, profile, config.seed, config.membership, self._progress
        )
        self._findings += findings
        self._controls += gates

    def _check(self) -> None:
        self._controls += check_suite(self._tools(), self._seen_through)
        if self._config.attacks == "full":
            effort = Effort(self._lengths.decoder, self._lengths.rehearsal, self._progress)
            self._controls.append(check_learning(self._tools(), self._seen_through, effort))

    def _tools(self) -> Bench:
        if self._bench is None:
            raise RuntimeError("the first step makes what the others need")
        return self._bench


def _spent(config: AuditConfig, lengths: Lengths) -> dict[str, int]:
    """How much the attackers could spend, for the report."""
    quick = {"most slices attacked": lengths.victims, "most slices of the attackers' own": lengths.others}
    if config.attacks == "quick":
        return quick
    return quick | {
        "updates of a decoder": lengths.decoder.steps,
        "slices of a decoder's update": lengths.decoder.batch_size,
        "shadow networks": config.membership.membership.shadows,
    }


def attacked(subjects: Subjects, lengths: Lengths) -> Subjects:
    """The same cases with fewer slices of each."""

    def fewer(cases: SliceSet, slices: int) -> SliceSet:
        return thin(cases, max(1, slices // cases.cases))

    return replace(
        subjects,
        victims=fewer(subjects.victims, lengths.victims),
        outside=fewer(subjects.outside, lengths.others),
        collected=fewer(subjects.collected, lengths.others),
    )

"""Run attacks that end in pictures, and score the pictures slice by slice against the truth."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ppcmi.audit.attacker import Finding, Knowledge, ReconstructionAttack, Seen
from ppcmi.audit.metrics import interval, mean_picture, middle, picture_scores
from ppcmi.audit.setting import Setting
from ppcmi.audit.settings import knowledge_of, leaked_cases
from ppcmi.audit.subjects import Subjects
from ppcmi.codec.codec import Codec
from ppcmi.latents import Latents


@dataclass(frozen=True, eq=False)
class Attempt:
    """What one attack made in one setting.

    :param pictures: ``(shown, h, w)`` of the slices to show, of the first seed.
    :param findings: one for each measure, over all seeds.
    """

    attack: str
    title: str
    setting: Setting
    pictures: Tensor
    findings: list[Finding]

    @property
    def words(self) -> str:
        """Number and title."""
        return f"{self.attack}: {self.title}"

    def finding(self, measure: str) -> Finding:
        """The finding of that measure."""
        return next(finding for finding in self.findings if finding.measure == measure)


class Bench:
    """The victims, the attackers' surrogate and the guess that needs no attack, made once for all attempts.

    :param seeds: each has site keys and an attacker's randomness of its own; scores are means over them.
    :param leaked: most cases whose images an attacker got hold of.
    :param shown: indices of the victims' slices whose pictures are kept.
    """

    def __init__(
        self, subjects: Subjects, surrogate: Codec, seeds: Sequence[int], leaked: int, shown: Tensor | None = None
    ) -> None:
        self.subjects, self.surrogate, self.seeds, self._leaked = subjects, surrogate, tuple(seeds), leaked
        self.shown = torch.zeros(0, dtype=torch.int64) if shown is None else shown
        self.truth = middle(subjects.victims.slices)
        self.guess = mean_picture(subjects.outside.slices)
        guesses = picture_scores(self.guess.expand_as(self.truth), self.truth)
        self.chance = {name: float(values.mean()) for name, values in guesses.items()}
        self._scene: tuple[Setting, list[tuple[Knowledge, Seen]]] | None = None
        self._encoded: dict[tuple[int, int], tuple[Codec, Tensor, Latents]] = {}

    @property
    def known_cases(self) -> int:
        """Cases with known images that an attacker has."""
        return leaked_cases(self.subjects, self._leaked)

    def attempt(self, setting: Setting, attack: ReconstructionAttack) -> Attempt | None:
        """Learn and reconstruct, with every seed; None if the attack cannot be tried in this setting."""
        started, scores, shown = time.monotonic(), [], []
        for knowledge, seen in self.scene(setting):
            if attack.obstacle(knowledge) is not None:
                return None
            pictures = attack.learn(knowledge)(seen)
            shown.append(pictures[self.shown])
            scores.append(picture_scores(pictures, self.truth))
        seconds = time.monotonic() - started
        patient = self.subjects.slice_patient
        means = {name: torch.stack([one[name] for one in scores]).mean(dim=0) for name in scores[0]}
        findings = [
            Finding(
                attack.name, attack.title, setting.name, name, *interval(values, patient, self.seeds[0]),
                self.chance[name], seconds,
            )
            for name, values in means.items()
        ]  # fmt: skip
        return Attempt(attack.name, attack.title, setting, shown[0], findings)

    def scene(self, setting: Setting) -> list[tuple[Knowledge, Seen]]:
        """For every seed what the attacker knows and what it sees of the victims; the last setting's are kept."""
        if self._scene is None or self._scene[0] is not setting:
            victims = self.subjects.victims
            looks = [
                (
                    knowledge_of(setting, self.subjects, self.surrogate, seed, self._leaked, self._encode),
                    setting.look(victims.slices, victims.case, site_keys=seed, encode=self._encode),
                )
                for seed in self.seeds
            ]
            self._scene = (setting, looks)
        return self._scene[1]

    def _encode(self, codec: Codec, slices: Tensor) -> Latents:
        """Latents of the same slices are the same in every setting: encoded once. The key's objects are kept alive."""
        key = (id(codec), id(slices))
        if key not in self._encoded:
            self._encoded[key] = (codec, slices, codec.encode_images(slices).to("cpu"))
        return self._encoded[key][2]

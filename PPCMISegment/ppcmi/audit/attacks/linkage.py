"""A9, linkage: whether two cases that a site sent are of one patient, or of one image, without ever seeing either.

The gallery is all that the site sent. Queries are cases of a patient who has another case in it, and images that are
sent once more: brighter by a tenth, three pixels aside, with fresh noise. Features need no training here (raw latents,
canonical maps, maps of norms; cosine); :mod:`~ppcmi.audit.attacks.matcher` trains some.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ppcmi.audit.attacker import Finding, Knowledge, Seen
from ppcmi.audit.attacks.case_features import UNTRAINED, case_features, evenly_thinned
from ppcmi.audit.attacks.comparison import Comparison, chances_of, scores_of
from ppcmi.audit.setting import Setting
from ppcmi.audit.subjects import Subjects
from ppcmi.codec.slice_set import SliceSet, join

ATTACK = "A9"
GAIN = 1.1
SHIFT_PIXELS = 3
NOISE = 0.02
REPEATS, RESENT = "other cases of the patient", "images sent once more"


@dataclass(frozen=True, eq=False)
class SentCases:
    """All that the site sent, as the observer sees it, with some of it sent again.

    :param seen: the gallery's cases, then the victims' sent once more, numbered on.
    :param patient: ``(gallery,)`` int64.
    :param victims: the first so many of the gallery's cases are those sent again.
    """

    seen: Seen
    patient: Tensor
    victims: int

    @property
    def gallery(self) -> int:
        """How many cases the gallery has."""
        return len(self.patient)


def cases_sent(setting: Setting, subjects: Subjects, seed: int) -> SentCases:
    """Everything under one site's keys."""
    gallery = evenly_thinned(subjects.victims, subjects.collected)
    again = sent_again(gallery.of_cases(range(subjects.victims.cases)), torch.Generator().manual_seed(seed))
    both = join(gallery, again)
    patient = torch.cat((subjects.victim_patient, subjects.collected_patient))
    return SentCases(setting.look(both.slices, both.case, site_keys=seed), patient, subjects.victims.cases)


def sent_again(cases: SliceSet, generator: torch.Generator) -> SliceSet:
    """The same images as another machine would send them: +10 % gain, three pixels aside, with noise."""
    moved = cases.slices.roll((SHIFT_PIXELS, SHIFT_PIXELS), dims=(2, 3))
    noise = NOISE * torch.randn(moved.shape, generator=generator)
    return SliceSet((GAIN * moved + noise).clamp(0, 1), cases.labels, cases.case)


def comparisons(features: Tensor, sent: SentCases) -> Iterator[tuple[str, Comparison]]:
    """Each kind of query with its scores; repeats only if a patient has any.

    :param features: unit vectors ``(gallery + victims, d)`` of ``sent.seen``'s cases.
    """
    gallery = features[: sent.gallery]
    same = sent.patient[:, None] == sent.patient[None]
    itself = torch.eye(sent.gallery, dtype=torch.bool)
    asked = torch.nonzero((same & ~itself).any(dim=1))[:, 0]
    if len(asked):
        yield REPEATS, Comparison((gallery @ gallery.T)[asked], same[asked], ~itself[asked], sent.patient[asked])
    first = slice(0, sent.victims)
    # Other cases of the patient are neither right nor wrong.
    counted = itself[first] | ~same[first]
    yield RESENT, Comparison(features[sent.gallery :] @ gallery.T, itself[first], counted, sent.patient[first])


def measure_linkage(setting: Setting, subjects: Subjects, knowledge: Knowledge, seed: int) -> list[Finding]:
    """Linkage by features that need no training; ``knowledge`` is not needed for them."""
    started = time.monotonic()
    sent = cases_sent(setting, subjects, seed)
    features = {name: case_features(sent.seen, maps) for name, maps in UNTRAINED.items()}
    return linkage_findings(setting, features, sent, seed, (time.monotonic() - started) / len(features))


def linkage_findings(
    setting: Setting, features: Mapping[str, Tensor], sent: SentCases, seed: int, seconds: float
) -> list[Finding]:
    """All measures of both kinds of query.

    :param features: of all cases, by what they are.
    :param seconds: that each took.
    """
    findings, chances = [], dict[str, dict[str, float]]()
    for words, values in features.items():
        for kind, comparison in comparisons(values, sent):
            if kind not in chances:
                chances[kind] = chances_of(comparison, seed)
            note = f"{len(comparison.scores)} asked, {sent.gallery} in the gallery"
            findings += [
                Finding(
                    ATTACK, f"{kind}, by {words}", setting.name, score.measure, score.value, score.low, score.high,
                    score.chance, seconds, score.note or note,
                )
                for score in scores_of(comparison, chances[kind], seed)
            ]  # fmt: skip
    return findings

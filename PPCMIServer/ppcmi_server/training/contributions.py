"""What each site's data would do to a model: found before a training, kept in its report, never acted on.

A site is suspect if

- its masks follow from its images by no linear map: not by one fitted on the other sites, nor on its own other cases,
  nor on both, while at other sites they do. So it is with labels that belong to other slices, or are made up;
- its masks follow as well from the images of another of its cases, at the same relative place, as from their own, which
  they do not at other sites: labels that belong to other cases;
- its masks contradict every other site's, while some of these agree with each other: labels that are displaced or
  swapped. Where scanners are so unlike that no two sites agree, nothing is concluded;
- its latents are out of all proportion, or many of its cases are copies;
- its latents hold what is no number, or how its masks follow from its images cannot be found.

Sites are told from each other by medians over their cases, so a bad case does not condemn a site. An operator decides
what follows: excludes a cohort, lowers a weight, asks the site.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ppcmi_server.training.predictability import Skills, sample_positions, skills_of_sites
from ppcmi_server.training.training_data import SliceFacts, copies_of_cases, strength, usual_strength
from ppcmi_server.umn.dataset import LatentDataset

NO_SKILL = 0.1
"""Median skill below which masks do not follow from images."""
SOME_SKILL = 0.25
"""Median skill of other sites from which a lack of it says something."""
WRONG_SKILL = -0.1
"""Median skill of what another site taught, below which the two contradict each other."""
NO_GAIN, SOME_GAIN = 0.03, 0.1
"""The same of the gain from a case's own images."""
OUT_OF_PROPORTION = 9.0
"""Of mean squares: three times as large, or small."""
COPIED_SHARE = 0.2
FEWEST_CASES = 8
"""Below which a site's own cases do not show what follows from what."""


@dataclass(frozen=True)
class SiteReport:
    """One site in a training.

    :param slices: as they are, without variants.
    :param weight: how much each counted.
    :param validation_loss: mean squared error of the model on the site's held-out cases.
    :param without: mean squared error, relative to that of the site's own mean, of a linear map that was fitted without
        the site: below 1 it agrees with the others, above 1 it contradicts them.
    """

    site: str
    slices: int
    weight: float
    validation_loss: float | None
    without: float | None
    verdict: Literal["fine", "suspect"]
    reason: str | None


@dataclass(frozen=True)
class Report:
    """All sites of a training, and sentences on what happened in it."""

    sites: tuple[SiteReport, ...]
    text: tuple[str, ...] = ()

    @property
    def suspects(self) -> list[SiteReport]:
        """Sites to look at."""
        return [site for site in self.sites if site.verdict == "suspect"]

    def with_losses(self, by_site: Mapping[str, float]) -> Report:
        """With the model's losses on the sites' held-out cases."""
        return replace(self, sites=tuple(replace(site, validation_loss=by_site.get(site.site)) for site in self.sites))

    def saying(self, sentence: str) -> Report:
        """With one more sentence."""
        return replace(self, text=(*self.text, sentence))

    def to_json(self) -> dict[str, Any]:
        """As ``jobs.report`` has it; None for what is not finite, which JSON does not know."""
        return {
            "sites": [{name: _known(value) for name, value in asdict(site).items()} for site in self.sites],
            "text": list(self.text),
        }


def examine(dataset: LatentDataset, facts: SliceFacts, weights: Mapping[str, float]) -> Report:
    """What the data say of each site, before any training; takes seconds."""
    skills = skills_of_sites(sample_positions(dataset))
    reports = []
    for site in torch.unique(dataset.site[dataset.variant == 0]).tolist():
        own = (dataset.site == site) & (dataset.variant == 0)
        reason = _number_reason(facts, dataset.site == site) or _reason(dataset, facts, skills, site)
        elsewhere = skills[site].others if site in skills else None
        name = dataset.sites[site]
        reports.append(
            SiteReport(
                name, int(own.sum()), weights.get(name, 1.0), None,
                None if elsewhere is None else _known(round(1 - float(elsewhere.median()), 4)),
                "fine" if reason is None else "suspect", reason,
            )
        )  # fmt: skip
    return Report(tuple(reports), tuple(_sentences(reports, len(reports))))


def _known(value: Any) -> Any:
    """The value, or None where it is a number that is not finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number_reason(facts: SliceFacts, own: Tensor) -> str | None:
    broken = ~torch.isfinite(facts.image_power[own]) | ~torch.isfinite(facts.mask_power[own])
    return f"{int(broken.sum())} of its slices hold values that are not numbers" if bool(broken.any()) else None


def _reason(dataset: LatentDataset, facts: SliceFacts, skills: Mapping[int, Skills], site: int) -> str | None:
    """The first thing that speaks against a site whose latents are numbers."""
    others = [one for one in sorted(skills) if one != site]
    reasons = (
        _strength_reason(dataset, facts, site),
        _copies_reason(dataset, facts, (dataset.site == site) & (dataset.variant == 0)),
        _skill_reason(skills, site, others),
        _gain_reason(skills, site, others),
        _contradiction_reason(skills, site, others),
    )
    return next((found for found in reasons if found is not None), None)


def _strength_reason(dataset: LatentDataset, facts: SliceFacts, site: int) -> str | None:
    own = dataset.site == site
    for power, what in ((facts.image_power, "image"), (facts.mask_power, "mask")):
        found = strength(power[own])
        usual = usual_strength(dataset, power) if len(dataset.sites) > 1 else 1.0  # standardized latents are about 1
        if usual > 0 and found > OUT_OF_PROPORTION * usual:
            return f"its {what} latents are {(found / usual) ** 0.5:.0f} times as large as usual"
        if usual > 0 and found < usual / OUT_OF_PROPORTION:
            return f"its {what} latents are far smaller than usual"
    return None


def _copies_reason(dataset: LatentDataset, facts: SliceFacts, own: Tensor) -> str | None:
    cases = torch.unique(dataset.case[own]).tolist()
    counts = copies_of_cases(dataset, facts)
    copied = sum(counts[case] > 1 for case in cases)
    if copied > COPIED_SHARE * len(cases):
        return f"{copied} of its {len(cases)} cases have the same content as another case"
    return None


def _skill_reason(skills: Mapping[int, Skills], site: int, others: Sequence[int]) -> str | None:
    """Its masks do not follow from its images, whatever map is tried."""
    if not skills[site].finite:
        return "how its masks follow from its images cannot be reckoned"
    if skills[site].best >= NO_SKILL:
        return None
    elsewhere = max((skills[one].best for one in others if skills[one].cases >= FEWEST_CASES), default=0.0)
    enough_of_its_own = skills[site].cases >= FEWEST_CASES and (not others or elsewhere >= SOME_SKILL)
    if not enough_of_its_own and not _some_agree(skills, others):
        return None
    return "its masks do not follow from its images, as if they belonged to other slices"


def _gain_reason(skills: Mapping[int, Skills], site: int, others: Sequence[int]) -> str | None:
    """Its masks follow no better from their own images than from another case's."""
    gain = skills[site].gain
    if gain is None or len(gain) < FEWEST_CASES or float(gain.median()) >= NO_GAIN:
        return None
    elsewhere = [found for one in others if (found := skills[one].gain) is not None and len(found) >= FEWEST_CASES]
    if not any(float(found.median()) >= SOME_GAIN for found in elsewhere):
        return None
    return "its masks follow as well from the images of others of its cases, as if they belonged to those"


def _contradiction_reason(skills: Mapping[int, Skills], site: int, others: Sequence[int]) -> str | None:
    """Its masks are otherwise than every other site's, of which some agree with each other."""
    from_one = [float(skill.median()) for skill in skills[site].by_site.values()]
    if len(from_one) < 2 or max(from_one) >= WRONG_SKILL or not _some_agree(skills, others):
        return None
    return "its masks say something else of its images than any other site's would"


def _some_agree(skills: Mapping[int, Skills], sites: Sequence[int]) -> bool:
    """Whether what one of these sites taught serves another one well, and the other way round."""
    return any(
        min(float(skills[one].by_site[other].median()), float(skills[other].by_site[one].median())) >= SOME_SKILL
        for one in sites
        for other in sites
        if one < other and other in skills[one].by_site and one in skills[other].by_site
    )


def _sentences(reports: Sequence[SiteReport], sites: int) -> list[str]:
    suspects = sum(report.verdict == "suspect" for report in reports)
    if suspects:
        return [
            f"{suspects} of {sites} sites are suspect: look at their cohorts, exclude what is wrong, and train anew."
        ]
    if sites < 3:
        return ["With fewer than three sites, labels that are wrong in the same way throughout a site are not found."]
    return []

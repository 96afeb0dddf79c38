"""What each site's data would do to a model: found before a training, kept in its report, never acted on.

A site is suspect if

- its masks follow from its images by no map: not by one fitted on the other sites, nor on its own other cases, nor on
  both, while the other sites' do. So it is with labels that belong to other slices or cases, or are made up;
- they follow from its images, but otherwise than at all the other sites, which agree with each other on images like
  these: labels that are swapped or displaced. An honest site with another scanner is not like that: its images differ;
- its latents are out of all proportion, or many of its cases are copies.

Sites are told from each other by medians over their cases, so a bad case does not condemn a site. An operator decides
what follows: excludes a cohort, lowers a weight, asks the site.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ppcmi_server.predictability import Positions, Skills, sample_positions, skills_of
from ppcmi_server.training_data import SliceFacts, copies_of_cases, usual_strength
from ppcmi_server.umn.dataset import LatentDataset

NO_SKILL = 0.1
"""Median skill below which masks do not follow from images."""
SOME_SKILL = 0.25
"""Median skill of other sites from which a lack of it says something."""
WRONG_SKILL = -0.1
"""Median skill, at a site, of what the others taught, below which it contradicts them."""
LARGE_IMAGE_SHIFT = 1.0
"""Distance of mean image latents between sites, in standard deviations within one, that explains a contradiction."""
OUT_OF_PROPORTION = 9.0
"""Of mean squares: three times as large, or small."""
COPIED_SHARE = 0.2
FEWEST_CASES = 2


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
        """As ``jobs.report`` has it."""
        return {"sites": [asdict(site) for site in self.sites], "text": list(self.text)}


def examine(dataset: LatentDataset, facts: SliceFacts, weights: Mapping[str, float]) -> Report:
    """What the data say of each site, before any training; takes seconds."""
    positions = sample_positions(dataset)
    present = torch.unique(dataset.site).tolist()
    skills = {site: skills_of(positions, site) for site in present}
    reports = []
    for site in present:
        own = (dataset.site == site) & (dataset.variant == 0)
        others = [one for one in present if one != site]
        reasons = (
            _strength_reason(dataset, facts, site),
            _copies_reason(dataset, facts, own),
            _skill_reason(skills, site, others),
            _contradiction_reason(positions, skills, site, others),
        )
        reason = next((found for found in reasons if found is not None), None)
        elsewhere = skills[site].others
        name = dataset.sites[site]
        reports.append(
            SiteReport(
                name, int(own.sum()), weights.get(name, 1.0), None,
                None if elsewhere is None else round(1 - float(elsewhere.median()), 4),
                "fine" if reason is None else "suspect", reason,
            )
        )  # fmt: skip
    return Report(tuple(reports), tuple(_sentences(reports, len(present))))


def _strength_reason(dataset: LatentDataset, facts: SliceFacts, site: int) -> str | None:
    own = dataset.site == site
    for power, what in ((facts.image_power, "image"), (facts.mask_power, "mask")):
        strength = float(torch.quantile(power[own].double(), 0.95))
        usual = usual_strength(dataset, power) if len(dataset.sites) > 1 else 1.0  # standardized latents are about 1
        if usual > 0 and strength > OUT_OF_PROPORTION * usual:
            return f"its {what} latents are {(strength / usual) ** 0.5:.0f} times as large as usual"
        if usual > 0 and strength < usual / OUT_OF_PROPORTION:
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
    best = skills[site].best
    if len(best) < FEWEST_CASES or float(best.median()) >= NO_SKILL:
        return None
    reference = _median(float(skills[one].best.median()) for one in others if len(skills[one].best))
    if others and reference < SOME_SKILL:
        return None  # these latents do not show it at any site
    return "its masks do not follow from its images, as if they belonged to other slices or cases"


def _contradiction_reason(
    positions: Positions, skills: Mapping[int, Skills], site: int, others: Sequence[int]
) -> str | None:
    """Its masks follow from its images, but not as at the other sites, which agree and have images like its own."""
    elsewhere, own = skills[site].others, skills[site].own
    if elsewhere is None or own is None or len(others) < 2 or float(elsewhere.median()) >= WRONG_SKILL:
        return None
    if _image_shift(positions, site) > LARGE_IMAGE_SHIFT or float(own.median()) < NO_SKILL:
        return None
    agree = [float(skills[one].best.median()) for one in others]
    if min(agree) < SOME_SKILL:
        return None
    return "its masks say something else than the other sites' masks do of images like its own"


def _image_shift(positions: Positions, site: int) -> float:
    """How far a site's mean image latents are from the other sites', in standard deviations of those."""
    own = positions.site == site
    mine, theirs = positions.images[own].mean(dim=(0, 1)), positions.images[~own]
    spread = theirs.std(dim=(0, 1)).square().sum().sqrt().clamp_min(1e-6)
    return float((mine - theirs.mean(dim=(0, 1))).norm() / spread)


def _sentences(reports: Sequence[SiteReport], sites: int) -> list[str]:
    suspects = sum(report.verdict == "suspect" for report in reports)
    if suspects:
        return [
            f"{suspects} of {sites} sites are suspect: look at their cohorts, exclude what is wrong, and train anew."
        ]
    if sites < 3:
        return ["With fewer than three sites, labels that are wrong in the same way throughout a site are not found."]
    return []


def _median(values: Iterable[float]) -> float:
    found = list(values)
    return float(torch.tensor(found).median()) if found else 0.0

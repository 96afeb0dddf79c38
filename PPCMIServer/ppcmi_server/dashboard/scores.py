"""What the sites say of a model, beside what each reaches alone: the numbers that an operator activates on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ppcmi_server import models
from ppcmi_server.database.schema import Member, Model, Site

WORSE = 0.005
"""A mean Dice that is lower by more than this is worth a warning; less is noise of a handful of cases."""


@dataclass(frozen=True)
class LabelScore:
    """One label's means over a site's held-out cases, with the model and with the site's own decoder alone."""

    label: str
    dice: float | None
    alone_dice: float | None
    hd95_mm: float | None
    alone_hd95_mm: float | None

    @property
    def dice_gain(self) -> float | None:
        """How much better than alone; negative if worse."""
        return _minus(self.dice, self.alone_dice)

    @property
    def hd95_gain_mm(self) -> float | None:
        """How much farther than alone; negative if nearer, which is better."""
        return _minus(self.hd95_mm, self.alone_hd95_mm)


@dataclass(frozen=True)
class SiteScores:
    """A site's newest scores of a model."""

    site: Site
    created: str
    cases: int
    labels: tuple[LabelScore, ...]

    @property
    def mean(self) -> LabelScore:
        """Means over the labels."""
        return LabelScore("Mean", *(_mean(self.labels, part) for part in _PARTS))

    @property
    def is_worse(self) -> bool:
        """Whether the site does worse with the model than alone."""
        gain = self.mean.dice_gain
        return gain is not None and gain < -WORSE


@dataclass(frozen=True)
class Validated:
    """A model with every site's scores, and the members that sent none."""

    model: Model
    scores: tuple[SiteScores, ...]
    missing: tuple[Site, ...]

    @property
    def mean_dice(self) -> float | None:
        """Mean over sites of their mean Dice."""
        found = [site.mean.dice for site in self.scores if site.mean.dice is not None]
        return fmean(found) if found else None

    @property
    def warnings(self) -> list[str]:
        """What speaks against activating it."""
        found = [
            f"{part.site.name} does worse with it than alone: mean Dice {part.mean.dice:.3f} against "
            f"{part.mean.alone_dice:.3f}."
            for part in self.scores
            if part.is_worse
        ]
        if self.missing:
            found.append(f"Not validated yet by: {', '.join(site.name for site in self.missing)}.")
        if self.model.withdrawn_data:
            found.append("A site took back data that it was trained on; train anew rather than activate it.")
        return found


_PARTS = ("dice", "alone_dice", "hd95_mm", "alone_hd95_mm")


def validated(session: Session, model: Model) -> Validated:
    """A model with what the sites say of it."""
    (found,) = all_validated(session, [model])
    return found


def all_validated(session: Session, found: Sequence[Model]) -> list[Validated]:
    """Models of one task, each with what the sites say of it."""
    if not found:
        return []
    members = session.scalars(
        select(Site)
        .join(Member, Member.site_id == Site.id)
        .where(Member.task_id == found[0].task_id, Site.revoked.is_(None))
        .order_by(Site.name)
    ).all()
    return [_validated(session, model, members) for model in found]


def _validated(session: Session, model: Model, members: Sequence[Site]) -> Validated:
    scores = [
        SiteScores(site, validation.created, int(validation.numbers.get("cases", 0)), _labels(validation.numbers))
        for validation, site in models.validations(session, model)
    ]
    have = {part.site.id for part in scores}
    return Validated(
        model,
        tuple(sorted(scores, key=lambda part: part.site.name)),
        tuple(site for site in members if site.id not in have),
    )


def _labels(numbers: Mapping[str, Any]) -> tuple[LabelScore, ...]:
    together, alone = numbers.get("labels", {}), numbers.get("alone", {})
    return tuple(
        LabelScore(
            label,
            together.get(label, {}).get("dice"),
            alone.get(label, {}).get("dice"),
            together.get(label, {}).get("hd95_mm"),
            alone.get(label, {}).get("hd95_mm"),
        )
        for label in dict.fromkeys([*together, *alone])
    )


def _mean(labels: Sequence[LabelScore], part: str) -> float | None:
    found = [value for label in labels if (value := getattr(label, part)) is not None]
    return fmean(found) if found else None


def _minus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other

"""A10 in a privacy check: who was a server's network trained on? Small stand-ins for it are trained and attacked.

The gates of the attack come back as controls: without a model it must not be above chance, an overfitted one must be
caught. They guard the numbers of A10 alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ppcmi.audit.attacker import Finding
from ppcmi.audit.attacks.membership import (
    ATTACK,
    LIRA,
    OVERFITTED,
    WITHOUT_MODEL,
    MembershipConfig,
    measure_membership,
    records_of,
)
from ppcmi.audit.document import Control
from ppcmi.audit.mapping import MapLatents, fit_stand_in
from ppcmi.codec.codec import Codec
from ppcmi.codec.slice_set import SliceSet
from ppcmi.fitting import FitConfig, Report, ignore_report
from ppcmi.scales import Profile

SETTING = "a mapping network, {profile}"
CAUGHT = 0.7
"""AUC from which an overfitted model counts as caught."""

OVERFITTING = 8
"""How many times as long an overfitted model trains."""

FEWEST_PATIENTS = 8
"""With fewer there are too few halves for shadows to differ in."""

MODELS_A_SEED = 10_000
"""More than are trained in a check, so that no two have a seed in common."""

VOID = "a gate did not hold: this number says nothing"


@dataclass(frozen=True)
class TrainingMembershipConfig:
    """How much is spent.

    :param fit: training of each stand-in.
    """

    membership: MembershipConfig = field(default_factory=MembershipConfig)
    fit: FitConfig = field(default_factory=lambda: FitConfig(epochs=6, minimum_steps=120))


def check_membership(
    codec: Codec,
    cases: SliceSet,
    case_patient: Tensor,
    profile: Profile,
    seed: int,
    config: TrainingMembershipConfig,
    report: Report = ignore_report,
) -> tuple[list[Finding], list[Control]]:
    """Attack stand-ins that are trained on random halves of the patients of ``cases``; not with too few of them.

    :raises CancelledError: from ``report``.
    """
    name = SETTING.format(profile=profile.value)
    patients = len(torch.unique(case_patient))
    if patients < FEWEST_PATIENTS:
        note = f"not measurable: {patients} patients, {FEWEST_PATIENTS} are needed"
        return [Finding(ATTACK, LIRA, name, "AUC", math.nan, 0.0, 1.0, 0.5, 0.0, note)], []
    records = records_of(codec, cases, case_patient, profile)

    def train(patients: Tensor, model: int, fit: FitConfig = config.fit) -> MapLatents:
        index = torch.nonzero(torch.isin(records.patient, patients))[:, 0]
        images, masks = records.images.select(index), records.masks.select(index)
        return fit_stand_in(images, masks, fit, seed * MODELS_A_SEED + model, report, device=codec.device)

    def overfit(patients: Tensor, model: int) -> MapLatents:
        return train(patients, model, replace(config.fit.scaled(OVERFITTING), weight_decay=0.0))

    return judged(measure_membership(train, records, config.membership, seed, overfit=overfit, setting=name))


def judged(findings: list[Finding]) -> tuple[list[Finding], list[Control]]:
    """The findings, with a note that they say nothing where a gate did not hold, and the gates."""
    controls = gates(findings)
    if all(control.holds for control in controls):
        return findings, controls
    return [
        replace(finding, note=f"{VOID}; {finding.note}" if finding.note else VOID) for finding in findings
    ], controls


def gates(findings: list[Finding]) -> list[Control]:
    """Controls of what the attack says of itself."""
    controls = []
    for finding in findings:
        if finding.title == WITHOUT_MODEL:
            expected = "Members and others cannot be told apart without a model (AUC, its interval is not above 0.5)."
            holds = finding.low <= 0.5
            controls.append(Control("members alike", expected, finding.value, holds, ATTACK))
        elif finding.title == OVERFITTED:
            expected = f"A model that was made to overfit gives its members away (AUC, at least {CAUGHT})."
            controls.append(Control("overfitted model", expected, finding.value, finding.value >= CAUGHT, ATTACK))
    return controls

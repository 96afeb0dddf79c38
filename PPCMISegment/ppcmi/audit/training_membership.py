"""A10 in a privacy check: who was a server's network trained on? Small stand-ins for it are trained and attacked.

The gates of the attack come back as controls: without a model it must be at chance, an overfitted one must be caught.
They guard the numbers of A10 alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ppcmi.audit.attacker import Finding
from ppcmi.audit.attacks.membership import (
    ATTACK,
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
    """Attack stand-ins that are trained on random halves of the patients of ``cases``.

    :raises CancelledError: from ``report``.
    """
    records = records_of(codec, cases, case_patient, profile)

    def train(patients: Tensor, fit: FitConfig = config.fit) -> MapLatents:
        index = torch.nonzero(torch.isin(records.patient, patients))[:, 0]
        images, masks = records.images.select(index), records.masks.select(index)
        return fit_stand_in(images, masks, fit, seed + int(patients.sum()), report, device=codec.device)

    def overfit(patients: Tensor) -> MapLatents:
        return train(patients, replace(config.fit.scaled(OVERFITTING), weight_decay=0.0))

    name = SETTING.format(profile=profile.value)
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
            expected = "Members and others cannot be told apart without a model (AUC, its interval holds 0.5)."
            holds = finding.low <= 0.5 <= finding.high
            controls.append(Control("members alike", expected, finding.value, holds, ATTACK))
        elif finding.title == OVERFITTED:
            expected = f"A model that was made to overfit gives its members away (AUC, at least {CAUGHT})."
            controls.append(Control("overfitted model", expected, finding.value, finding.value >= CAUGHT, ATTACK))
    return controls

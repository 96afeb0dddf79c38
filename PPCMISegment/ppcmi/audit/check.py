"""From a report of the audit to the numbers that a site keeps of it."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import fields

from ppcmi.audit.attacks.comparison import TOP_1
from ppcmi.audit.attacks.linkage import ATTACK as LINKAGE
from ppcmi.audit.attacks.linkage import REPEATS, RESENT
from ppcmi.audit.attacks.structure import ATTACK as STRUCTURE
from ppcmi.audit.attacks.structure import MATCHED_RIGHTLY, MATCHING
from ppcmi.audit.document import AuditReport, ProfileRow
from ppcmi.audit.metrics import SSIM
from ppcmi.audit.settings import NO_PROTECTION, server_settings
from ppcmi.audit.wording import YES
from ppcmi.privacy_check import BrokenControl, CheckedProfile, PrivacyCheck, codec_digest
from ppcmi.scales import Profile
from ppcmi.task_profile import TaskProfile


def check_of(
    report: AuditReport, part: TaskProfile, attacks: str, cases: int, patients: int, seed: int
) -> PrivacyCheck:
    """What is kept of a report: numbers of pictures and Dice, no picture, of membership only which controls broke."""
    return PrivacyCheck(
        time=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        task=part.task.identity,
        codec=codec_digest(part),
        scope=part.membership.scope,
        attacks=attacks,
        cases=cases,
        patients=patients,
        attacked=int(report.config["attacked"]),
        unseen=report.config["unseen"] == YES,
        seed=seed,
        seconds=report.seconds,
        controls_hold=not report.broken_controls(),
        profiles=tuple(checked_profile(row, report) for row in report.profiles),
        broken_controls=broken_controls(report),
        could_not_see=could_not_see(report),
        dice_alone=dice_alone(report),
    )


def dice_alone(report: AuditReport) -> float | None:
    """What the codec's own network reaches, for which nothing leaves; None where it was not measured."""
    value = report.config.get("dice_alone")
    return value if isinstance(value, float) and math.isfinite(value) else None


def checked_profile(row: ProfileRow, report: AuditReport) -> CheckedProfile:
    """A profile's row as it is kept: some of its columns, and how often the server recognizes what comes again."""
    kept = {field.name: getattr(row, field.name) for field in fields(CheckedProfile) if hasattr(row, field.name)}
    image, image_guess = _first_guess(row, report, LINKAGE, RESENT, TOP_1)
    patient, patient_guess = _first_guess(row, report, LINKAGE, REPEATS, TOP_1)
    matched, matched_guess = _first_guess(row, report, STRUCTURE, MATCHING, MATCHED_RIGHTLY)
    return CheckedProfile(
        **kept,
        image_again=image, image_again_guess=image_guess, patient_again=patient, patient_again_guess=patient_guess,
        matched=matched, matched_guess=matched_guess,
    )  # fmt: skip


def _first_guess(
    row: ProfileRow, report: AuditReport, attack: str, kind: str, measure: str
) -> tuple[float, float] | tuple[None, None]:
    """What the best of the server's ways finds, and a guess; None if none could be measured."""
    tried = [
        found
        for found in report.findings
        if (found.attack, found.measure) == (attack, measure)
        and found.title.startswith(kind)
        and found.setting in server_settings(Profile(row.profile))
        and not math.isnan(found.value)
    ]
    best = max(tried, key=lambda found: found.value, default=None)
    return (None, None) if best is None else (best.value, best.chance)


def broken_controls(report: AuditReport) -> tuple[BrokenControl, ...]:
    """The controls that did not hold, with what they guard."""
    return tuple(BrokenControl(control.name, control.guards) for control in report.controls if not control.holds)


def could_not_see(report: AuditReport) -> bool:
    """Whether attacks on what nothing protects were tried, and the best drew no better than a guess."""
    plain = [found for found in report.findings if found.measure == SSIM and found.setting == NO_PROTECTION]
    return bool(plain) and all(finding.value <= finding.chance for finding in plain)

"""From a report of the audit to the numbers that a site keeps of it."""

from __future__ import annotations

import datetime as dt
from dataclasses import fields

from ppcmi.audit.document import AuditReport, ProfileRow
from ppcmi.audit.wording import YES
from ppcmi.privacy_check import CheckedProfile, PrivacyCheck, codec_digest
from ppcmi.site import TaskProfile


def check_of(
    report: AuditReport, part: TaskProfile, attacks: str, cases: int, patients: int, seed: int
) -> PrivacyCheck:
    """What is kept of a report: numbers of pictures and Dice, no picture, nothing of membership."""
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
        profiles=tuple(checked_profile(row) for row in report.profiles),
    )


def checked_profile(row: ProfileRow) -> CheckedProfile:
    """A profile's row as it is kept: some of its columns."""
    return CheckedProfile(**{field.name: getattr(row, field.name) for field in fields(CheckedProfile)})

"""A small report of an audit with every part that a real one has, for tests of what is made of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ppcmi.audit.attacker import Finding
from ppcmi.audit.document import AuditReport, Control, PictureRow, ProfileRow
from ppcmi.audit.settings import NO_PROTECTION
from ppcmi.audit.wording import CLAIMS_NOT_MADE, NOT_KNOWN

KEYED = "two layers, coarse; server with the codec"
COLLUDING = "two layers, coarse; server with a member"


def a_report(
    *,
    dice: float = 0.87,
    holds: bool = True,
    members_alike: bool = True,
    size: tuple[int, int] = (64, 48),
    attacks: str = "quick",
    attacked: int = 3,
    unseen: str = NOT_KNOWN,
) -> AuditReport:
    """Two profiles, five findings in two settings, three controls and a slice of each profile.

    :param dice: of profile ``coarse``; not a number where the cases had no labels.
    :param holds: of a control of all numbers, ``members_alike`` of one of A10's alone.
    """
    return AuditReport(
        findings=[
            Finding("A3", "aligned statistics", KEYED, "SSIM", 0.44, 0.41, 0.47, 0.36, 2.0),
            Finding("A3", "aligned statistics", KEYED, "PSNR", 15.25, 14.8, 15.9, 14.1, 2.0),
            Finding("A2", "known slices (5)", KEYED, "SSIM", 0.52, 0.49, 0.55, 0.36, 1.0, "regularized"),
            Finding("A9", "re-sent, untrained", KEYED, "top-1", math.nan, 0.0, 1.0, 0.02, 3.0, "not measurable here"),
            Finding("A8", "both keys", COLLUDING, "SSIM", 0.71, 0.68, 0.74, 0.36, 1.0),
        ],
        profiles=[
            _row("coarse", dice, 0.52, 1536),
            _row("minimal", dice - 0.01, 0.40, 512),
        ],
        controls=[
            Control("key off", "The decoder gets the upper bound.", 0.93, True),
            Control("wrong key", "A decode with a wrong key is no better than a guess.", 0.31, holds),
            Control("members alike", "Nothing without a model.", 0.52, members_alike, "A10"),
        ],
        pictures=[_pictures("coarse", size, 1), _pictures("minimal", size, 2)],
        config={
            "task": "phantom 1",
            "attacks": attacks,
            "scope": "consortium",
            "seed": 1,
            "cases": 12,
            "patients": 10,
            "attacked": attacked,
            "victims": 4,
            "unseen": unseen,
        },
        versions={"ppcmi": "0.1.0"},
        seconds=83.0,
        claims_not_made=list(CLAIMS_NOT_MADE),
    )


def without_protection(found: float, **kind: Any) -> AuditReport:
    """:func:`a_report` with an attack on what nothing protects, whose SSIM is ``found`` where a guess has 0.26."""
    report = a_report(**kind)
    report.findings.append(Finding("A2", "known slices (5)", NO_PROTECTION, "SSIM", found, 0.2, 0.5, 0.26, 1.0))
    return report


def _row(profile: str, dice: float, ssim: float, numbers: int) -> ProfileRow:
    return ProfileRow(
        profile=profile,
        dice=dice,
        dice_low=dice - 0.02,
        dice_high=dice + 0.02,
        server_dice=dice - 0.03,
        numbers_a_slice=numbers,
        bytes_a_slice=numbers + 40,
        best_ssim=ssim,
        best_low=ssim - 0.03,
        best_high=ssim + 0.03,
        best_attack="A2 known slices (5)",
        best_setting=KEYED,
        unaided_ssim=ssim - 0.08,
        unaided_attack="A3 aligned statistics",
        chance_ssim=0.36,
    )


def _pictures(profile: str, size: tuple[int, int], seed: int) -> PictureRow:
    random = np.random.default_rng(seed)

    def picture() -> np.ndarray:
        return random.integers(0, 256, size, dtype=np.uint8)

    attacks = {"A2 known slices (5)": picture(), "A3 aligned statistics": picture()}
    return PictureRow(profile, picture(), picture(), attacks, picture())

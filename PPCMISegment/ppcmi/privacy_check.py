"""What the last privacy check of a task found, kept at the site: numbers only, in its profile, mode 0600.

``ppcmi audit`` writes ``privacy-checks/TASK.json``; the question before an export, the consent log and Slicer's panel
read it. No picture, no case and no patient is in it, and it never leaves. It needs none of the audit's packages.

:mod:`ppcmi.privacy_words` says it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ppcmi.errors import SiteError
from ppcmi.files import write_atomically
from ppcmi.privacy_words import Notice, is_quick, is_shortened, notices, rounded, two_sentences
from ppcmi.site_files import make_private_folder
from ppcmi.strict_json import parse_object
from ppcmi.task_profile import TaskProfile

FORMAT, FIRST = "ppcmi-privacy-check/5", "ppcmi-privacy-check/1"
EARLIER = ("ppcmi-privacy-check/2", "ppcmi-privacy-check/3", "ppcmi-privacy-check/4")
FOLDER = "privacy-checks"
LARGEST_BYTES = 1 << 20


@dataclass(frozen=True)
class BrokenControl:
    """A check of the attacks themselves that did not hold.

    :param guards: the attack whose numbers it guards, such as ``A10``; empty where it guards all.
    """

    name: str
    guards: str = ""


_UNNAMED = BrokenControl("one whose name an earlier version did not keep")


@dataclass(frozen=True)
class CheckedProfile:
    """What a check found of one privacy profile; intervals are 95 %, by patient.

    :param dice: mean over structures on the site's own attacked cases, of a stand-in for the server's network averaged
        with the codec's own; not a number where they have no labels.
    :param best_ssim: of the best pictures that any attack made without the inner key, 1 is the slice itself.
    :param best_attack: which one that was.
    :param unaided_ssim: of the best that knew no slice of this site.
    :param chance_ssim: what drawing the mean slice gives, for which nothing has to be seen.
    :param numbers_a_slice, bytes_a_slice: of image latents that leave.
    :param image_again: share of tries in which the server's first guess finds, among all cases of the site, the one
        whose images come again, a little changed; None where that was not tried, or by an earlier version.
    :param patient_again: the same for another case of a patient.
    :param matched: share of cases of which the server, given the images of all, says which upload is whose.
    :param image_again_guess, patient_again_guess, matched_guess: the shares that guessing finds; None by an earlier
        version.
    """

    profile: str
    dice: float
    dice_low: float
    dice_high: float
    best_ssim: float
    best_low: float
    best_high: float
    best_attack: str
    unaided_ssim: float
    chance_ssim: float
    numbers_a_slice: int
    bytes_a_slice: int
    image_again: float | None = None
    patient_again: float | None = None
    image_again_guess: float | None = None
    patient_again_guess: float | None = None
    matched: float | None = None
    matched_guess: float | None = None

    @property
    def recognized(self) -> str:
        """What the server's first guess found, and what a guess at random finds; empty where nothing was tried."""
        tried = (
            ("images that were sent again", self.image_again, self.image_again_guess),
            ("another case of a patient", self.patient_again, self.patient_again_guess),
            ("the upload that an image belongs to", self.matched, self.matched_guess),
        )
        return ", ".join(
            f"{what} in {rounded(share)} of the tries" + ("" if guess is None else f" (drawing lots: {rounded(guess)})")
            for what, share, guess in tried
            if share is not None
        )

    @property
    def without_recognition(self) -> CheckedProfile:
        """The same without what was recognized."""
        return replace(self, image_again=None, patient_again=None, matched=None)


@dataclass(frozen=True)
class PrivacyCheck:
    """One check.

    :param time: UTC, ISO 8601, to the second.
    :param task: its identity, name and version.
    :param codec: SHA-256 (32 hexadecimal digits) of the codec's file: with another codec the numbers are others.
    :param scope: of the task's membership.
    :param attacks: ``quick`` or ``full``.
    :param cases, patients: that the check was given, ``attacked`` how many of these patients were attacked.
    :param unseen: whether the codec was trained on none of the attacked cases, as far as that is known.
    :param controls_hold: whether every control of what is kept here held; where one did not, the numbers say nothing.
    :param broken_controls: all that did not hold, also those of numbers that are not kept here.
    :param could_not_see: whether the best attack on what nothing protects drew no better than a guess; None in a check
        of an earlier version, which did not say.
    :param dice_alone: on the attacked cases, of the network that comes with the codec, for which nothing leaves; None
        where it was not measured.
    """

    time: str
    task: str
    codec: str
    scope: str
    attacks: str
    cases: int
    patients: int
    attacked: int
    unseen: bool
    seed: int
    seconds: float
    controls_hold: bool
    profiles: tuple[CheckedProfile, ...]
    broken_controls: tuple[BrokenControl, ...] = ()
    could_not_see: bool | None = None
    dice_alone: float | None = None

    @property
    def name(self) -> str:
        """What a log calls it: the time, and eight digits that only these numbers have.

        What an earlier version did not keep is no part of them, so that its check goes on having its name.
        """
        said = _known(asdict(self)) | {"profiles": [_known(asdict(row)) for row in self.profiles]}
        content = json.dumps(said, sort_keys=True).encode()
        return f"{self.time} {hashlib.sha256(content).hexdigest()[:8]}"

    @property
    def says(self) -> tuple[bool, bool, bool]:
        """How much, for comparing checks: whether controls held, attackers had all their time, and trained decoders."""
        return self.controls_hold, not is_shortened(self.attacks), not is_quick(self.attacks)

    @property
    def notices(self) -> list[Notice]:
        """What has to be read before its numbers, as the report's page says it."""
        unnamed = () if self.controls_hold else (_UNNAMED,)
        broken = self.broken_controls or unnamed
        return notices(self.attacks, self.attacked, broken, self.could_not_see, one_each=self.cases == self.patients)

    def of_profile(self, profile: str) -> CheckedProfile | None:
        """What it found of a profile, None if that was not looked at."""
        return next((row for row in self.profiles if row.profile == profile), None)

    def measured(self, profile: str) -> bool:
        """Whether it says anything of a profile: it looked at it, and its numbers mean something."""
        return self.means_something and not is_shortened(self.attacks) and self.of_profile(profile) is not None

    @property
    def means_something(self) -> bool:
        """Whether its controls held and its attacks could see."""
        return self.controls_hold and not self.could_not_see


def keep_check(site_folder: Path, part: TaskProfile, check: PrivacyCheck) -> PrivacyCheck:
    """Keep a check, unless the task's last one, with its present codec, says more; which of the two is kept.

    :raises SiteError, WriteError: as :func:`write_check`.
    """
    try:
        last = read_check(site_folder, part)
    except SiteError:
        last = None  # it is damaged: any other takes its place
    if last is not None and last.says > check.says:
        return last
    write_check(site_folder, part.task.name, check)
    return check


def write_check(site_folder: Path, task_name: str, check: PrivacyCheck) -> None:
    """Keep a check in place of the task's last one.

    :raises SiteError: if the folder cannot be made.
    :raises WriteError: if it cannot be written.
    """
    folder = site_folder / FOLDER
    make_private_folder(folder)
    document = {"format": FORMAT, **_without_nan(asdict(check))}
    content = json.dumps(document, indent=1, allow_nan=False).encode()
    write_atomically(folder / f"{task_name}.json", content, mode=0o600)


def read_check(site_folder: Path, part: TaskProfile) -> PrivacyCheck | None:
    """The last check of a task, None if there was none, or none with the task and the codec as they are now.

    One of the first version, which does not say how many were attacked, counts as none.

    :raises SiteError: if what is kept cannot be read.
    """
    path = site_folder / FOLDER / f"{part.task.name}.json"
    try:
        with path.open("rb") as stream:
            check = _parsed(stream.read(LARGEST_BYTES + 1))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise SiteError("The last privacy check cannot be read; make it again.") from error
    if (
        check is None
        or check.task != part.task.identity
        or check.codec != codec_digest(part)
        or check.scope != part.membership.scope
    ):
        return None
    return check


def codec_digest(part: TaskProfile) -> str:
    """What :attr:`PrivacyCheck.codec` is for the codec that the site has; empty where it has none."""
    try:
        return hashlib.sha256(part.codec_path.read_bytes()).hexdigest()[:32]
    except FileNotFoundError:
        return ""


def _without_nan(value: Any) -> Any:
    match value:
        case float() if not math.isfinite(value):
            return None
        case Mapping():
            return {name: _without_nan(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_without_nan(inner) for inner in value]
    return value


def _known(document: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if value not in (None, ())}


def _with_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    none = ("image_again", "patient_again", "matched", "image_again_guess", "patient_again_guess", "matched_guess")
    return {name: math.nan if value is None and name not in none else value for name, value in row.items()}


def _parsed(content: bytes) -> PrivacyCheck | None:
    document = parse_object(content)
    written = document.pop("format")
    if written == FIRST:
        return None
    if len(content) > LARGEST_BYTES or written not in (FORMAT, *EARLIER):
        raise ValueError("another format")
    rows = [CheckedProfile(**_with_nan(row)) for row in document.pop("profiles")]
    broken = [BrokenControl(**control) for control in document.pop("broken_controls", [])]
    check = PrivacyCheck(**document, profiles=tuple(rows), broken_controls=tuple(broken))
    list(map(str, check.notices))  # what is kept can be said
    for row in rows:
        two_sentences(row, check.attacks, check.attacked)
    return check

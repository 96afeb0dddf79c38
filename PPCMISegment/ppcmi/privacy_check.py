"""What the last privacy check of a task found, kept at the site: numbers only, in its profile, mode 0600.

``ppcmi audit`` writes ``privacy-checks/TASK.json``; the question before an export, the consent log and Slicer's panel
read it. No picture, no case and no patient is in it, and it never leaves. It needs none of the audit's packages.

Example::

    check = read_check(site.folder, part)
    print(*two_sentences(check.of_profile(Profile.COARSE), check.attacks, check.attacked))
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ppcmi.errors import SiteError
from ppcmi.files import write_atomically
from ppcmi.scales import Profile
from ppcmi.site_files import make_private_folder
from ppcmi.strict_json import parse_object
from ppcmi.task_profile import TaskProfile
from ppcmi.wording import counted

FORMAT, FIRST = "ppcmi-privacy-check/5", "ppcmi-privacy-check/1"
EARLIER = ("ppcmi-privacy-check/2", "ppcmi-privacy-check/3", "ppcmi-privacy-check/4")
FOLDER = "privacy-checks"
LARGEST_BYTES = 1 << 20

FEWEST_ATTACKED = 5
"""With fewer attacked patients an interval by patient says little."""

DICE_IN_WORDS = (
    "Dice is of a stand-in for the server's network, trained here in minutes on part of the cases, averaged with the "
    "network that comes with the codec: it compares profiles, and is not what a trained consortium reaches."
)
ONE_EACH_IN_WORDS = (
    "If some are of the same patient, say whose they are, by a column patient in split.csv or images that were loaded "
    "from DICOM: else a patient may be both attacked and learned from, and intervals are too narrow."
)
QUICK_IN_WORDS = "These quick attacks train no decoder for what leaves; a full check does, and usually finds more."


@dataclass(frozen=True)
class Notice:
    """What has to be read before a check's numbers: a few words, and what follows from them.

    :param warns: whether numbers mean less because of it than they seem to.
    """

    title: str
    text: str
    warns: bool = True

    def __str__(self) -> str:
        return f"{self.title} {self.text}"


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
            f"{what} in {_number(share)} of the tries" + ("" if guess is None else f" (drawing lots: {_number(guess)})")
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


def is_quick(attacks: str) -> bool:
    """Whether attacks, in the words of :attr:`PrivacyCheck.attacks`, trained no decoder for what leaves."""
    return attacks.startswith("quick")


def is_shortened(attacks: str) -> bool:
    """Whether attackers were held short, by the words of :attr:`PrivacyCheck.attacks`."""
    return attacks.endswith("shortened")


def two_sentences(found: CheckedProfile, attacks: str, attacked: int) -> tuple[str, str]:
    """What a check found of a profile, for a data protection officer.

    :param attacks, attacked: see :class:`PrivacyCheck`.
    """
    quick, more = ("quick ", "; a full check trains decoders and usually finds more") if is_quick(attacks) else ("", "")
    recognized = f", and can be recognized: the server's first guess found {found.recognized}"
    return (
        f"From what leaves in profile {found.profile}, the best {quick}attack without the inner key drew pictures with "
        f"a similarity (SSIM) to the slices of {_number(found.best_ssim)} (95 %: {_number(found.best_low)} to "
        f"{_number(found.best_high)}, of {counted(attacked, 'attacked patient')}); drawing the mean slice, having seen "
        f"nothing, gives {_number(found.chance_ssim)}, and the slice itself 1{more}.",
        "What leaves stays personal data about health, at the server and for every member who helps it, and needs the "
        f"legal basis, the contracts and the access rules that images need{recognized if found.recognized else ''}; "
        "nobody here calls it anonymous.",
    )


def notices(
    attacks: str, attacked: int, broken: Sequence[BrokenControl], could_not_see: bool | None, *, one_each: bool
) -> list[Notice]:
    """What has to be read before a check's numbers, the gravest first; the report and whoever quotes a check show it.

    :param attacks, attacked, could_not_see: see :class:`PrivacyCheck`; ``broken`` is its ``broken_controls``.
    :param one_each: whether it has as many patients as cases, so that nothing said which cases are of the same.
    """
    found = []
    if is_shortened(attacks):
        text = "This run is for trying out: real attackers see and train more, and its numbers judge nothing."
        found.append(Notice("The attackers were held short.", text))
    for guarded in dict.fromkeys(control.guards for control in broken):
        names = "; ".join(control.name for control in broken if control.guards == guarded)
        found.append(Notice("A control did not hold.", _broken_in_words(names, guarded)))
    if could_not_see is None:
        text = "It does not say whether these attacks could see anything; make the check again."
        found.append(Notice("An earlier version made this check.", text))
    elif could_not_see:
        found.append(Notice("These attacks could not see.", _blind_in_words(attacks)))
    if few_in_words(attacked):
        found.append(Notice("Few patients.", few_in_words(attacked)))
    if one_each:
        found.append(Notice("Every case counts as a patient of its own.", ONE_EACH_IN_WORDS, warns=False))
    if is_quick(attacks):
        found.append(Notice("A quick check.", QUICK_IN_WORDS, warns=False))
    return found


def _broken_in_words(names: str, guarded: str) -> str:
    if guarded:
        return (
            f"The numbers of {guarded} in the report say nothing about privacy until it does: {names}. Other numbers "
            "do not depend on it."
        )
    return (
        f"The numbers of this check say nothing about privacy until it does: {names}. More cases may help, or a codec "
        "that was trained for longer."
    )


def _blind_in_words(attacks: str) -> str:
    more = "A codec that was trained for longer shows more"
    return (
        "Without any protection, too, their best pictures are no more like the slices than a guess: the numbers of "
        "pictures say nothing about protection, nor which profile shows less. "
        f"{more}{', and a full check finds more' if is_quick(attacks) else ''}."
    )


def few_in_words(attacked: int) -> str:
    """What to say of intervals by so few patients; empty if they are enough."""
    if attacked >= FEWEST_ATTACKED:
        return ""
    were = "was" if attacked == 1 else "were"
    return f"Only {counted(attacked, 'patient')} {were} attacked: too few for the intervals to say much."


def unseen_in_words(unseen: bool) -> str:
    """What to say beside a Dice of where the attacked cases come from."""
    if unseen:
        return "As far as is known, the codec was not trained on the attacked cases."
    return "The codec may have been trained on the attacked cases, which favors both Dice and attackers."


def alone_in_words(dice: float | None) -> str:
    """What to say beside the profiles' Dice of what needs none of them; empty where it was not measured."""
    if dice is None:
        return ""
    return f"With nothing leaving, the network that comes with the codec reaches a Dice of {_number(dice)} by itself."


def checked_in_words(check: PrivacyCheck | None, profile: Profile) -> str:
    """What the question before an export says of the task's last check; ``profile`` is what is to leave."""
    if check is None:
        return (
            "No privacy check was made for this task with its present codec: what an attacker could make of these "
            "cases has not been measured here."
        )
    found = check.of_profile(profile)
    if found is None:
        return f"The privacy check of {check.time[:10]} did not look at profile {profile}."
    about = (
        f"Privacy check of {check.time[:10]} ({check.attacks} attacks, {check.attacked} of "
        f"{counted(check.patients, 'patient')} attacked)."
    )
    numbers = (
        f"The best picture without the inner key has SSIM {_number(found.best_ssim)}, a guess "
        f"{_number(found.chance_ssim)} (similarity; 1 is the slice itself)."
    )
    warned = [str(notice) for notice in check.notices if notice.warns]
    other = [str(notice) for notice in check.notices if not notice.warns]
    return " ".join([about, *warned, *([numbers] if check.means_something else []), *other])


def _number(value: float) -> str:
    return f"{value:.2f}"


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

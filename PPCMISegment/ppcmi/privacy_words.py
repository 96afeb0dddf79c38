"""What is said of a privacy check: notices before its numbers, sentences on a profile, the question before an export.

Example::

    check = read_check(site.folder, part)
    print(*two_sentences(check.of_profile(Profile.COARSE), check.attacks, check.attacked))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ppcmi.scales import Profile
from ppcmi.wording import counted

if TYPE_CHECKING:
    from ppcmi.privacy_check import BrokenControl, CheckedProfile, PrivacyCheck

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
        f"a similarity (SSIM) to the slices of {rounded(found.best_ssim)} (95 %: {rounded(found.best_low)} to "
        f"{rounded(found.best_high)}, of {counted(attacked, 'attacked patient')}); drawing the mean slice, having seen "
        f"nothing, gives {rounded(found.chance_ssim)}, and the slice itself 1{more}.",
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
    return f"With nothing leaving, the network that comes with the codec reaches a Dice of {rounded(dice)} by itself."


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
        f"The best picture without the inner key has SSIM {rounded(found.best_ssim)}, a guess "
        f"{rounded(found.chance_ssim)} (similarity; 1 is the slice itself)."
    )
    warned = [str(notice) for notice in check.notices if notice.warns]
    other = [str(notice) for notice in check.notices if not notice.warns]
    return " ".join([about, *warned, *([numbers] if check.means_something else []), *other])


def rounded(value: float) -> str:
    """As numbers of a check are said: two decimals."""
    return f"{value:.2f}"

"""What a check found, for a data protection officer: a paragraph of each profile, and what holds of all of them, once.

The panel, which shows one profile at a time, has :func:`ppcmi.privacy_words.two_sentences` in its place.
"""

from __future__ import annotations

from collections.abc import Sequence

from ppcmi.privacy_check import CheckedProfile
from ppcmi.privacy_words import Notice, two_sentences


def sentences_of_profiles(
    profiles: Sequence[CheckedProfile], attacks: str, attacked: int, warnings: Sequence[Notice] = ()
) -> tuple[dict[str, str], list[str]]:
    """By the profile's name what was found of it; and what holds of every profile.

    :param attacks, attacked: see :class:`ppcmi.privacy_check.PrivacyCheck`.
    :param warnings: of the check; their titles stand before each paragraph, which may be copied without the page.
    """
    warned = " ".join(notice.title for notice in warnings if notice.warns)
    of_each, of_all = {}, []
    for found in profiles:
        first, _ = two_sentences(found, attacks, attacked)
        recognized = f"In profile {found.profile} the server's first guess found {found.recognized}."
        of_each[found.profile] = " ".join(filter(None, [warned, first, found.recognized and recognized]))
        _, second = two_sentences(found.without_recognition, attacks, attacked)
        of_all.append(second)
    return of_each, list(dict.fromkeys(of_all))

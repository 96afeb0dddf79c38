"""What a check found, for a data protection officer: a paragraph of each profile, and what holds of all of them, once.

The panel, which shows one profile at a time, has :func:`ppcmi.privacy_check.two_sentences` in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ppcmi.privacy_check import CheckedProfile, two_sentences


def sentences_of_profiles(
    profiles: Sequence[CheckedProfile], attacks: str, attacked: int
) -> tuple[dict[str, str], list[str]]:
    """By the profile's name what was found of it; and what holds of every profile.

    :param attacks, attacked: see :class:`ppcmi.privacy_check.PrivacyCheck`.
    """
    of_each, of_all = {}, []
    for found in profiles:
        first, _ = two_sentences(found, attacks, attacked)
        of_each[found.profile] = f"{first} {_recognized(found)}".rstrip()
        _, second = two_sentences(replace(found, image_again=None, patient_again=None), attacks, attacked)
        of_all.append(second)
    return of_each, list(dict.fromkeys(of_all))


def _recognized(found: CheckedProfile) -> str:
    tried = {"images that were sent again": found.image_again, "another case of a patient": found.patient_again}
    shares = [f"{what} in {share:.2f} of the tries" for what, share in tried.items() if share is not None]
    return f"In profile {found.profile} the server's first guess found {' and '.join(shares)}." if shares else ""

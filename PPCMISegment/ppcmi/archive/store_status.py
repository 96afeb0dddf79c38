"""What an archive says about an instance that was sent to it, in words.

The status of a C-STORE response (PS3.4 table B.2-1, PS3.7 annex C) and the Failure Reason of STOW-RS (PS3.18 table
I.2-2) are the same numbers.
"""

from __future__ import annotations

SUCCESS = 0x0000
DUPLICATE = 0x0111
OUT_OF_RESOURCES = 0xA700
DOES_NOT_MATCH_CLASS = 0xA900
CANNOT_UNDERSTAND = 0xC000

_WORDS = {
    0x0110: "it failed while working on it",
    0x0112: "it does not know the instance",
    0x0117: "the instance's identity is not valid",
    0x0122: "it does not take segmentations",
    0x0124: "the sender is not authorized",
    0xC122: "it does not take the encoding",
}
_WORDS_BY_HUNDRED = {
    0xA7: "it has no room",
    0xA9: "it finds that the instance does not fit its class",
}
_WORDS_BY_THOUSAND = {0xC: "it does not understand the instance"}


def is_stored(status: int) -> bool:
    """Whether the archive has the instance: stored, perhaps with a warning (Bxxx), or known by its identity before.

    Our identities are made for one result each, so that what is known is that result.
    """
    return status in (SUCCESS, DUPLICATE) or status >> 12 == 0xB


def in_words(status: int) -> str:
    """Why it was not stored, as the end of a sentence: ``it has no room (A700)``."""
    words = (
        _WORDS.get(status)
        or _WORDS_BY_HUNDRED.get(status >> 8)
        or _WORDS_BY_THOUSAND.get(status >> 12)
        or "it does not say why"
    )
    return f"{words} ({status:04X})"

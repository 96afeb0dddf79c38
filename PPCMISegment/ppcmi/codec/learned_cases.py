"""Which cases a site's codec and decoder learned from, so that they are not judged on them.

Beside the weights their files keep a digest of each case's image files, and no name: a case that is renamed, or lies in
another folder without folds, is known again. The digests stay at the site: a codec that is published has none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from pathlib import Path

from ppcmi.codec.codec import DAMAGE
from ppcmi.codec.presets import LEARNED_FROM, document_of_file
from ppcmi.data_folders import CaseFiles
from ppcmi.errors import ReadError
from ppcmi.sources import only_source

DIGITS = 16
"""Hexadecimal, of each digest: a header has room for tens of thousands."""


def digests_of(cases: Iterable[CaseFiles]) -> frozenset[str]:
    """A digest of each case's image; none of one that cannot be read."""
    return frozenset(digest for case in cases if (digest := _digest(case)) is not None)


def learned_from(file: Path) -> frozenset[str]:
    """Digests of the cases that the codec or decoder in a file learned from; none if it is missing or does not say."""
    try:
        return frozenset(map(str, document_of_file(file).get(LEARNED_FROM, ())))
    except (OSError, *DAMAGE):  # who uses it says what is wrong with it
        return frozenset()


def not_learned(cases: Iterable[CaseFiles], digests: Collection[str]) -> list[CaseFiles]:
    """The cases whose image is not among those with these ``digests``."""
    return [case for case in cases if not digests or _digest(case) not in digests]


def _digest(case: CaseFiles) -> str | None:
    """The same for equal files, in whatever order and under whatever names."""
    try:
        parts = sorted(_digest_of_file(file) for file in only_source(case.image).files)
    except (OSError, ReadError):
        return None
    return hashlib.sha256(b"".join(parts)).hexdigest()[:DIGITS]


def _digest_of_file(path: Path) -> bytes:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()

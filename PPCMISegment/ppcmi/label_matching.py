"""Which segment of a segmentation is which label of a task: by codes, then by name, never by a guess.

Terminology codes count first (type and modifier, so that left and right are two things), then names, whatever their
case, spaces, punctuation and order of words. A pair must be the only one of its kind: where two segments fit a label,
none is taken. What is left over stays unmatched, for the user to choose.

Example::

    matching = match_segments(segments, task)
    matching = matching.choose(2, "Segment_7")
    matching.segment_of(2), matching.unmatched
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from ppcmi.task import Code, Label, Task

CODES_OF_A_TRIPLET = 3
ENTRY_PARTS = 7

_SIDES = {"left": "left", "lt": "left", "l": "left", "right": "right", "rt": "right", "r": "right"}
_INITIALS = ("l", "r")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_WORDS = re.compile(r"[^\W_]+")


class Reason(StrEnum):
    """Why a label has its segment, or none."""

    TERMINOLOGY = "codes"
    NAME = "name"
    CHOSEN = "chosen"
    NONE = "none found"


@dataclass(frozen=True)
class SegmentFacts:
    """What is known of a segment.

    :param id: of the segment in its segmentation, never shown to anyone else.
    :param terminology: as 3D Slicer writes it, see :func:`~ppcmi.writing.terminology_entry`; may be empty.
    :param value: its voxels' value in a label map, where it lies in one.
    """

    id: str
    name: str
    terminology: str = ""
    value: int | None = None


@dataclass(frozen=True)
class Match:
    """A label's segment, or None, and why."""

    label: Label
    segment: str | None
    reason: Reason


@dataclass(frozen=True)
class LabelMatching:
    """A match for each label of a task, in the task's order; ``unmatched`` are ids of segments that no label has."""

    matches: tuple[Match, ...]
    unmatched: tuple[str, ...]

    @property
    def found(self) -> tuple[Match, ...]:
        """Labels that have a segment."""
        return tuple(match for match in self.matches if match.segment is not None)

    @property
    def missing(self) -> tuple[Match, ...]:
        """Labels that have none."""
        return tuple(match for match in self.matches if match.segment is None)

    def segment_of(self, value: int) -> str | None:
        """Id of the segment of the label with this value."""
        return next((match.segment for match in self.matches if match.label.value == value), None)

    def choose(self, value: int, segment: str | None) -> LabelMatching:
        """The same with another segment, or none, for one label; a segment that another label had is taken from it.

        :raises ValueError: if there is no such label or segment.
        """
        known = {*self.unmatched, *(match.segment for match in self.found), None}
        if segment not in known or all(match.label.value != value for match in self.matches):
            raise ValueError("no such label or segment")
        matches = [
            replace(match, segment=None, reason=Reason.NONE)
            if segment is not None and match.segment == segment
            else match
            for match in self.matches
        ]
        chosen = tuple(
            Match(match.label, segment, Reason.CHOSEN) if match.label.value == value else match for match in matches
        )
        had = [match.segment for match in self.found]
        used = {match.segment for match in chosen}
        left = [id_ for id_ in (*self.unmatched, *had) if id_ is not None and id_ not in used]
        return LabelMatching(chosen, tuple(left))


def match_segments(segments: Sequence[SegmentFacts], task: Task) -> LabelMatching:
    """The matching of a task's labels with the segments, by codes and then by names."""
    found: dict[int, tuple[str, Reason]] = {}
    for reason, fits in _STAGES:
        used = {segment for segment, _ in found.values()}
        labels = [label for label in task.labels if label.value not in found]
        free = [segment for segment in segments if segment.id not in used]
        for label in labels:
            fitting = [segment for segment in free if fits(label, segment)]
            if len(fitting) == 1 and sum(fits(other, fitting[0]) for other in labels) == 1:
                found[label.value] = (fitting[0].id, reason)
    matches = tuple(Match(label, *found.get(label.value, (None, Reason.NONE))) for label in task.labels)
    used = {segment for segment, _ in found.values()}
    return LabelMatching(matches, tuple(segment.id for segment in segments if segment.id not in used))


def name_key(name: str) -> tuple[str | None, tuple[str, ...]]:
    """Side and sorted words of a name: equal for names that mean the same, and never for left and right.

    ``kidney_left``, ``Left Kidney``, ``LeftKidney`` and ``Kidney (L)`` have the same; a single L or R counts as a side
    only at either end of a name with more words.
    """
    words = _words(name)
    sides = {
        _SIDES[word]
        for place, word in enumerate(words)
        if word in _SIDES and (word not in _INITIALS or (len(words) > 1 and place in (0, len(words) - 1)))
    }
    if len(sides) != 1:  # none, or both: then the words themselves must agree
        return None, tuple(sorted(words))
    return sides.pop(), tuple(sorted(word for word in words if word not in _SIDES))


def _words(name: str) -> list[str]:
    plain = unicodedata.normalize("NFKD", _CAMEL.sub(" ", name))
    letters = "".join(character for character in plain if not unicodedata.combining(character))
    return [word.casefold() for word in _WORDS.findall(letters)]


def _same_codes(label: Label, segment: SegmentFacts) -> bool:
    """Type and modifier agree, and the names do not say different sides."""
    sides = {name_key(label.name)[0], name_key(segment.name)[0]}
    own = (_key(label.type.scheme, label.type.value), _modifier(label.modifier))
    return own == _codes(segment.terminology) and not {"left", "right"} <= sides


def _same_name(label: Label, segment: SegmentFacts) -> bool:
    """The same side and words, or the same letters but for spaces: ``leftkidney``."""
    first, second = _words(label.name), _words(segment.name)
    return bool(first) and (name_key(label.name) == name_key(segment.name) or "".join(first) == "".join(second))


_STAGES: tuple[tuple[Reason, Callable[[Label, SegmentFacts], bool]], ...] = (
    (Reason.TERMINOLOGY, _same_codes),
    (Reason.NAME, _same_name),
)


def _codes(terminology: str) -> tuple[tuple[str, str], tuple[str, str] | None] | None:
    """Type and modifier of an entry; None if it has no type."""
    triplets = [part.split("^") for part in terminology.split("~")]
    if len(triplets) != ENTRY_PARTS or not _is_code(triplets[2]):
        return None
    modifier = triplets[3]
    return _key(*triplets[2][:2]), _key(*modifier[:2]) if _is_code(modifier) else None


def _is_code(triplet: list[str]) -> bool:
    return len(triplet) == CODES_OF_A_TRIPLET and bool(triplet[1].strip())


def _modifier(code: Code | None) -> tuple[str, str] | None:
    return None if code is None else _key(code.scheme, code.value)


def _key(scheme: str, value: str) -> tuple[str, str]:
    return scheme.strip().casefold(), value.strip()

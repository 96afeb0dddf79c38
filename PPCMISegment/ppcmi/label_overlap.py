"""Segments that may overlap to one label map: overlaps are counted, and never resolved behind the user's back.

A task says nothing about overlaps: its labels exclude each other. A few voxels along a border go to the smaller of the
segments, as they matter more to it, and are reported; more than that needs the user's own order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from ppcmi.errors import ReadError

MOST_OVERLAP = 0.001
"""Up to this share of all labelled voxels may overlap without the user's order."""


class OverlapError(ReadError):
    """Segments overlap so much that somebody has to say which of them counts."""


@dataclass(frozen=True, eq=False)
class CombinedLabels:
    """One label map made of segments.

    :param voxels: uint8 ``(k, j, i)``, 0 where no segment is.
    :param overlaps: voxels that two labels both claimed, by their values, smaller first.
    :param overlapping: voxels that more than one label claimed, and ``labelled`` that at least one did.
    """

    voxels: NDArray[np.uint8]
    overlaps: Mapping[tuple[int, int], int]
    overlapping: int
    labelled: int

    @property
    def share(self) -> float:
        """Overlapping voxels of all labelled ones, 0..1."""
        return self.overlapping / self.labelled if self.labelled else 0.0


def combine_segments(
    masks: Mapping[int, NDArray[np.bool_]], priority: Sequence[int] = (), most_overlap: float = MOST_OVERLAP
) -> CombinedLabels:
    """One label map from masks ``(k, j, i)`` by label value, all of one shape.

    :param priority: label values, the one that counts most first; labels that are not named come after them.
    :raises OverlapError: if labels that ``priority`` does not name overlap in more than ``most_overlap`` of all that
        is labelled.
    :raises ValueError: if there are no masks, they differ in shape, or a value is not 1 to 255.
    """
    if len({mask.shape for mask in masks.values()}) != 1 or not all(0 < value < 256 for value in masks):
        raise ValueError("masks need one shape and values from 1 to 255")
    counts = {value: int(np.count_nonzero(mask)) for value, mask in masks.items()}
    claims = np.zeros(next(iter(masks.values())).shape, dtype=np.uint8)
    for mask in masks.values():
        claims += mask
    overlapping, labelled = int(np.count_nonzero(claims > 1)), int(np.count_nonzero(claims))
    overlaps = _overlaps(masks) if overlapping else {}
    unsettled = [masks[value] for value in masks if value not in priority]
    disputed = int(np.count_nonzero(np.sum(unsettled, axis=0, dtype=np.uint8) > 1)) if overlapping and unsettled else 0
    if labelled and disputed > most_overlap * labelled:
        raise OverlapError(
            f"Segments overlap in {disputed} voxels, {disputed / labelled:.1%} of what is labelled; say which of them "
            "counts where they do, or edit them."
        )
    named = [value for value in priority if value in masks]
    others = sorted((value for value in masks if value not in named), key=lambda value: (counts[value], value))
    voxels = np.zeros(claims.shape, dtype=np.uint8)
    for value in reversed([*named, *others]):  # what counts most is written last
        voxels[masks[value]] = value
    return CombinedLabels(voxels, overlaps, overlapping, labelled)


def _overlaps(masks: Mapping[int, NDArray[np.bool_]]) -> dict[tuple[int, int], int]:
    counts = {pair: int(np.count_nonzero(masks[pair[0]] & masks[pair[1]])) for pair in combinations(sorted(masks), 2)}
    return {pair: count for pair, count in counts.items() if count}

"""Features of whole cases that need no training, and who sent them: what linking and matching compare.

A case's features are those of a few evenly spaced slices, one after the other. Each scale counts alike. The mean over
all cases is taken away, so that what is compared is what tells cases apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ppcmi.audit.attacker import Seen
from ppcmi.audit.invariants import canonical_maps, norm_maps, slice_norms
from ppcmi.audit.subjects import thin
from ppcmi.codec.slice_set import SliceSet, join

SLICES_A_CASE = 8

Maps = Callable[[Seen], Mapping[str, Tensor]]
"""What is seen to maps ``(n, channels, h, w)`` of each scale."""

UNTRAINED: Mapping[str, Maps] = {
    "latents as they are": lambda seen: dict(seen.latents.items()),
    "canonical maps": canonical_maps,
    "maps of norms": norm_maps,
    "norms of slices": slice_norms,
}
"""By what a reader calls them."""


def evenly_thinned(*parts: SliceSet) -> SliceSet:
    """The cases of all parts, one after the other, each with the same number of evenly spaced slices."""
    whole = parts[0]
    for part in parts[1:]:
        whole = join(whole, part)
    fewest = int(torch.bincount(whole.case).min())
    return thin(whole, min(SLICES_A_CASE, fewest))


def case_features(seen: Seen, maps: Maps) -> Tensor:
    """Unit vectors ``(cases, values)`` float32; a product of two is their cosine.

    :param seen: cases with the same number of slices each, numbered from 0 without a gap, in order.
    """
    cases = int(seen.case.max()) + 1
    parts = []
    for values in maps(seen).values():
        rows = values.float().reshape(cases, -1)
        rows = rows - rows.mean(dim=0)
        parts.append(rows.div_(rows.norm(dim=1).mean().clamp_min(1e-12)))
    whole = torch.cat(parts, dim=1)
    return whole.div_(whole.norm(dim=1, keepdim=True).clamp_min(1e-12))  # in place: a gallery's latents are large

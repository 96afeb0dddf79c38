"""How cases are exported; plain facts, that need no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

FEW_CASES = 20
"""Up to so many labelled cases a site has few."""


@dataclass(frozen=True)
class ExportSettings:
    """How cases are exported.

    :param variants: augmented encodings of each case besides the case as it is; see :func:`usual_variants`.
    :param seed: of the augmentation.
    :param slices_per_bundle: also the largest batch of encoding.
    """

    variants: int = 0
    seed: int = 0
    slices_per_bundle: int = 64


def usual_variants(cases: int) -> int:
    """Augmented encodings of each of so many labelled cases: they help most where labels are few."""
    return 4 if cases <= FEW_CASES else 2

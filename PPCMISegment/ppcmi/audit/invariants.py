"""What an orthogonal mixing of the channels leaves as it is: maps that need no key (SECURITY, 1.4).

A channel mixing with a bias, fixed or fresh, is a rigid motion of the channel space, the same at every position. It
keeps the principal components over positions up to their sign, which their skewness settles, and without a bias the
norm at every position. The link layer of the two-layer KLT mixes positions too: these maps are noise there, but for one
number a scale, the norm of the whole slice, which every orthogonal mixing keeps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ppcmi.audit.attacker import Seen

COMPONENTS = 8


def canonical_maps(seen: Seen, components: int = COMPONENTS) -> dict[str, Tensor]:
    """Principal components over all positions of each case, in a form that no channel mixing changes.

    :returns: ``(n, components, h, w)`` float32 for each scale: largest component first, skewness not negative, divided
        by the case's first singular value times the root of the number of positions; zeros beyond the rank.
    """
    return {scale: _by_case(values, seen.case, components) for scale, values in seen.latents.items()}


def norm_maps(seen: Seen) -> dict[str, Tensor]:
    """The norm over the channels at every position: ``(n, 1, h, w)`` float32 for each scale."""
    return {scale: values.float().norm(dim=1, keepdim=True) for scale, values in seen.latents.items()}


def slice_norms(seen: Seen) -> dict[str, Tensor]:
    """The norm of the whole slice: ``(n, 1, 1, 1)`` float32 for each scale."""
    return {scale: values.float().flatten(1).norm(dim=1)[:, None, None, None] for scale, values in seen.latents.items()}


def _by_case(values: Tensor, case: Tensor, components: int) -> Tensor:
    count, _, rows, columns = values.shape
    maps = torch.zeros(count, components, rows, columns)
    for one in torch.unique(case).tolist():
        of_case = torch.nonzero(case == one)[:, 0]
        maps[of_case] = _canonical(values[of_case].float(), components)
    return maps


def _canonical(values: Tensor, components: int) -> Tensor:
    """One case's slices ``(n, C, h, w)`` to ``(n, components, h, w)``."""
    count, channels, rows, columns = values.shape
    positions = values.permute(0, 2, 3, 1).reshape(-1, channels)
    centered = positions - positions.mean(dim=0)
    strengths, directions = torch.linalg.eigh(centered.T @ centered)
    kept = min(components, channels, len(positions))
    order = torch.arange(channels - 1, channels - 1 - kept, -1)
    scores = centered @ directions[:, order]
    scores = scores * torch.where(scores.pow(3).sum(dim=0) < 0, -1.0, 1.0)
    first = strengths[-1].clamp_min(1e-12).sqrt() / len(positions) ** 0.5
    maps = torch.zeros(len(positions), components)
    maps[:, :kept] = scores / first
    return maps.reshape(count, rows, columns, components).permute(0, 3, 1, 2)

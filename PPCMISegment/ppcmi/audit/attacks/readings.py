"""Readings that need no key: maps of what is seen that no mixing of channels changes (SECURITY 1.4 and 2.1, A6/A7).

For latents ``z`` and ``z' = Q z + b`` with ``Q`` orthogonal, the same at every position of a case, the centered values'
principal components, norms and inner products are equal. A mixing of positions and channels together, as the link
layer's, keeps none of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ppcmi.audit.attacker import Seen
from ppcmi.audit.invariants import canonical_maps
from ppcmi.latents import Latents

COMPONENTS = 48
ANCHORS = 8
"""Rows and columns of the grid of places that inner products are taken with."""


def as_seen(seen: Seen) -> Latents:
    """The reading of who needs none: the latents as they are seen."""
    return seen.latents


def components_by_case(seen: Seen) -> Latents:
    """Principal components over the positions of each case: ``(n, COMPONENTS, h, w)`` for each scale."""
    return Latents(canonical_maps(seen, COMPONENTS))


def components_of_all(seen: Seen) -> Latents:
    """Principal components over the positions of all cases together, which were seen under one key."""
    return Latents(canonical_maps(Seen(seen.latents, torch.zeros_like(seen.case)), COMPONENTS))


def norms_and_products(seen: Seen) -> Latents:
    """Squared norms, and inner products with the means of a grid of places of the same slice, centered by case.

    ``(n, 1 + places, h, w)`` for each scale, divided by the case's mean squared norm.
    """

    def maps(_: str, values: Tensor) -> Tensor:
        centered = values.float().clone()
        for case in torch.unique(seen.case):
            own = seen.case == case
            centered[own] -= centered[own].mean(dim=(0, 2, 3), keepdim=True)
            centered[own] /= centered[own].square().sum(dim=1).mean().sqrt().clamp_min(1e-6)
        rows, columns = min(ANCHORS, values.shape[2]), min(ANCHORS, values.shape[3])
        places = F.adaptive_avg_pool2d(centered, (rows, columns)).flatten(2)
        products = torch.einsum("ncp,nchw->nphw", places, centered)
        return torch.cat((centered.square().sum(dim=1, keepdim=True), products), dim=1)

    return seen.latents.map(maps)


def mixed(latents: Latents, generator: torch.Generator) -> Latents:
    """The latents under a random orthogonal mixing of each scale's channels."""

    def mix(_: str, values: Tensor) -> Tensor:
        channels = values.shape[1]
        matrix = torch.linalg.qr(torch.randn(channels, channels, generator=generator)).Q
        return torch.einsum("dc,nchw->ndhw", matrix, values.float())

    return latents.map(mix)

"""An attacker's guess of what an unknown mixing of channels did, one affine map a scale, and the pictures behind it.

A channel mixing, keyed or not, is a rigid motion at every position (SECURITY, section 0): who finds it has plain
latents and decodes them. A map is fitted on vectors ``(m, C)``, one for every position of every slice, in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ppcmi.audit.metrics import middle
from ppcmi.codec.codec import Codec
from ppcmi.latents import Latents
from ppcmi.scales import Profile

SMALLEST_SHARE = 1e-9
"""Of the largest singular value: directions below it were not seen, and a map sends them to the mean."""


@dataclass(frozen=True, eq=False)
class AffineMap:
    """``z = (z' - seen_mean) matrix + own_mean`` for rows ``z'``."""

    matrix: Tensor
    seen_mean: Tensor
    own_mean: Tensor

    def apply(self, values: Tensor) -> Tensor:
        """Latents ``(n, C, h, w)`` of one scale, float32."""
        moved = (vectors(values) - self.seen_mean) @ self.matrix + self.own_mean
        n, _, h, w = values.shape
        return moved.reshape(n, h, w, -1).permute(0, 3, 1, 2).float()


@dataclass(frozen=True, eq=False)
class ChannelMap:
    """An affine map for every scale."""

    scales: Mapping[str, AffineMap]

    def apply(self, seen: Latents) -> Latents:
        """What is seen to the attacker's guess of plain latents."""
        return seen.map(lambda scale, values: self.scales[scale].apply(values))


def vectors(values: Tensor) -> Tensor:
    """Latents ``(n, C, h, w)`` as float64 rows ``(n h w, C)``, slice by slice."""
    return values.permute(0, 2, 3, 1).flatten(0, 2).double()


def orthogonal_map(seen: Tensor, own: Tensor) -> AffineMap:
    """The best rotation with a shift from rows ``seen`` to rows ``own`` (Schoenemann 1966); both ``(m, C)``."""
    seen_mean, own_mean = seen.mean(dim=0), own.mean(dim=0)
    return AffineMap(nearest_rotation((seen - seen_mean).T @ (own - own_mean)), seen_mean, own_mean)


def ridge_map(seen: Tensor, own: Tensor, strength: float) -> AffineMap:
    """The least-squares map with a shift, ``strength`` being the penalty relative to the mean variance."""
    seen_mean, own_mean = seen.mean(dim=0), own.mean(dim=0)
    x, y = seen - seen_mean, own - own_mean
    gram = x.T @ x
    penalty = strength * gram.diagonal().mean().clamp_min(1e-12)
    matrix = torch.linalg.solve(gram + penalty * torch.eye(len(gram), dtype=gram.dtype), x.T @ y)
    return AffineMap(matrix, seen_mean, own_mean)


def nearest_rotation(covariance: Tensor) -> Tensor:
    """The rotation ``R`` with the largest ``trace(R^T covariance)``; zero on directions that the covariance lacks."""
    u, strengths, vt = torch.linalg.svd(covariance)
    kept = strengths > SMALLEST_SHARE * strengths[0]
    rotation: Tensor = u[:, kept] @ vt[kept]
    return rotation


def draw(codec: Codec, plain: Latents) -> Tensor:
    """Pictures ``(n, h, w)`` in 0..1 that the codec's own image decoder makes of plain latents."""
    profile = next(p for p in (Profile.FULL, Profile.COARSE, Profile.MINIMAL) if p.scales == tuple(plain))
    return middle(codec.reconstruct_images(plain, profile)).float().clamp(0, 1).cpu()

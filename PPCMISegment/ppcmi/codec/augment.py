"""Random but anatomically plausible changes of labelled slices, on the slices' own device.

Each slice gets a rotation, scale, shift and a smooth warp, and its intensities a gain, offset, gamma, blur or noise.
The same function serves the site's own training and the augmented encodings that it exports, so that the server's
network sees variety without the server ever seeing an image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """Standard deviations or maxima of the random changes.

    :param rotation_degrees: maximum.
    :param scale: maximum relative change of size.
    :param shift: maximum, relative to the slice's size.
    :param warp: standard deviation of the smooth displacement, relative to the slice's size.
    :param intensity: strength of gain, offset, gamma and noise; 1 is the default strength.
    """

    rotation_degrees: float = 15.0
    scale: float = 0.15
    shift: float = 0.08
    warp: float = 0.012
    intensity: float = 1.0


def augment_pair(
    slices: Tensor, labels: Tensor, generator: torch.Generator, augmentation: Augmentation | None = None
) -> tuple[Tensor, Tensor]:
    """Augment every slice independently.

    :param slices: ``(n, c, h, w)`` float32 in [0, 1].
    :param labels: ``(n, h, w)`` integers.
    :returns: new tensors of the same shapes and dtypes.
    """
    chosen = augmentation or Augmentation()
    grid = sampling_grid(len(slices), slices.shape[2:], generator, chosen).to(slices.device)
    moved = F.grid_sample(slices, grid, mode="bilinear", padding_mode="border", align_corners=False)
    moved_labels = F.grid_sample(labels[:, None].float(), grid, mode="nearest", align_corners=False)[:, 0]
    return _change_intensities(moved, generator, chosen.intensity), moved_labels.to(labels.dtype)


def sampling_grid(
    count: int, size: torch.Size | tuple[int, int], generator: torch.Generator, augmentation: Augmentation
) -> Tensor:
    """Where each output pixel samples its input: ``(n, h, w, 2)`` in [-1, 1] as ``grid_sample`` takes it."""

    def uniform(limit: float, *shape: int) -> Tensor:
        return (torch.rand(count, *shape, generator=generator) * 2 - 1) * limit

    angle = uniform(augmentation.rotation_degrees * math.pi / 180)
    scale = 1 + uniform(augmentation.scale, 2)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    rows, columns = size[0], size[1]
    aspect = rows / columns
    matrix = torch.stack(
        (
            torch.stack((cosine * scale[:, 0], -sine * aspect * scale[:, 1], uniform(2 * augmentation.shift)), dim=1),
            torch.stack((sine / aspect * scale[:, 0], cosine * scale[:, 1], uniform(2 * augmentation.shift)), dim=1),
        ),
        dim=1,
    )
    grid = F.affine_grid(matrix, [count, 1, rows, columns], align_corners=False)
    coarse = torch.randn(count, 2, 5, 5, generator=generator) * (2 * augmentation.warp)
    warp = F.interpolate(coarse, size=(rows, columns), mode="bicubic", align_corners=True)
    return grid + warp.permute(0, 2, 3, 1)


def _change_intensities(slices: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    count = len(slices)

    def normal(deviation: float) -> Tensor:
        return (torch.randn(count, 1, 1, 1, generator=generator) * deviation * strength).to(slices.device)

    changed = slices.clamp(0, 1).pow(normal(0.2).exp())
    changed = changed * normal(0.1).exp() + normal(0.05)
    noise = torch.randn(slices.shape, generator=generator).to(slices.device)
    changed = changed + noise * normal(0.03).abs()
    blurred = F.avg_pool2d(F.pad(changed, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    share = (torch.rand(count, 1, 1, 1, generator=generator) * 0.6 * strength).to(slices.device)
    chosen = (torch.rand(count, 1, 1, 1, generator=generator) < 0.3).to(slices.device)
    return torch.where(chosen, changed + share * (blurred - changed), changed).clamp(0, 1)

"""Mixing patches with references, and undoing it in an answer: equations 1 and 2 of Mixup-Privacy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_SHARE, LARGEST_SHARE = 0.1, 0.9
"""Of the target in a mixture: U(0, 1) without its ends, where a mixture is one of the two images as it is."""


@dataclass(frozen=True, eq=False)
class Mixture:
    """Patches that were mixed, and with what.

    :param pictures: ``(n, s, s, s)``: what leaves.
    :param references: labels of the references ``(n, s, s, s)`` uint8.
    :param share: ``(n,)`` of the target.
    """

    pictures: Tensor
    references: Tensor
    share: Tensor


def mix(targets: Tensor, references: Tensor, share: Tensor) -> Tensor:
    """``a x + (1 - a) r`` for ``(n, ...)`` each and ``a`` of shape ``(n,)``."""
    a = share.reshape(-1, *(1,) * (targets.ndim - 1))
    return a * targets + (1 - a) * references


def draw_shares(count: int, generator: torch.Generator) -> Tensor:
    """Shares of the target in ``count`` mixtures."""
    return torch.rand(count, generator=generator) * (LARGEST_SHARE - LEAST_SHARE) + LEAST_SHARE


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Labels ``(n, s, s, s)`` to float32 ``(n, classes, s, s, s)``."""
    return F.one_hot(labels.long(), classes).movedim(-1, 1).float()


def unmix_naively(answer: Tensor, references: Tensor, share: Tensor) -> Tensor:
    """``(y_mix - (1 - a) y_ref) / a``, cut off to probabilities: ``(n, K, s, s, s)`` all but the share.

    Where the server was right about the mixture that is the target's segmentation; its errors grow by ``1 / a``.
    """
    a = share.reshape(-1, 1, 1, 1, 1)
    found = ((answer - (1 - a) * references) / a).clamp(0, 1)
    return found / found.sum(dim=1, keepdim=True).clamp_min(1e-6)


def soft_to_latents(soft: Tensor) -> Tensor:
    """Soft segmentations ``(n, K, s, s, s)`` as the scale ``y`` of a bundle, ``(n, K s, s, s)``."""
    return soft.flatten(1, 2)


def latents_to_soft(values: Tensor) -> Tensor:
    """Inverse of :func:`soft_to_latents`; as many classes as there are cubes in it."""
    return values.reshape(len(values), -1, values.shape[-1], *values.shape[-2:])

"""Small made-up slices with two structures, for tests of networks and masks."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def make_masks(count: int, seed: int, size: int = 64) -> Tensor:
    """Labels ``(n, size, size)`` uint8: a lobed organ (1) with a smaller structure (2) at its side."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")

    def draw(low: float, high: float) -> Tensor:
        return (torch.rand(count, 1, 1, generator=generator) * (high - low) + low) * size

    center_row, center_column, radius = draw(0.4, 0.6), draw(0.35, 0.55), draw(0.14, 0.24)
    angle = torch.atan2(rows - center_row, columns - center_column)
    phase = torch.rand(count, 1, 1, generator=generator) * 2 * math.pi
    distance = torch.hypot(rows - center_row, columns - center_column)
    labels = (distance < radius * (1 + 0.2 * torch.sin(3 * angle + phase))).to(torch.uint8)
    beside = torch.hypot(rows - center_row, columns - center_column - radius * 1.1)
    labels[beside < draw(0.06, 0.1)] = 2
    return labels


def make_slices(labels: Tensor, seed: int, channels: int = 1) -> Tensor:
    """Noisy images ``(n, channels, h, w)`` float32 in [0, 1] of :func:`make_masks`."""
    generator = torch.Generator().manual_seed(seed)
    brightness = torch.tensor([0.25, 0.55, 0.8])[labels.long()]
    noise = torch.randn((len(labels), channels, *labels.shape[1:]), generator=generator) * 0.06
    return (brightness[:, None] + noise).clamp(0, 1)

"""The mapping network of Privacy-SF (PAPER): the published block without pyramid pooling, for whatever scales leave.

Convolutions 128-256-512, dropout, 512-1024, then a pooled encoder-decoder with skips, of three levels where the map has
room for three poolings and fewer where it is smaller; LeakyReLU 0.1 and batch normalization. The paper's abstract gives
no widths, so these are those of the block that came after it (:mod:`ppcmi_server.umn.published`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ppcmi.scales import Shapes
from ppcmi_server.umn.published import down_and_up, leaky_stage

LEVELS = (352, 256, 160)
"""Widths on the way down."""


class PlainBlock(nn.Module):
    """One scale's image latents ``(n, inputs, h, w)`` to its mask latents ``(n, outputs, h, w)``.

    :param poolings: how many halvings the map has room for, at most three.
    """

    def __init__(self, inputs: int, outputs: int, poolings: int) -> None:
        super().__init__()
        widths = LEVELS[:poolings]
        bottom = widths[-1] if widths else 1024
        self.entry = nn.Sequential(
            leaky_stage(inputs, 128),
            leaky_stage(128, 256),
            leaky_stage(256, 512),
            nn.Dropout2d(0.2),
            leaky_stage(512, 1024),
        )
        self.downs = nn.ModuleList(leaky_stage(i, o) for i, o in zip((1024, *widths), widths, strict=False))
        self.bottom = leaky_stage(bottom, 256)
        self.ups = nn.ModuleList(leaky_stage(256 + width, 256) for width in reversed(widths))
        self.exit = nn.Conv2d(256, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map."""
        return torch.as_tensor(self.exit(down_and_up(self.entry(x), self.downs, self.bottom, self.ups))).float()


class PrivacySfMappingNetwork(nn.Module):
    """A block for each scale that leaves; as published that is ``b`` alone."""

    def __init__(self, images: Shapes, masks: Shapes) -> None:
        super().__init__()
        self.scales: Sequence[str] = tuple(images)
        self.blocks = nn.ModuleDict(
            {
                s: PlainBlock(channels, masks[s][0], _poolings(min(rows, columns)))
                for s, (channels, rows, columns) in images.items()
            }
        )

    def forward(self, images: Mapping[str, Tensor], codec: int = 0) -> dict[str, Tensor]:
        """Map; one network serves every codec, so ``codec`` makes no difference."""
        return {s: self.blocks[s](images[s]) for s in self.scales}


def _poolings(smallest: int) -> int:
    """How often a map of so many rows or columns can be halved, at most three times."""
    return min(len(LEVELS), smallest.bit_length() - 1)

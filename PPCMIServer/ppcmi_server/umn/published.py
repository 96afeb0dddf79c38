"""The published unified mapping network (PAPER): one independent mapping block a scale, 58.8 million parameters.

Convolutions 128-256-512, dropout, pyramid pooling, 512-1024, then a three-level pooled encoder-decoder with skips and a
second pyramid pooling; LeakyReLU 0.1 and batch normalization. Two deliberate differences from the published code:
the pyramid really pools to 1, 3, 5 and 7 cells, and the output is linear where latents may be negative.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppcmi.errors import TrainingError
from ppcmi.scales import Shapes

POOL_SIZES = (1, 3, 5, 7)
SMALLEST_MAP = 8
"""Rows and columns that three poolings need."""


def leaky_stage(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    """Convolution, batch normalization, LeakyReLU 0.1."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(0.1, inplace=True),
    )


def down_and_up(x: Tensor, downs: nn.ModuleList, bottom: nn.Module, ups: nn.ModuleList) -> Tensor:
    """A pooled encoder-decoder with a skip at every level; as many ``downs`` as ``ups``."""
    skips = []
    for down in downs:
        x = down(x)
        skips.append(x)
        x = F.max_pool2d(x, 2)
    x = bottom(x)
    for up, skip in zip(ups, reversed(skips), strict=True):
        x = up(torch.cat((F.interpolate(x, skip.shape[2:], mode="bilinear", align_corners=False), skip), dim=1))
    return x


class PyramidPooling(nn.Module):
    """Averages over 1, 3, 5 and 7 cells a side, each reduced to a quarter of the channels, beside the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(channels, channels // 4, 1) for _ in POOL_SIZES)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, c, h, w)`` to ``(n, 2 c, h, w)``."""
        pooled = [
            F.interpolate(branch(F.adaptive_avg_pool2d(x, size)), x.shape[2:], mode="bilinear", align_corners=False)
            for size, branch in zip(POOL_SIZES, self.branches, strict=True)
        ]
        return torch.cat((x, *pooled), dim=1)


class MappingBlock(nn.Module):
    """One scale's image latents ``(n, inputs, h, w)`` to its mask latents ``(n, outputs, h, w)``."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.entry = nn.Sequential(
            leaky_stage(inputs, 128),
            leaky_stage(128, 256),
            leaky_stage(256, 512),
            nn.Dropout2d(0.2),
            PyramidPooling(512),
        )
        self.widen = nn.Sequential(leaky_stage(1024, 512), leaky_stage(512, 1024))
        # The paper gives the totals only (58.8 M parameters, 43.6 GFLOP); these widths meet both within 0.3 %.
        self.downs = nn.ModuleList(leaky_stage(i, o) for i, o in ((1024, 352), (352, 256), (256, 160)))
        self.bottom = nn.Sequential(PyramidPooling(160), leaky_stage(320, 160))
        self.ups = nn.ModuleList(leaky_stage(i, 256) for i in (160 + 160, 256 + 256, 256 + 352))
        self.exit = nn.Conv2d(256, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map."""
        x = down_and_up(self.widen(self.entry(x)), self.downs, self.bottom, self.ups)
        return torch.as_tensor(self.exit(x)).float()


class PublishedMappingNetwork(nn.Module):
    """A mapping block for each scale, independent of each other.

    :raises TrainingError: if a scale is smaller than 8 x 8.
    """

    def __init__(self, images: Shapes, masks: Shapes) -> None:
        super().__init__()
        if min(min(rows, columns) for _, rows, columns in images.values()) < SMALLEST_MAP:
            raise TrainingError(
                "The published network needs slices of at least 256 x 256; train with --preset default."
            )
        self.scales: Sequence[str] = tuple(images)
        self.blocks = nn.ModuleDict({s: MappingBlock(images[s][0], masks[s][0]) for s in self.scales})

    def forward(self, images: Mapping[str, Tensor], codec: int = 0) -> dict[str, Tensor]:
        """Map; one network serves every codec, so ``codec`` makes no difference."""
        return {s: self.blocks[s](images[s]) for s in self.scales}

"""Image autoencoder of our codecs: slices to latents at three scales, and back from the scales that left.

The stem is a pixel unshuffle, so that no convolution runs at full resolution; the latents come from 1 x 1 convolutions
without an activation, free to be negative, as rotation, quantization and regression want them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppcmi.codec.blocks import residual_stage
from ppcmi.latents import Latents
from ppcmi.scales import SCALE_CHANNELS, SCALES

STEM = 4


class ImageEncoder(nn.Module):
    """Slices ``(n, c, h, w)`` in [0, 1] to latents ``s3``, ``s4``, ``b``."""

    def __init__(self, channels: int, width: int = 48, depth: int = 2) -> None:
        super().__init__()
        widths = (width, *(SCALE_CHANNELS[s] for s in SCALES))
        self.stem = nn.Conv2d(channels * STEM**2, width, 3, padding=1)
        self.stem_stage = residual_stage(width, depth)
        self.downs = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairwise(widths))
        self.stages = nn.ModuleList(residual_stage(w, depth) for w in widths[1:])
        self.heads = nn.ModuleList(nn.Conv2d(w, w, 1) for w in widths[1:])

    def forward(self, slices: Tensor) -> Latents:
        """Encode; the latents are not standardized yet."""
        x = self.stem_stage(self.stem(F.pixel_unshuffle(slices - 0.5, STEM)))
        scales = {}
        for scale, down, stage, head in zip(SCALES, self.downs, self.stages, self.heads, strict=True):
            x = stage(down(x))
            scales[scale] = head(x).float()
        return Latents(scales)


class ImageDecoder(nn.Module):
    """Latents of some scales back to slices ``(n, c, h, w)``: the encoder's training signal, not used to segment.

    :param latent_channels: of the latents, by scale.
    """

    def __init__(
        self,
        channels: int,
        scales: Sequence[str],
        width: int = 48,
        latent_channels: Mapping[str, int] = SCALE_CHANNELS,
    ) -> None:
        super().__init__()
        self.scales = tuple(scales)
        widths = {s: SCALE_CHANNELS[s] for s in SCALES}
        self.joins = nn.ModuleDict({s: nn.Conv2d(latent_channels[s], widths[s], 1) for s in self.scales})
        self.stages = nn.ModuleDict({s: residual_stage(widths[s], 1) for s in SCALES})
        finer = {"b": widths["s4"], "s4": widths["s3"], "s3": width}
        self.ups = nn.ModuleDict({s: nn.Conv2d(widths[s], 4 * finer[s], 1) for s in SCALES})
        self.output = nn.Conv2d(width, channels * STEM**2, 3, padding=1)

    def forward(self, latents: Latents) -> Tensor:
        """Reconstruct from this decoder's scales of ``latents``; others are ignored."""
        x: Tensor | None = None
        for scale in reversed(SCALES):
            if scale in self.scales:
                own = self.joins[scale](latents[scale])
                x = own if x is None else x + own
            if x is not None:
                x = F.pixel_shuffle(self.ups[scale](self.stages[scale](x)), 2)
        if x is None:
            raise ValueError("an image decoder needs at least one scale")
        return torch.as_tensor(F.pixel_shuffle(self.output(x), STEM) + 0.5)

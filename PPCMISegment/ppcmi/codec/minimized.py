"""The usual codec, minimized: of the image latents only what predicts the mask leaves, in a few channels.

The encoder of the preset ``autoencoder`` is taught to keep the image, which is what an attacker wants. Here a small
network, the *minimizer*, follows it and writes a few channels of each scale
(:data:`~ppcmi.scales.MINIMIZED_CHANNELS`). It learns from the error of the mask latents that a stand-in for the
server's network predicts from them under noise, and against an adversary that redraws the image: what a mask does not
need has little room and a reason not to pass. Of a slice of 64 x 64 pixels ``coarse`` then sends 192 numbers instead of
3072.

Image decoders are trained anew on what is left: what holders of all keys could see. The mask side is the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ppcmi.codec.autoencoder import PROFILES, AutoencoderCodecNetwork
from ppcmi.codec.blocks import residual_stage
from ppcmi.codec.image_autoencoder import ImageDecoder
from ppcmi.latents import Latents
from ppcmi.scales import MINIMIZED_CHANNELS, SCALE_CHANNELS, SCALES

_STEPS = (("s3", "s4"), ("s4", "b"))


class Minimizer(nn.Module):
    """Latents of all scales to the same with few channels; a scale depends on the finer ones."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleDict({s: nn.BatchNorm2d(SCALE_CHANNELS[s], affine=False) for s in SCALES})
        # PyTorch's group normalization of channels-last inputs that need no gradient ends the process; behind a
        # convolution they need one.
        self.entries = nn.ModuleDict({s: nn.Conv2d(SCALE_CHANNELS[s], SCALE_CHANNELS[s], 1) for s in SCALES})
        self.stages = nn.ModuleDict({s: residual_stage(SCALE_CHANNELS[s], 1) for s in SCALES})
        self.downs = nn.ModuleDict({f: nn.Conv2d(SCALE_CHANNELS[f], SCALE_CHANNELS[c], 2, stride=2) for f, c in _STEPS})
        self.heads = nn.ModuleDict({s: nn.Conv2d(SCALE_CHANNELS[s], MINIMIZED_CHANNELS[s], 1) for s in SCALES})

    def forward(self, latents: Latents) -> Latents:
        """Minimize."""
        kept, finer = {}, None
        for scale in SCALES:
            x = self.entries[scale](self.norms[scale](latents[scale]))
            x = self.stages[scale](x if finer is None else x + finer)
            finer = self.downs[scale](x) if scale in self.downs else None
            kept[scale] = self.heads[scale](F.silu(x)).float()
        return Latents(kept)


class ServerStandIn(nn.Module):
    """Predicts a profile's mask latents from minimized latents, down and up between scales, as the server will."""

    def __init__(self, scales: Sequence[str]) -> None:
        super().__init__()
        self.scales = tuple(scales)
        width = {s: SCALE_CHANNELS[s] for s in self.scales}
        pairs = list(zip(self.scales, self.scales[1:], strict=False))
        self.entries = nn.ModuleDict({s: nn.Conv2d(MINIMIZED_CHANNELS[s], width[s], 1) for s in self.scales})
        self.down_stages = nn.ModuleDict({s: residual_stage(width[s], 1) for s in self.scales})
        self.up_stages = nn.ModuleDict({s: residual_stage(width[s], 1) for s in self.scales})
        self.downs = nn.ModuleDict({f: nn.Conv2d(width[f], width[c], 2, stride=2) for f, c in pairs})
        self.ups = nn.ModuleDict({f: nn.Conv2d(width[c], 4 * width[f], 1) for f, c in pairs})
        self.exits = nn.ModuleDict({s: nn.Conv2d(width[s], width[s], 1) for s in self.scales})

    def forward(self, images: Latents) -> Latents:
        """Minimized latents, standardized, to standardized mask latents."""
        hidden, finer = {}, None
        for scale in self.scales:
            x = self.entries[scale](images[scale])
            hidden[scale] = x = self.down_stages[scale](x if finer is None else x + finer)
            finer = self.downs[scale](x) if scale in self.downs else None
        masks: dict[str, Tensor] = {}
        coarser: Tensor | None = None
        for scale in reversed(self.scales):
            x = hidden[scale]
            if coarser is not None:
                x = x + F.pixel_shuffle(self.ups[scale](coarser).contiguous(), 2)
            coarser = x = self.up_stages[scale](x)
            masks[scale] = self.exits[scale](F.silu(x)).float()
        return Latents(masks)


class MinimizedCodecNetwork(AutoencoderCodecNetwork):
    """The networks of ``autoencoder`` with a minimizer behind the image encoder."""

    def __init__(self, channels: int, classes: int, slice_size: Sequence[int]) -> None:
        super().__init__(channels, classes, slice_size)
        self.minimizer = Minimizer()
        self.image_decoders = nn.ModuleDict(
            {p: ImageDecoder(channels, p.scales, latent_channels=MINIMIZED_CHANNELS) for p in PROFILES}
        )

    def encode_images(self, slices: Tensor) -> Latents:
        """Slices ``(n, c, h, w)`` to latents of all scales, of few channels."""
        minimized: Latents = self.minimizer(super().encode_images(slices))
        return minimized

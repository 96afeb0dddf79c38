"""The codec of Privacy-SF (PAPER): the published encoder and a decoder without skips, so that only ``b`` leaves.

Kept to compare with. The mask decoder sees no image. Latents are the encoder's ReLU outputs as they are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppcmi.codec.mask_autoencoder import foreground
from ppcmi.codec.published import PublishedEncoder, probabilities_of, published_stage
from ppcmi.latents import Latents
from ppcmi.scales import Profile

DECODER_WIDTHS = ((256, 128), (128, 64), (64, 32), (32, 16), (16, 16))


class SkiplessEncoder(PublishedEncoder):
    """``(n, c, h, w)`` to ``b`` alone, 256 channels of h/32 x w/32."""

    def forward(self, x: Tensor) -> Latents:
        """Encode."""
        return Latents({"b": super().forward(x)["b"]})


class SkiplessDecoder(nn.Module):
    """``b`` to logits ``(n, c, h, w)`` before the sigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ups = nn.ModuleList(published_stage(inputs, outputs) for inputs, outputs in DECODER_WIDTHS)
        self.output = nn.Conv2d(16, channels, 3, padding=1)

    def forward(self, latents: Latents) -> Tensor:
        """Decode."""
        x = latents["b"]
        for up in self.ups:
            x = up(F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False))
        logits: Tensor = self.output(x)
        return logits.float()


class PrivacySfCodecNetwork(nn.Module):
    """Image and mask autoencoder; one-hot masks have a channel for each structure."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.image_encoder = SkiplessEncoder(channels)
        self.image_decoder = SkiplessDecoder(channels)
        self.mask_encoder = SkiplessEncoder(classes - 1)
        self.mask_decoder = SkiplessDecoder(classes - 1)

    def encode_images(self, slices: Tensor) -> Latents:
        """Slices ``(n, c, h, w)`` to latents of the scale ``b``."""
        latents: Latents = self.image_encoder(slices)
        return latents

    def reconstruct_images(self, latents: Latents, profile: Profile) -> Tensor:
        """Latents back to slices."""
        return torch.sigmoid(self.image_decoder(latents))

    def encode_masks(self, labels: Tensor) -> Latents:
        """Labels ``(n, h, w)`` to latents of the scale ``b``."""
        latents: Latents = self.mask_encoder(foreground(labels, self.classes))
        return latents

    def decode_masks(self, latents: Latents, slices: Tensor, profile: Profile) -> Tensor:
        """Mask latents to probabilities ``(n, K + 1, h, w)``."""
        return probabilities_of(torch.sigmoid(self.mask_decoder(latents)))

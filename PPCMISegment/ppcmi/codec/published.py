"""The published codec (PAPER, reference configuration).

Five stride-2 convolutions down, bilinear steps up, skips at s4 and s3. Kept to reproduce and to compare. Latents are
the encoder's ReLU outputs as they are; the mask decoder sees no image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppcmi.codec.mask_autoencoder import foreground
from ppcmi.errors import TaskError
from ppcmi.latents import Latents
from ppcmi.scales import SCALES, Profile

WIDTHS = (16, 32, 64, 128, 256)


def published_stage(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Convolution 3 x 3, batch normalization, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class PublishedEncoder(nn.Module):
    """``(n, c, h, w)`` to ``s3`` (64 channels, h/8), ``s4`` (128, h/16) and ``b`` (256, h/32), all non-negative."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            published_stage(i, o, stride=2) for i, o in zip((channels, *WIDTHS), WIDTHS, strict=False)
        )

    def forward(self, x: Tensor) -> Latents:
        """Encode."""
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x.float())
        return Latents(dict(zip(SCALES, outputs[2:], strict=True)))


class PublishedDecoder(nn.Module):
    """All three scales to logits ``(n, c, h, w)`` before the sigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ups = nn.ModuleList(
            published_stage(i, o) for i, o in ((256, 128), (128 + 128, 64), (64 + 64, 32), (32, 16), (16, 16))
        )
        self.output = nn.Conv2d(16, channels, 3, padding=1)

    def forward(self, latents: Latents) -> Tensor:
        """Decode; ``s4`` and ``s3`` are the skips."""
        x = latents["b"]
        for index, up in enumerate(self.ups):
            x = up(F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False))
            if index < 2:
                x = torch.cat((x, latents[("s4", "s3")[index]]), dim=1)
        logits: Tensor = self.output(x)
        return logits.float()


class PublishedCodecNetwork(nn.Module):
    """Image and mask autoencoder as published; one-hot masks have a channel for each structure."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.image_encoder = PublishedEncoder(channels)
        self.image_decoder = PublishedDecoder(channels)
        self.mask_encoder = PublishedEncoder(classes - 1)
        self.mask_decoder = PublishedDecoder(classes - 1)

    def encode_images(self, slices: Tensor) -> Latents:
        """Slices ``(n, c, h, w)`` to latents of all scales."""
        latents: Latents = self.image_encoder(slices)
        return latents

    def reconstruct_images(self, latents: Latents, profile: Profile) -> Tensor:
        """Latents of all scales back to slices."""
        _require_all_scales(profile)
        return torch.sigmoid(self.image_decoder(latents))

    def encode_masks(self, labels: Tensor) -> Latents:
        """Labels ``(n, h, w)`` to latents of all scales."""
        latents: Latents = self.mask_encoder(foreground(labels, self.classes))
        return latents

    def decode_masks(self, latents: Latents, slices: Tensor, profile: Profile) -> Tensor:
        """Mask latents to probabilities ``(n, K + 1, h, w)``: the sigmoids, and the background as what is left."""
        _require_all_scales(profile)
        return probabilities_of(torch.sigmoid(self.mask_decoder(latents)))


def probabilities_of(masks: Tensor) -> Tensor:
    """Sigmoids ``(n, K, h, w)`` to probabilities ``(n, K + 1, h, w)`` with the background as what is left."""
    rest = (1 - masks.amax(dim=1, keepdim=True)).clamp_min(0)
    both = torch.cat((rest, masks), dim=1)
    return both / both.sum(dim=1, keepdim=True).clamp_min(1e-6)


def _require_all_scales(profile: Profile) -> None:
    if profile not in (Profile.PAPER, Profile.FULL):
        raise TaskError("The published codec needs all three scales; use the profile paper or full, or another codec.")

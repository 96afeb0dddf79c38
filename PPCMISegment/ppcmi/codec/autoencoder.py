"""Our codec without minimization: an image encoder that is taught what masks need, and a linear mask encoder.

The image encoder learns from two signals: the image, rebuilt from the scales of a random privacy profile (so that
``coarse`` and ``minimal`` stand on their own feet), and, where there are labels, the mask latents that a small network
predicts from it. Unlabelled images give the first.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppcmi.codec.blocks import LARGE_SLICE, residual_stage
from ppcmi.codec.image_autoencoder import ImageDecoder, ImageEncoder
from ppcmi.codec.mask_autoencoder import MaskDecoder, MaskEncoder, foreground
from ppcmi.latents import Latents
from ppcmi.scales import SCALE_CHANNELS, SCALES, Profile

PROFILES = (Profile.FULL, Profile.COARSE, Profile.MINIMAL)


def network_profile(profile: Profile) -> Profile:
    """The profile whose networks serve ``profile``: ``paper`` sends what ``full`` sends."""
    return Profile.FULL if profile is Profile.PAPER else profile


class MaskGuide(nn.Module):
    """Predicts mask latents from image latents while the codec is trained: what the server's network will do."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleDict({s: residual_stage(SCALE_CHANNELS[s], 1) for s in SCALES})
        self.downs = nn.ModuleDict(
            {c: nn.Conv2d(SCALE_CHANNELS[f], SCALE_CHANNELS[c], 2, stride=2) for f, c in (("s3", "s4"), ("s4", "b"))}
        )
        self.heads = nn.ModuleDict({s: nn.Conv2d(SCALE_CHANNELS[s], SCALE_CHANNELS[s], 1) for s in SCALES})

    def forward(self, images: Latents) -> Latents:
        """Unstandardized image latents to standardized mask latents."""
        masks, finer = {}, None
        for scale in SCALES:
            x = self.stages[scale](images[scale] if finer is None else images[scale] + self.downs[scale](finer))
            masks[scale], finer = self.heads[scale](F.silu(x)).float(), x
        return Latents(masks)


class AutoencoderCodecNetwork(nn.Module):
    """All networks of the preset ``autoencoder``, for slices of ``slice_size``; latents here are not standardized."""

    def __init__(self, channels: int, classes: int, slice_size: Sequence[int]) -> None:
        super().__init__()
        self.classes = classes
        stem = 4 if slice_size[0] >= LARGE_SLICE else 2
        self.image_encoder = ImageEncoder(channels)
        self.image_decoders = nn.ModuleDict({p: ImageDecoder(channels, p.scales) for p in PROFILES})
        self.mask_encoder = MaskEncoder(classes - 1)
        self.mask_decoders = nn.ModuleDict({p: MaskDecoder(channels, classes - 1, p.scales, stem) for p in PROFILES})

    def encode_images(self, slices: Tensor) -> Latents:
        """Slices ``(n, c, h, w)`` to latents of all scales."""
        latents: Latents = self.image_encoder(slices)
        return latents

    def reconstruct_images(self, latents: Latents, profile: Profile) -> Tensor:
        """Latents of a profile's scales back to slices."""
        return torch.as_tensor(self.image_decoders[network_profile(profile)](latents))

    def encode_masks(self, labels: Tensor) -> Latents:
        """Labels ``(n, h, w)`` to latents of all scales."""
        latents: Latents = self.mask_encoder(foreground(labels, self.classes))
        return latents

    def decode_masks(self, latents: Latents, slices: Tensor, profile: Profile) -> Tensor:
        """Mask latents and the site's slices to probabilities ``(n, K + 1, h, w)``."""
        return self.mask_logits(latents, slices, profile).softmax(dim=1)

    def mask_logits(self, latents: Latents, slices: Tensor, profile: Profile) -> Tensor:
        """Mask latents and the site's slices to logits ``(n, K + 1, h, w)``."""
        chosen = network_profile(profile)
        soft_masks = self.mask_encoder.soft_masks(latents, chosen.scales)
        return torch.as_tensor(self.mask_decoders[chosen](soft_masks, slices))

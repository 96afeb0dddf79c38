"""Training of the minimized preset's last step, after everything of the default preset is trained."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppcmi.codec.augment import augment_pair
from ppcmi.codec.codec import Codec
from ppcmi.codec.default import PROFILES, DefaultCodecNetwork
from ppcmi.codec.minimized import KEPT, MinimizedCodecNetwork, ServerStandIn, padded
from ppcmi.codec.slice_set import SliceSet
from ppcmi.fitting import FitConfig, Report, fit
from ppcmi.latents import Latents
from ppcmi.scales import Stream

NOISE = 0.2
"""Deviation of the noise on minimized latents while their encoder learns, relative to theirs.

Without it, it could write the image into digits that the mask does not need.
"""


def train_minimizer(
    codec: Codec, labelled: SliceSet, config: FitConfig, generator: torch.Generator, report: Report
) -> None:
    """Train the minimizer in place, by what the mask needs. The codec's other networks stay as they are."""
    network = cast(MinimizedCodecNetwork, codec.network)
    labels, masks = labelled.known_labels, codec.standardization(Stream.MASK)
    parts = _Training(network).to(codec.device)

    def loss_of(index: Tensor) -> Tensor:
        slices, truth = augment_pair(labelled.slices[index].to(codec.device), labels[index].to(codec.device), generator)
        with torch.no_grad():
            target = masks.apply_to(network.encode_masks(truth))
            latents = DefaultCodecNetwork.encode_images(network, slices)
        profile = PROFILES[int(torch.randint(len(PROFILES), (1,), generator=generator))]
        sent = _standardized(parts.minimizer(latents).of(profile))
        noisy = sent.map(lambda _, v: v + NOISE * torch.randn(v.shape, generator=generator).to(v.device))
        guess = parts.servers[profile](noisy)
        return torch.stack([F.mse_loss(guess[s], target[s]) for s in profile.scales]).mean()

    fit("minimizer", parts, loss_of, len(labelled), config, generator=generator, report=report)


def train_image_decoders(
    codec: Codec, images: Tensor, config: FitConfig, generator: torch.Generator, report: Report
) -> None:
    """Train image decoders on the minimized, standardized latents as they are now: what is left of the image."""
    network = cast(MinimizedCodecNetwork, codec.network)

    def loss_of(index: Tensor) -> Tensor:
        slices = images[index].to(codec.device)
        with torch.no_grad():
            latents = network.encode_images(slices)
        profile = PROFILES[int(torch.randint(len(PROFILES), (1,), generator=generator))]
        return F.mse_loss(network.reconstruct_images(latents, profile).float(), slices)

    fit("image decoders", network.image_decoders, loss_of, len(images), config, generator=generator, report=report)


class _Training(nn.Module):
    """What is trained together: the minimizer, and a stand-in for the server's network for each profile."""

    def __init__(self, network: MinimizedCodecNetwork) -> None:
        super().__init__()
        self.minimizer = network.minimizer
        self.servers = nn.ModuleDict({profile: ServerStandIn(profile.scales) for profile in PROFILES})


def _standardized(latents: Latents) -> Latents:
    """Kept channels with mean 0 and deviation 1 over the batch: their size carries nothing."""
    return latents.map(
        lambda s, v: padded(F.batch_norm(v[:, : KEPT[s]].contiguous(), None, None, training=True, eps=1e-4), s)
    )

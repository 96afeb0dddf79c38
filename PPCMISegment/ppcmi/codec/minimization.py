"""From a trained codec of the preset ``autoencoder`` to a minimized one.

The minimizer learns what the mask needs, against an adversary that learns at the same time to redraw the image from
what is sent. An attacker trains anew, on what the finished codec sends; the image decoders do so here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppcmi.codec.augment import augment_pair
from ppcmi.codec.autoencoder import PROFILES, AutoencoderCodecNetwork
from ppcmi.codec.blocks import LARGE_SLICE
from ppcmi.codec.codec import Codec
from ppcmi.codec.image_autoencoder import ImageDecoder
from ppcmi.codec.minimized import MinimizedCodecNetwork, ServerStandIn
from ppcmi.codec.slice_set import SliceSet
from ppcmi.fitting import FitConfig, Report, fit
from ppcmi.latents import Latents
from ppcmi.scales import MINIMIZED_CHANNELS, Stream

NOISE = 0.2
"""Deviation of the noise on minimized latents while their encoder learns, relative to theirs.

Without it, it could write the image into digits that the mask does not need.
"""


def minimize(
    autoencoder: Codec,
    labelled: SliceSet,
    images: Tensor,
    config: FitConfig,
    adversary_weight: float,
    *,
    seed: int,
    report: Report,
) -> Codec:
    """A minimized codec; what it shares with the trained ``autoencoder`` stays as it is.

    :param images: slices to train the image decoders on, with and without labels.
    :param adversary_weight: see :func:`train_minimizer`.
    """
    generator = torch.Generator().manual_seed(seed)
    if autoencoder.task.slicing.size[0] >= LARGE_SLICE:
        # A batch is for the statistics of its positions, of which large slices have more.
        config = replace(config, batch_size=max(4, config.batch_size // 4))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        codec = Codec(autoencoder.task, "minimized").to(autoencoder.device)
        _take_over(codec, autoencoder)
        train_minimizer(codec, labelled, config, adversary_weight, generator, report)
        codec.standardize_images(labelled.slices)
        train_image_decoders(codec, images, config, generator, report)
    return codec.eval()


def _take_over(codec: Codec, autoencoder: Codec) -> None:
    """Give a minimized codec all weights of its autoencoder but those that its fewer channels leave no place for."""
    own = codec.state_dict()
    fit = {name: values for name, values in autoencoder.state_dict().items() if values.shape == own[name].shape}
    codec.load_state_dict(own | fit)


def train_minimizer(
    codec: Codec,
    labelled: SliceSet,
    config: FitConfig,
    adversary_weight: float,
    generator: torch.Generator,
    report: Report,
) -> None:
    """Train the minimizer in place; the codec's other networks stay as they are.

    :param adversary_weight: what the share of the image's variance that the adversary redraws counts beside the error
        of the mask latents, whose variance is 1.
    """
    network = cast(MinimizedCodecNetwork, codec.network)
    labels, masks = labelled.known_labels, codec.standardization(Stream.MASK)
    parts = _Training(network).to(codec.device)
    mean = labelled.slices.mean(dim=0).to(codec.device)
    adversaries = nn.ModuleDict(
        {p: ImageDecoder(len(mean), p.scales, latent_channels=MINIMIZED_CHANNELS) for p in PROFILES}
    ).to(codec.device)
    optimizer = torch.optim.AdamW(adversaries.parameters(), lr=2 * config.learning_rate)

    def redrawn(adversary: nn.Module, sent: Latents, slices: Tensor) -> Tensor:
        """Share of the slices' variance about the mean picture; first the adversary learns."""
        error = F.mse_loss(adversary(sent.map(lambda _, v: v.detach())).float(), slices)
        optimizer.zero_grad(set_to_none=True)
        error.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return 1 - F.mse_loss(adversary(sent).float(), slices) / (slices - mean).square().mean()

    def loss_of(index: Tensor) -> Tensor:
        slices, truth = augment_pair(labelled.slices[index].to(codec.device), labels[index].to(codec.device), generator)
        with torch.no_grad():
            target = masks.apply_to(network.encode_masks(truth))
            latents = AutoencoderCodecNetwork.encode_images(network, slices)
        profile = PROFILES[int(torch.randint(len(PROFILES), (1,), generator=generator))]
        sent = _standardized(parts.minimizer(latents).of(profile))
        noisy = sent.map(lambda _, v: v + NOISE * torch.randn(v.shape, generator=generator).to(v.device))
        guess = parts.servers[profile](noisy)
        task = torch.stack([F.mse_loss(guess[s], target[s]) for s in profile.scales]).mean()
        # Below 0 the adversary is worse than the mean picture, which is nothing to gain by.
        return task + adversary_weight * redrawn(adversaries[profile], sent, slices).clamp_min(0)

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
    """Every channel with mean 0 and deviation 1 over the batch: their size carries nothing."""
    return latents.map(lambda _, v: F.batch_norm(v, None, None, training=True, eps=1e-4))

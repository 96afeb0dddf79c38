"""Training a codec at the site that makes it: image autoencoder, mask autoencoder, and the consortium's local network.

Only this site's images and masks are seen. Images without labels help the image autoencoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppcmi import __version__
from ppcmi.codec.augment import Augmentation, augment_pair, sampling_grid
from ppcmi.codec.autoencoder import PROFILES, AutoencoderCodecNetwork, MaskGuide
from ppcmi.codec.codec import Codec
from ppcmi.codec.local_network import LocalNetwork
from ppcmi.codec.losses import published_mask_loss, segmentation_loss
from ppcmi.codec.mask_autoencoder import foreground
from ppcmi.codec.minimization import minimize
from ppcmi.codec.presets import Preset
from ppcmi.codec.privacy_sf import PrivacySfCodecNetwork
from ppcmi.codec.published import PublishedCodecNetwork
from ppcmi.codec.quality import mean_dice, measure_codec, peak_signal_to_noise
from ppcmi.codec.slice_set import SliceSet, hold_out
from ppcmi.device import mixed_precision
from ppcmi.fitting import FitConfig, Report, fit, ignore_report
from ppcmi.methods.mixup.training import train_mixup
from ppcmi.methods.mixup.unmixing import UnmixingNetwork
from ppcmi.scales import SCALES, Profile, Stream
from ppcmi.task import Task


@dataclass(frozen=True)
class CodecTrainingConfig:
    """How a codec is trained; recorded in it.

    :param minimizer: of the preset ``minimized`` alone: its minimizer, and the image decoders on what that leaves;
        large slices come in batches of a quarter.
    :param adversary_weight: of ``minimized`` alone: how much it counts that less of the image can be redrawn.
    :param guide_weight: weight of the mask latents' error in the image encoder's loss.
    :param latent_noise: largest standard deviation of the noise on mask latents while their decoder is trained,
        relative to the latents' own.
    :param uncertainty: largest shift and stretch, relative to the slice, of the copies whose average stands for an
        unsure prediction while the mask decoder is trained.
    :param held_out_share: share of the labelled cases that the quality report is measured on, if no others are given.
    """

    preset: Preset = "minimized"
    seed: int = 1
    images: FitConfig = field(default_factory=lambda: FitConfig(epochs=12, minimum_steps=600, patience=6))
    masks: FitConfig = field(default_factory=lambda: FitConfig(epochs=4, minimum_steps=250, patience=3))
    local: FitConfig = field(default_factory=lambda: FitConfig(epochs=10, minimum_steps=500))
    minimizer: FitConfig = field(
        default_factory=lambda: FitConfig(epochs=4, batch_size=32, learning_rate=1e-3, minimum_steps=500)
    )
    adversary_weight: float = 3.0
    guide_weight: float = 1.0
    latent_noise: float = 0.5
    uncertainty: float = 0.06
    held_out_share: float = 0.15


def train_codec(
    labelled: SliceSet,
    task: Task,
    config: CodecTrainingConfig,
    *,
    held_out: SliceSet | None = None,
    unlabelled: Sequence[Tensor] = (),
    device: torch.device | None = None,
    report: Report = ignore_report,
) -> Codec:
    """Train a codec of the preset in ``config``.

    :param labelled: this site's labelled cases.
    :param held_out: labelled cases to judge the codec on; None sets some of ``labelled`` apart.
    :param unlabelled: stacks of slices ``(n, c, h, w)`` without labels, for the image autoencoder.
    :raises TrainingError: if there is too little to train on, or training diverges.
    :raises CancelledError: from ``report``.
    """
    generator = torch.Generator().manual_seed(config.seed)
    if held_out is None:
        labelled, held_out = hold_out(labelled, config.held_out_share, generator)
    images = torch.cat((labelled.slices, *unlabelled))
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        first: Preset = "autoencoder" if config.preset == "minimized" else config.preset
        codec = Codec(task, first).to(device or torch.device("cpu"))
        if config.preset == "mixup":
            unmixing = cast(UnmixingNetwork, codec.network)
            train_mixup(unmixing, labelled, task, config.masks, generator=generator, report=report)
        elif not codec.follows_a_paper:
            _train_autoencoder(codec, labelled, images, _sample(held_out), config, generator=generator, report=report)
        else:
            _train_published(codec, labelled, images, _sample(held_out), config, generator=generator, report=report)
        if task.method == "ppcmi":  # the systems that it is compared with have no such network
            train_local_network(codec.local, labelled, config.local, generator, report=report)
    if config.preset == "minimized":
        codec = minimize(
            codec, labelled, images, config.minimizer, config.adversary_weight, seed=config.seed, report=report
        )
    codec.report = {
        "quality": measure_codec(codec, held_out).document(),
        "config": asdict(config),
        "cases": labelled.cases,
        "version": __version__,
    }
    return codec


def train_local_network(
    network: LocalNetwork,
    labelled: SliceSet,
    config: FitConfig,
    generator: torch.Generator,
    *,
    report: Report = ignore_report,
) -> None:
    """Train a site's own network in place, on augmented slices."""
    device = next(network.parameters()).device
    labels = labelled.known_labels

    def loss_of(index: Tensor) -> Tensor:
        slices, truth = augment_pair(labelled.slices[index].to(device), labels[index].to(device), generator)
        return segmentation_loss(network(slices.contiguous(memory_format=torch.channels_last)), truth)

    fit("local network", network, loss_of, len(labelled), config, generator=generator, report=report)


@torch.inference_mode()
def predict_locally(network: LocalNetwork, slices: Tensor, batch: int = 32) -> Tensor:
    """Probabilities ``(n, classes, h, w)`` of slices ``(n, c, h, w)`` from the site's own network."""
    device = next(network.parameters()).device
    with mixed_precision(device):
        parts = [
            network(part.to(device).contiguous(memory_format=torch.channels_last)).softmax(dim=1)
            for part in torch.split(slices, batch)
        ]
    return torch.cat(parts)


class _ImageTraining(nn.Module):
    """What is trained together with the image encoder and its decoders."""

    def __init__(self, network: AutoencoderCodecNetwork) -> None:
        super().__init__()
        self.encoder, self.decoders = network.image_encoder, network.image_decoders
        self.guide = MaskGuide()


def _train_autoencoder(
    codec: Codec,
    labelled: SliceSet,
    images: Tensor,
    held_out: SliceSet,
    config: CodecTrainingConfig,
    *,
    generator: torch.Generator,
    report: Report,
) -> None:
    network = cast(AutoencoderCodecNetwork, codec.network)
    device, classes, labels = codec.device, codec.task.classes, labelled.known_labels
    _, varied = augment_pair(labelled.slices, labels, generator)
    examples = foreground(torch.cat((labels, varied)), classes)
    network.mask_encoder.fit(examples[examples.flatten(1).any(dim=1)].to(device))
    _standardize_masks(codec, labels)

    parts = _ImageTraining(network).to(device)
    standardization = codec.standardization(Stream.MASK)

    def image_loss(index: Tensor) -> Tensor:
        known = index < len(labelled)
        truth = torch.zeros(len(index), *images.shape[2:], dtype=labels.dtype)
        truth[known] = labels[index[known]]
        slices, moved = augment_pair(images[index].to(device), truth.to(device), generator)
        latents = parts.encoder(slices)
        profile = PROFILES[int(torch.randint(len(PROFILES), (1,), generator=generator))]
        rebuilt = parts.decoders[profile](latents)
        loss = (rebuilt - slices).abs().mean() + 2 * (rebuilt - slices).square().mean()
        if known.any():
            target = standardization.apply_to(network.encode_masks(moved[known]))
            guess = parts.guide(latents.select(known.to(device)))
            loss = loss + config.guide_weight * sum(F.mse_loss(guess[s], target[s]) for s in SCALES)
        return torch.as_tensor(loss)

    sample = held_out.slices.to(device)

    def image_score() -> float:
        latents = parts.encoder(sample)
        return peak_signal_to_noise(parts.decoders[Profile.COARSE](latents).clamp(0, 1), sample)

    fit(
        "image autoencoder",
        parts,
        image_loss,
        len(images),
        config.images,
        generator=generator,
        report=report,
        score=image_score,
    )
    codec.standardize_images(labelled.slices)

    def mask_loss(index: Tensor) -> Tensor:
        slices, truth = augment_pair(labelled.slices[index].to(device), labels[index].to(device), generator)
        latents = standardization.apply_to(
            network.mask_encoder(_unsure_masks(foreground(truth, classes), config.uncertainty, generator))
        )
        noise = torch.rand(len(index), 1, 1, 1, generator=generator).to(device) * config.latent_noise
        noisy = latents.map(lambda _, v: v + noise * torch.randn(v.shape, generator=generator).to(device))
        # Now and then a decoder works without the image, so that a mask never depends on it.
        seen = (torch.rand(len(index), 1, 1, 1, generator=generator) < 0.8).to(device)
        plain = standardization.remove_from(noisy)
        return torch.as_tensor(
            sum(segmentation_loss(network.mask_logits(plain, slices * seen, p), truth) for p in PROFILES)
        )

    def mask_score() -> float:
        decoded = codec.decode_masks(codec.encode_masks(held_out.known_labels), sample, Profile.COARSE)
        return mean_dice(decoded.argmax(dim=1), held_out, classes)

    fit(
        "mask autoencoder", network.mask_decoders, mask_loss, len(labelled), config.masks,
        generator=generator, report=report, score=mask_score,
    )  # fmt: skip


def _train_published(
    codec: Codec,
    labelled: SliceSet,
    images: Tensor,
    held_out: SliceSet,
    config: CodecTrainingConfig,
    *,
    generator: torch.Generator,
    report: Report,
) -> None:
    network = cast(PublishedCodecNetwork | PrivacySfCodecNetwork, codec.network)
    device, classes, labels = codec.device, codec.task.classes, labelled.known_labels
    sample, sample_masks = held_out.slices.to(device), foreground(held_out.known_labels.to(device), classes)

    def image_loss(index: Tensor) -> Tensor:
        slices = images[index].to(device)
        return published_mask_loss(network.image_decoder(network.image_encoder(slices)), slices)

    image_parts = nn.ModuleList((network.image_encoder, network.image_decoder))

    def image_score() -> float:
        return -float(published_mask_loss(network.image_decoder(network.image_encoder(sample)), sample))

    schedule = _published_schedule(config.images)
    fit(
        "image autoencoder", image_parts, image_loss, len(images), schedule,
        generator=generator, report=report, score=image_score,
    )  # fmt: skip

    def mask_loss(index: Tensor) -> Tensor:
        masks = foreground(labels[index].to(device), classes)
        return published_mask_loss(network.mask_decoder(network.mask_encoder(masks)), masks)

    mask_parts = nn.ModuleList((network.mask_encoder, network.mask_decoder))

    def mask_score() -> float:
        return -float(published_mask_loss(network.mask_decoder(network.mask_encoder(sample_masks)), sample_masks))

    schedule = _published_schedule(config.masks)
    fit(
        "mask autoencoder", mask_parts, mask_loss, len(labelled), schedule,
        generator=generator, report=report, score=mask_score,
    )  # fmt: skip


def _sample(held_out: SliceSet) -> SliceSet:
    """At most 256 of the slices, evenly drawn: enough to stop early on."""
    index = torch.arange(0, len(held_out), max(1, len(held_out) // 256))
    return SliceSet(
        held_out.slices[index], held_out.known_labels[index], torch.unique(held_out.case[index], return_inverse=True)[1]
    )


def _published_schedule(config: FitConfig) -> FitConfig:
    return replace(config, learning_rate=1e-3, batch_size=16, weight_decay=0.0)


def _standardize_masks(codec: Codec, labels: Tensor) -> None:
    # One number a scale: with an orthonormal encoder an error of the latents then still is an error of the mask.
    for scale, values in codec.encode_masks(labels).items():
        codec.standardization(Stream.MASK).set(scale, 0.0, values.square().mean().sqrt().clamp_min(1e-6))


def _unsure_masks(masks: Tensor, limit: float, generator: torch.Generator) -> Tensor:
    """Averages of three slightly moved copies of each mask ``(n, K, h, w)``: what an unsure network predicts."""
    strength = float(torch.rand(1, generator=generator)) * limit
    change = Augmentation(rotation_degrees=60 * strength, scale=strength, shift=strength / 2, warp=strength / 6)
    total = torch.zeros_like(masks)
    for _ in range(3):
        grid = sampling_grid(len(masks), masks.shape[2:], generator, change).to(masks.device)
        total += F.grid_sample(masks, grid, align_corners=False)
    return total / 3


__all__ = ["CodecTrainingConfig", "Profile", "predict_locally", "train_codec", "train_local_network"]

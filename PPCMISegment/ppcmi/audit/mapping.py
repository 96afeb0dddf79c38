"""A stand-in for the server's network where there is none yet, and the Dice of a privacy profile in legitimate use.

The stand-in is trained on plain latents of the cases that left; the server trains on keyed ones, which costs nothing
(docs/RESULTS.md). It is small and trained briefly: its Dice compares profiles with each other, not with a trained
consortium. A benchmark puts the server's own network in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppcmi.audit.views import add_noise
from ppcmi.codec.augment import augment_pair
from ppcmi.codec.blocks import residual_stage
from ppcmi.codec.codec import Codec
from ppcmi.codec.local_network import LocalNetwork
from ppcmi.codec.quality import case_dice
from ppcmi.codec.refinement import USUAL_WEIGHT
from ppcmi.codec.slice_set import SliceSet
from ppcmi.codec.training import predict_locally
from ppcmi.device import mixed_precision
from ppcmi.fitting import FitConfig, Report, fit, ignore_report
from ppcmi.latents import Latents, concatenate
from ppcmi.scales import SCALE_CHANNELS, Profile

MapLatents = Callable[[Latents], Latents]
"""Plain standardized image latents of a profile's scales to plain standardized mask latents of them."""

BATCH = 64


@dataclass(frozen=True)
class MappingConfig:
    """How the stand-in is trained.

    :param copies: augmented copies of every case beside itself.
    """

    fit: FitConfig = field(default_factory=lambda: FitConfig(epochs=6, minimum_steps=240))
    copies: int = 2


class StandInNetwork(nn.Module):
    """Image latents to mask latents: residual blocks at each scale, what is fine summed into what is coarse and back.

    :param scales: finest first.
    """

    def __init__(self, scales: tuple[str, ...]) -> None:
        super().__init__()
        self.scales = scales
        channels = {s: SCALE_CHANNELS[s] for s in scales}
        self.first = nn.ModuleDict({s: residual_stage(channels[s], 1) for s in scales})
        self.second = nn.ModuleDict({s: residual_stage(channels[s], 1) for s in scales})
        self.heads = nn.ModuleDict({s: nn.Conv2d(channels[s], channels[s], 1) for s in scales})
        steps = list(pairwise(scales))
        self.downs = nn.ModuleDict({c: nn.Conv2d(channels[f], channels[c], 2, stride=2) for f, c in steps})
        self.ups = nn.ModuleDict({f: nn.Conv2d(channels[c], 4 * channels[f], 1) for f, c in steps})

    def forward(self, images: Latents) -> Latents:
        """Map."""
        inner: dict[str, Tensor] = {}
        finer: Tensor | None = None
        for scale in self.scales:
            x = images[scale] if finer is None else images[scale] + self.downs[scale](finer)
            inner[scale] = finer = self.first[scale](x)
        masks: dict[str, Tensor] = {}
        coarser: Tensor | None = None
        for scale in reversed(self.scales):
            x = inner[scale]
            if coarser is not None:
                x = x + F.pixel_shuffle(self.ups[scale](coarser), 2)
            coarser = self.second[scale](x)
            masks[scale] = self.heads[scale](F.silu(coarser)).float()
        return Latents(masks)


def train_mapper(
    codec: Codec,
    labelled: SliceSet,
    profile: Profile,
    seed: int,
    report: Report = ignore_report,
    *,
    noise: float = 0.0,
    config: MappingConfig | None = None,
) -> MapLatents:
    """Train a stand-in on a site's labelled cases.

    :param noise: on the image latents, relative to their deviation; drawn once for every copy, as a site sends it.
    :raises CancelledError: from ``report``.
    """
    chosen = config or MappingConfig()
    generator = torch.Generator().manual_seed(seed)
    images, masks = [], []
    for copy in range(chosen.copies + 1):
        slices, labels = labelled.slices, labelled.known_labels
        if copy:
            slices, labels = augment_pair(slices, labels, generator)
        images.append(sent_latents(codec, slices, profile, noise, seed + copy).map(lambda _, v: v.half()))
        masks.append(codec.encode_masks(labels).of(profile).to("cpu").map(lambda _, v: v.half()))
    return fit_stand_in(concatenate(images), concatenate(masks), chosen.fit, seed, report, device=codec.device)


def fit_stand_in(
    inputs: Latents,
    targets: Latents,
    config: FitConfig,
    seed: int,
    report: Report = ignore_report,
    *,
    device: torch.device | None = None,
) -> MapLatents:
    """Train a stand-in on image latents and the mask latents of the same slices and scales.

    Image latents of fewer channels than mask latents have zeros for the others.

    :raises CancelledError: from ``report``.
    """
    place, shapes = device or torch.device("cpu"), targets.shapes
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = StandInNetwork(tuple(inputs)).to(place)

    def prepared(_: str, values: Tensor) -> Tensor:
        # Cloned into the usual order: group normalization's backward crashes on the strides of channels side by side,
        # which contiguous() leaves to maps of one value.
        return values.to(place, torch.float32).clone(memory_format=torch.contiguous_format)

    def loss_of(index: Tensor) -> Tensor:
        mapped = network(inputs.select(index).widened(shapes).map(prepared))
        truth = targets.select(index).map(prepared)
        return torch.stack([F.mse_loss(mapped[s], truth[s]) for s in inputs]).sum()

    fit("mapping", network, loss_of, len(inputs), config, generator=generator, report=report)

    @torch.inference_mode()
    def map_latents(latents: Latents) -> Latents:
        with mixed_precision(place):
            parts = [
                network(latents.select(slice(first, first + BATCH)).widened(shapes).to(place))
                for first in range(0, len(latents), BATCH)
            ]
        return concatenate(parts)

    return map_latents


def sent_latents(codec: Codec, slices: Tensor, profile: Profile, noise: float, seed: int) -> Latents:
    """Plain latents of a profile as the site makes them, with its noise if it adds any; on the CPU."""
    plain = codec.encode_images(slices).of(profile).to("cpu")
    return add_noise(plain, noise, seed.to_bytes(32, "little")) if noise else plain


@dataclass(frozen=True, eq=False)
class Usefulness:
    """Dice of each case ``(cases,)``, float64, mean over structures; NaN where neither truth nor result has any.

    :param together: the server's answer averaged with the site's own network at the usual weight.
    :param server: the server's answer alone.
    :param alone: the site's own network alone, for which nothing leaves.
    """

    together: Tensor
    server: Tensor
    alone: Tensor


def measure_usefulness(
    codec: Codec,
    map_latents: MapLatents,
    cases: SliceSet,
    profile: Profile,
    *,
    noise: float = 0.0,
    seed: int = 0,
    local: LocalNetwork | None = None,
) -> Usefulness:
    """Segment ``cases`` as a site with that profile would.

    :param local: the site's own network; None takes the consortium's.
    """
    mapped = map_latents(sent_latents(codec, cases.slices, profile, noise, seed))
    server = codec.decode_masks(mapped, cases.slices, profile).float().cpu()
    alone = predict_locally(local or codec.local, cases.slices).float().cpu()
    together = USUAL_WEIGHT * server + (1 - USUAL_WEIGHT) * alone
    return Usefulness(*(dice_by_case(answer, cases, codec) for answer in (together, server, alone)))


def dice_by_case(probabilities: Tensor, cases: SliceSet, codec: Codec) -> Tensor:
    """Mean over structures of each case's Dice, of ``probabilities (n, K + 1, h, w)``; as :func:`dice_of_labels`."""
    return dice_of_labels(probabilities.argmax(dim=1), cases, codec.task.classes)


def dice_of_labels(predicted: Tensor, cases: SliceSet, classes: int) -> Tensor:
    """Mean over structures of each case's Dice, of labels ``(n, h, w)``: ``(cases,)`` float64, NaN without any."""
    values = []
    for case in range(cases.cases):
        index = cases.case == case
        known = [d for d in case_dice(predicted[index], cases.known_labels[index], classes) if d is not None]
        values.append(sum(known) / len(known) if known else float("nan"))
    return torch.tensor(values, dtype=torch.float64)

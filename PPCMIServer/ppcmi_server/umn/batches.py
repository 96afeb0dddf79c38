"""What one step of a training works on: which slices, gathered and mixed, and the loss of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ppcmi_server.umn.dataset import LatentDataset

Scales = dict[str, Tensor]
LEAST_WEIGHT = 1e-12


@dataclass(frozen=True)
class Batch:
    """Slices of one codec: image latents, the mask latents to reach, and how much each slice counts."""

    images: Scales
    targets: Scales
    weight: Tensor
    codec: int

    def __len__(self) -> int:
        return len(self.weight)

    def parts(self, largest: int) -> Iterator[Batch]:
        """The batch in equal parts of at most ``largest`` slices, which take less memory one after the other."""
        count = -(-len(self) // largest)
        bounds = [len(self) * part // count for part in range(count + 1)]
        for start, end in pairwise(bounds):
            yield Batch(
                {s: v[start:end] for s, v in self.images.items()},
                {s: v[start:end] for s, v in self.targets.items()},
                self.weight[start:end],
                self.codec,
            )


def epoch_batches(
    dataset: LatentDataset, among: Tensor, batch_size: int, repeats: int, generator: torch.Generator, smallest: int = 2
) -> list[tuple[int, Tensor]]:
    """Batches of one codec each, in random order, as (codec, index into the data set).

    Batches under ``smallest`` are left out unless there is no other.

    :param among: index of the slices to take.
    """
    found: list[tuple[int, Tensor]] = []
    for codec in range(len(dataset.codecs)):
        own = among[dataset.member[among] == codec]
        if not len(own):
            continue
        for _ in range(repeats):
            order = own[torch.randperm(len(own), generator=generator)]
            found += [(codec, part) for part in torch.split(order, batch_size) if len(part) >= min(smallest, len(own))]
    return [found[position] for position in torch.randperm(len(found), generator=generator).tolist()]


def gather(dataset: LatentDataset, codec: int, index: Tensor, device: torch.device) -> Batch:
    """Read a batch's slices as float32 onto the device."""
    images, targets = (
        {s: v.to(device).float() for s, v in source.select(index).items()} for source in (dataset.images, dataset.masks)
    )
    return Batch(images, targets, dataset.weight[index].to(device), codec)


def mixed_up(batch: Batch, parameter: float, generator: torch.Generator) -> Batch:
    """Every slice mixed with another one of the batch, by a share from Beta(a, a) (mixup, Zhang et al. 2018)."""
    device = batch.weight.device
    share = _beta(parameter, len(batch), generator).to(device)
    other = torch.randperm(len(batch), generator=generator).to(device)

    def mix(values: Scales) -> Scales:
        return {s: share * v + (1 - share) * v[other] for s, v in values.items()}

    part, cost = share[:, 0, 0, 0], 1 / batch.weight.clamp_min(LEAST_WEIGHT)
    weight = 1 / (part * cost + (1 - part) * cost[other])  # harmonic: a little of what counts little costs as much
    return Batch(mix(batch.images), mix(batch.targets), weight, batch.codec)


def noisy(batch: Batch, deviation: float, generator: torch.Generator) -> Batch:
    """Image latents with noise added."""
    images = {
        s: v + deviation * torch.randn(v.shape, generator=generator).to(v.device) for s, v in batch.images.items()
    }
    return Batch(images, batch.targets, batch.weight, batch.codec)


def slice_losses(outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
    """Mean squared error of each slice, ``(n,)``, as the mean over the scales."""
    return torch.stack([(outputs[s] - targets[s]).square().flatten(1).mean(dim=1) for s in outputs]).mean(dim=0)


def _beta(parameter: float, count: int, generator: torch.Generator) -> Tensor:
    """Draws of Beta(a, a), ``(count, 1, 1, 1)``, by Johnk's rule (a <= 1); the generator keeps it reproducible."""
    u, v = torch.rand(2, count, 64, generator=generator, dtype=torch.float64).pow(1 / parameter)
    accepted = (u + v <= 1).float().argmax(dim=1, keepdim=True)
    x, y = u.gather(1, accepted), v.gather(1, accepted)
    mixed: Tensor = x / (x + y).clamp_min(1e-300)
    return mixed.float().reshape(count, 1, 1, 1)

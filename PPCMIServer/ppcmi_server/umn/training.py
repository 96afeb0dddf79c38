"""Training the unified mapping network, with checkpoints that a killed process goes on from.

The loss is the mean squared error of standardized mask latents over the scales. It does not change under the inner
key's rotation, which is why the network can be trained without the key. What is kept is the exponential moving average
of the weights.
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppcmi.device import mixed_precision
from ppcmi.errors import CancelledError, TrainingError
from ppcmi.fitting import rate_factor
from ppcmi.scales import Profile
from ppcmi_server.umn.dataset import LatentDataset
from ppcmi_server.umn.model import Preset, TrainedUmn, UmnDescription, build_network

CHECKPOINT_NAME = "checkpoint.pt"


@dataclass(frozen=True)
class UmnConfig:
    """How a model is trained; recorded with it.

    :param minimum_steps: small data sets repeat in an epoch until the whole run has at least so many steps.
    :param mixup: parameter of the beta distribution that pairs are mixed with (Zhang et al. 2018; sound here because
        the default mask encoder is linear), 0 for none.
    :param noise: standard deviation of the noise on standardized image latents.
    :param average: share of the weights that enters their moving average after each step.
    :param validation_share: share of the cases that the validation loss is measured on.
    :param patience: epochs without a better validation loss before it stops; 0 never stops early.
    """

    preset: Preset = "default"
    profile: Profile = Profile.COARSE
    epochs: int = 8
    seed: int = 1
    batch_size: int = 64
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    warm_up: float = 0.05
    minimum_steps: int = 600
    mixup: float = 0.3
    noise: float = 0.1
    average: float = 0.005
    validation_share: float = 0.1
    patience: int = 0


def paper_config(profile: Profile = Profile.PAPER, epochs: int = 150, seed: int = 1) -> UmnConfig:
    """The published training: Adam 1e-3, batch 16, at most 150 epochs, patience 20."""
    return UmnConfig(
        preset="paper", profile=profile, epochs=epochs, seed=seed, batch_size=16, learning_rate=1e-3,
        weight_decay=0.0, minimum_steps=0, mixup=0.0, noise=0.0, average=1.0, patience=20,
    )  # fmt: skip


@dataclass(frozen=True)
class EpochReport:
    """Losses after an epoch; the validation loss is None without validation cases."""

    epoch: int
    epochs: int
    train_loss: float
    validation_loss: float | None
    seconds: float


def train_umn(
    dataset: LatentDataset,
    config: UmnConfig,
    checkpoint_dir: Path,
    *,
    report: Callable[[EpochReport], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
    device: torch.device | None = None,
) -> TrainedUmn:
    """Train, or go on from the checkpoint in ``checkpoint_dir``; a run that went on equals one that was not cut.

    :raises TrainingError: if there is nothing to train on, or the loss stops being a number.
    :raises CancelledError: when ``should_stop`` says so; the checkpoint of the last whole epoch stays.
    """
    if not len(dataset):
        raise TrainingError("There is no latent to train on; upload a cohort first.")
    device = device or torch.device("cpu")
    description = UmnDescription(config.preset, config.profile, dataset.images.shapes, dataset.codecs)
    run = _Run(dataset, config, description, device)
    run.resume(checkpoint_dir / CHECKPOINT_NAME)
    while not run.finished:
        report(run.train_epoch(should_stop))
        run.save(checkpoint_dir / CHECKPOINT_NAME)
    return TrainedUmn(description, run.result())


class _Run:
    """State of one training run: everything a checkpoint holds, and the data it does not."""

    def __init__(
        self, dataset: LatentDataset, config: UmnConfig, description: UmnDescription, device: torch.device
    ) -> None:
        self.config, self.device = config, device
        split = torch.Generator().manual_seed(config.seed)
        self.train_set, self.validation_set = dataset.split(config.validation_share, split)
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self.network = build_network(description).to(device)
        self.averaged = copy.deepcopy(self.network).eval()
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.epoch = 0
        self.stale = 0
        self.best_loss = math.inf
        self.best_weights: dict[str, Tensor] | None = None
        once = len(list(_epoch_batches(self.train_set, config.batch_size, 1, split)))
        self.repeats = max(1, math.ceil(config.minimum_steps / max(1, once * config.epochs)))
        self.steps = max(1, once * self.repeats * config.epochs)
        self.steps_done = 0

    @property
    def finished(self) -> bool:
        """All epochs are done, or patience is over."""
        return self.epoch >= self.config.epochs or bool(self.config.patience and self.stale >= self.config.patience)

    def train_epoch(self, should_stop: Callable[[], bool]) -> EpochReport:
        """One pass. Its randomness comes from the seed and the epoch alone, so that a resumed run repeats it."""
        started = time.monotonic()
        seed = self.config.seed * 1_000_003 + self.epoch
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)  # dropout
        self.network.train()
        total, count = 0.0, 0
        for codec, index in _epoch_batches(self.train_set, self.config.batch_size, self.repeats, generator):
            if should_stop():
                raise CancelledError("Training was stopped; it goes on from its last whole epoch when resumed.")
            total += self._step(codec, index, generator) * len(index)
            count += len(index)
        if not math.isfinite(total):
            raise TrainingError("Training diverged (the loss is not a number); lower the learning rate.")
        self.epoch += 1
        validation_loss = self._validate() if len(self.validation_set) else None
        if validation_loss is not None and validation_loss < self.best_loss:
            self.best_loss, self.stale = validation_loss, 0
            self.best_weights = {k: v.detach().cpu().clone() for k, v in self.averaged.state_dict().items()}
        else:
            self.stale += 1
        seconds = time.monotonic() - started
        return EpochReport(self.epoch, self.config.epochs, total / max(1, count), validation_loss, seconds)

    def _step(self, codec: int, index: Tensor, generator: torch.Generator) -> float:
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * rate_factor(self.steps_done / self.steps, config.warm_up)
        images, targets = _gather(self.train_set, index, self.device)
        if config.mixup:
            share = _beta(config.mixup, len(index), generator).to(self.device)
            other = torch.randperm(len(index), generator=generator).to(self.device)
            images, targets = (
                {s: share * v + (1 - share) * v[other] for s, v in values.items()} for values in (images, targets)
            )
        if config.noise:
            images = {
                s: v + config.noise * torch.randn(v.shape, generator=generator).to(self.device)
                for s, v in images.items()
            }
        self.optimizer.zero_grad(set_to_none=True)
        with mixed_precision(self.device):
            loss = _loss(self.network(images, codec), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.steps_done += 1
        # Early on the average follows faster, or it would still hold the initial weights after a short run.
        self._average(max(config.average, 1 / (1 + self.steps_done)))
        return float(loss.detach())

    @torch.no_grad()
    def _average(self, share: float) -> None:
        for mine, current in zip(self.averaged.parameters(), self.network.parameters(), strict=True):
            mine.lerp_(current, share)
        for kept, latest in zip(self.averaged.buffers(), self.network.buffers(), strict=True):
            kept.copy_(latest)

    @torch.inference_mode()
    def _validate(self) -> float:
        total = 0.0
        generator = torch.Generator()
        for codec, index in _epoch_batches(self.validation_set, 256, 1, generator, smallest=1):
            images, targets = _gather(self.validation_set, index, self.device)
            with mixed_precision(self.device):
                total += float(_loss(self.averaged(images, codec), targets)) * len(index)
        return total / len(self.validation_set)

    def result(self) -> nn.Module:
        """The averaged network, at its best validation loss if there is patience."""
        if self.config.patience and self.best_weights is not None:
            self.averaged.load_state_dict(self.best_weights)
        return self.averaged

    def save(self, path: Path) -> None:
        """Write a checkpoint: to a file beside, to the disk, then by rename."""
        path.parent.mkdir(parents=True, exist_ok=True)
        state: dict[str, Any] = {
            "config": {**asdict(self.config), "profile": self.config.profile.value},
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "steps_done": self.steps_done,
            "stale": self.stale,
            "best_loss": self.best_loss,
            "best_weights": self.best_weights,
        }
        temporary = path.with_name(path.name + ".part")
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def resume(self, path: Path) -> None:
        """Take up a checkpoint if there is one.

        :raises TrainingError: if it belongs to another configuration or cannot be read.
        """
        if not path.exists():
            return
        try:
            state: Mapping[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
        except Exception as error:
            raise TrainingError("The training's checkpoint cannot be read; start the training anew.") from error
        if state["config"] != {**asdict(self.config), "profile": self.config.profile.value}:
            raise TrainingError("The training's checkpoint belongs to another configuration; start the training anew.")
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.steps_done, self.stale = state["epoch"], state["steps_done"], state["stale"]
        self.best_loss, self.best_weights = state["best_loss"], state["best_weights"]


def _epoch_batches(
    dataset: LatentDataset, batch_size: int, repeats: int, generator: torch.Generator, smallest: int = 2
) -> Iterator[tuple[int, Tensor]]:
    """Batches of one codec each, in random order; batches under ``smallest`` are left out unless there is no other."""
    found: list[tuple[int, Tensor]] = []
    for codec in range(len(dataset.codecs)):
        own = torch.nonzero(dataset.member == codec)[:, 0]
        for _ in range(repeats):
            order = own[torch.randperm(len(own), generator=generator)]
            found += [(codec, part) for part in torch.split(order, batch_size) if len(part) >= min(smallest, len(own))]
    for position in torch.randperm(len(found), generator=generator).tolist():
        if len(found[position][1]):
            yield found[position]


def _gather(dataset: LatentDataset, index: Tensor, device: torch.device) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    images, masks = dataset.images.select(index), dataset.masks.select(index)
    return {s: v.to(device).float() for s, v in images.items()}, {s: v.to(device).float() for s, v in masks.items()}


def _loss(outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([F.mse_loss(outputs[s], targets[s]) for s in outputs]).mean()


def _beta(parameter: float, count: int, generator: torch.Generator) -> Tensor:
    """Draws of Beta(a, a), ``(count, 1, 1, 1)``, by Johnk's rule (a <= 1); the generator keeps it reproducible."""
    u, v = torch.rand(2, count, 64, generator=generator, dtype=torch.float64).pow(1 / parameter)
    accepted = (u + v <= 1).float().argmax(dim=1, keepdim=True)
    x, y = u.gather(1, accepted), v.gather(1, accepted)
    mixed: Tensor = x / (x + y).clamp_min(1e-300)
    return mixed.float().reshape(count, 1, 1, 1)

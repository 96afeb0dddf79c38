"""Training the unified mapping network, with checkpoints that a killed process goes on from.

The loss is the mean squared error of standardized mask latents over the scales. It does not change under the inner
key's rotation, which is why the network can be trained without the key. What is kept is the exponential moving average
of the weights.

Everything random comes from the seed, the epoch and the state of two generators, which a checkpoint holds: a training
that went on from one is the training that was not cut off, also from within an epoch. Where memory is too small for a
batch, its gradient is summed over parts: the steps stay those of the whole batch. Where the loss stops being a number,
it goes back to the last checkpoint once and learns more slowly.
"""

from __future__ import annotations

import copy
import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ppcmi.device import mixed_precision
from ppcmi.errors import CancelledError, TrainingError
from ppcmi.fitting import rate_factor
from ppcmi_server.umn.batches import Batch, epoch_batches, gather, mixed_up, noisy
from ppcmi_server.umn.config import UmnConfig
from ppcmi_server.umn.dataset import LatentDataset
from ppcmi_server.umn.model import TrainedUmn, UmnDescription, build_network, losses_of

CHECKPOINT_SECONDS = 60.0
VALIDATION_BATCH = 256
SMALLEST_PART = 4
"""Slices at once below which a training is given up for want of memory."""
AVERAGE_POWER = 10
"""``p``: until ``UmnConfig.average`` is reached, step ``t`` has a weight of ``t ** (p - 1)`` in the average."""
SLOWER = 0.25
"""Share of the learning rate after a loss that was not a number."""


@dataclass(frozen=True)
class EpochReport:
    """Losses after an epoch; those of held-out cases are missing where there are none; ``by_site`` is by site's id."""

    epoch: int
    epochs: int
    train_loss: float
    validation_loss: float | None
    seconds: float
    by_site: Mapping[str, float] = field(default_factory=dict)


class KeepsStates(Protocol):
    """Where checkpoints are kept, e.g. :class:`ppcmi_server.training.checkpoints.Checkpoints`."""

    def save(self, state: Mapping[str, Any]) -> None:
        """Keep a state durably, beside the one before."""
        ...

    def newest_first(self) -> Iterator[Mapping[str, Any]]:
        """States that are whole."""
        ...


class NoCheckpoints:
    """Keeps nothing: a training that is cut off begins anew."""

    def save(self, state: Mapping[str, Any]) -> None:
        """Forget it."""

    def newest_first(self) -> Iterator[Mapping[str, Any]]:
        """None."""
        return iter(())


class DivergedError(TrainingError):
    """The loss stopped being a number twice; ``model`` is that of the last checkpoint after a whole epoch, if any."""

    def __init__(self, model: TrainedUmn | None, epoch: int) -> None:
        kept = f"what it had learned by epoch {epoch} is kept" if model else "nothing of it is kept"
        super().__init__(
            f"Training diverged (the loss is not a number, also at a lower learning rate); {kept}. "
            "See the job's report for a site whose data spoil it."
        )
        self.model = model
        self.epoch = epoch


@dataclass(frozen=True)
class Watching:
    """Who is told how a training does, and may end it.

    :param report: gets each epoch's losses.
    :param should_stop: asked before every batch.
    :param smaller: told how many slices at once memory has room for, once it had no room for more.
    """

    report: Callable[[EpochReport], None] = lambda _: None
    should_stop: Callable[[], bool] = lambda: False
    smaller: Callable[[int], None] = lambda _: None


def train_umn(
    dataset: LatentDataset,
    config: UmnConfig,
    checkpoints: KeepsStates | None = None,
    *,
    watching: Watching | None = None,
    device: torch.device | None = None,
    part: int | None = None,
    checkpoint_s: float = CHECKPOINT_SECONDS,
) -> TrainedUmn:
    """Train, or go on from the newest of ``checkpoints``; a run that went on equals one that was not cut.

    :param part: most slices at once that memory has room for, if that is known to be less than a batch.
    :param checkpoint_s: time after which a checkpoint is made also within an epoch.
    :raises TrainingError: if there is nothing to train on, nothing of it counts, or memory is too small.
    :raises DivergedError: if the loss stops being a number and does so again at a lower learning rate.
    :raises CancelledError: when ``should_stop`` says so, after a checkpoint.
    """
    if not len(dataset):
        raise TrainingError("There is no latent to train on; upload a cohort first.")
    device, checkpoints, watching = (
        device or torch.device("cpu"),
        checkpoints or NoCheckpoints(),
        watching or Watching(),
    )
    images, masks = dict(dataset.images.shapes), dict(dataset.masks.shapes)
    description = UmnDescription(config.preset, config.profile, images, masks, dataset.codecs)
    part, slower = min(part or config.batch_size, config.batch_size), False
    while True:
        run = _Run(dataset, config, description, device, part)
        run.resume(checkpoints)
        try:
            if slower:
                run.slow_down()
            run.to_end(checkpoints, watching, checkpoint_s)
        except _NotFiniteError:
            if run.rate < 1:
                raise _diverged(dataset, config, description, checkpoints) from None
            slower = True
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            part //= 2
            if part < SMALLEST_PART:
                raise TrainingError(
                    f"Memory is too small to train on {2 * part} slices at once; train on a machine that has more, "
                    "or on fewer scales with --profile."
                ) from error
            watching.smaller(part)
        else:
            return TrainedUmn(description, run.result())
        del run  # its memory, before the next one takes as much
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def average_share(least: float, steps: int) -> float:
    """Share of the weights that enters their moving average after so many steps.

    At first the average is over the last tenth of all steps (a power function: Karras et al. 2024, Analyzing and
    Improving the Training Dynamics of Diffusion Models, section 3.1), so that a short run is not held back by how it
    began; a long one comes down to ``least``.
    """
    return max(least, AVERAGE_POWER / (AVERAGE_POWER + steps))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is too small; PyTorch has no one class for it."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(sign in text for sign in _NO_MEMORY)


_NO_MEMORY = ("not enough memory", "can't allocate memory", "bad_alloc", "out of memory", "could not create a memory")


class _NotFiniteError(Exception):
    """A loss, gradient or weight is not a number."""


class _Run:
    """State of one training run: everything a checkpoint holds, and the data it does not."""

    def __init__(
        self, dataset: LatentDataset, config: UmnConfig, description: UmnDescription, device: torch.device, part: int
    ) -> None:
        self.dataset, self.config, self.device, self.part = dataset, config, device, part
        split = torch.Generator().manual_seed(config.seed)
        self.training, self.validation = dataset.split(config.validation_share, split)
        self.mean_weight = float(dataset.weight[self.training].double().mean())
        if not self.mean_weight:
            raise TrainingError(
                "Every site that there is to train on has weight 0; give one a weight with 'ppcmi-server site weight'."
            )
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self.network = build_network(description).to(device)
        self.losses = losses_of(description.preset)
        self.averaged = copy.deepcopy(self.network).eval()
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=device.type in ("cpu", "cuda"),
        )
        self.rate = 1.0
        self.epoch = 0
        self.stale = 0
        self.best_loss = math.inf
        self.best_weights: dict[str, Tensor] | None = None
        self.batches = 0
        """Batches of the present epoch that are done, their summed loss and number of slices."""
        self.total, self.count, self.seconds = 0.0, 0, 0.0
        self.generator = torch.Generator()
        self.random_states: list[Tensor] | None = None
        once = len(epoch_batches(dataset, self.training, config.batch_size, 1, split))
        self.repeats = max(1, math.ceil(config.minimum_steps / max(1, once * config.epochs)))
        self.steps = max(1, once * self.repeats * config.epochs)
        self.steps_done = 0

    @property
    def finished(self) -> bool:
        """All epochs are done, or patience is over."""
        return self.epoch >= self.config.epochs or bool(self.config.patience and self.stale >= self.config.patience)

    def to_end(self, checkpoints: KeepsStates, watching: Watching, checkpoint_s: float) -> None:
        """Train what is left."""
        while not self.finished:
            report = self._train_epoch(checkpoints, watching, checkpoint_s)
            self._require_finite_weights()
            watching.report(report)  # first: an epoch that is repeated is told again, one that is not would be missing
            checkpoints.save(self.state())

    def slow_down(self) -> None:
        """Learn more slowly from here on."""
        self.rate = SLOWER

    def _train_epoch(self, checkpoints: KeepsStates, watching: Watching, checkpoint_s: float) -> EpochReport:
        """One pass, or what is left of it."""
        started, saved = time.monotonic(), time.monotonic()
        before = self.seconds
        for codec, index in self._batches_left():
            now = time.monotonic()
            stop = watching.should_stop()
            if stop or now - saved > checkpoint_s:
                self.seconds, saved = before + now - started, now
                self._save_within_epoch(checkpoints)
            if stop:
                raise CancelledError("Training was stopped; it goes on from where it was when resumed.")
            self.total += self._step(codec, index) * len(index)
            self.count += len(index)
            self.batches += 1
        train_loss = self.total / max(1, self.count)
        by_site, validation_loss = self._validate() if len(self.validation) else ({}, None)
        if validation_loss is not None and validation_loss < self.best_loss:
            self.best_loss, self.stale = validation_loss, 0
            self.best_weights = {k: v.detach().cpu().clone() for k, v in self.averaged.state_dict().items()}
        else:
            self.stale += 1
        self.epoch += 1
        self.batches, self.total, self.count, self.seconds, self.random_states = 0, 0.0, 0, 0.0, None
        seconds = before + time.monotonic() - started
        return EpochReport(self.epoch, self.config.epochs, train_loss, validation_loss, seconds, by_site)

    def _batches_left(self) -> list[tuple[int, Tensor]]:
        """What the epoch has still to do; sets the generators to where they were."""
        seed = self.config.seed * 1_000_003 + self.epoch
        self.generator.manual_seed(seed)
        torch.manual_seed(seed)  # dropout
        batches = epoch_batches(
            self.dataset, self.training, self.config.batch_size, self.repeats, self.generator
        )  # takes from the generator what it took when the epoch began
        if self.random_states is not None:
            self._restore_random_states(self.random_states)
        self.network.train()
        return batches[self.batches :]

    def _step(self, codec: int, index: Tensor) -> float:
        config = self.config
        rate = self.rate * config.learning_rate * rate_factor(self.steps_done / self.steps, config.warm_up)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batch = gather(self.dataset, codec, index, self.device)
        if config.mixup:
            batch = mixed_up(batch, config.mixup, self.generator)
        if config.noise:
            batch = noisy(batch, config.noise, self.generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss = sum(self._gradient(part, len(batch)) for part in batch.parts(self.part))
        norm = float(nn.utils.clip_grad_norm_(self.network.parameters(), 1.0))
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise _NotFiniteError
        self.optimizer.step()
        self.steps_done += 1
        self._average(average_share(config.average, self.steps_done))
        return loss

    def _gradient(self, part: Batch, slices: int) -> float:
        """Add a part's gradient of the batch's loss; its share of that loss."""
        with mixed_precision(self.device):
            losses = self.losses(self.network(part.images, part.codec), part.targets)
        loss = (losses * part.weight).sum() / (self.mean_weight * slices)
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    @torch.no_grad()
    def _average(self, share: float) -> None:
        for mine, current in zip(self.averaged.parameters(), self.network.parameters(), strict=True):
            mine.lerp_(current, share)
        for kept, latest in zip(self.averaged.buffers(), self.network.buffers(), strict=True):
            kept.copy_(latest)

    @torch.inference_mode()
    def _validate(self) -> tuple[dict[str, float], float]:
        """Loss of the held-out cases, by site and of all."""
        losses, sites = [], []
        size = VALIDATION_BATCH if self.part == self.config.batch_size else self.part
        for codec, index in epoch_batches(self.dataset, self.validation, size, 1, torch.Generator(), smallest=1):
            batch = gather(self.dataset, codec, index, self.device)
            with mixed_precision(self.device):
                losses.append(self.losses(self.averaged(batch.images, codec), batch.targets).double().cpu())
            sites.append(self.dataset.site[index])
        loss, site = torch.cat(losses), torch.cat(sites)
        if not bool(torch.isfinite(loss).all()):
            raise _NotFiniteError
        by_site = {self.dataset.sites[one]: float(loss[site == one].mean()) for one in torch.unique(site).tolist()}
        return by_site, float(loss.mean())

    def result(self) -> nn.Module:
        """The averaged network, at its best validation loss if there is patience."""
        if self.config.patience and self.best_weights is not None:
            self.averaged.load_state_dict(self.best_weights)
        return self.averaged

    def state(self) -> dict[str, Any]:
        """All that a later process needs to go on."""
        return {
            "config": {**asdict(self.config), "profile": self.config.profile.value},
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random_states": self.random_states,
            **{name: getattr(self, name) for name in _COUNTERS},
        }

    def resume(self, checkpoints: KeepsStates) -> None:
        """Take up the newest checkpoint of this configuration, if there is one."""
        mine = {**asdict(self.config), "profile": self.config.profile.value}
        state = next((found for found in checkpoints.newest_first() if found["config"] == mine), None)
        if state is None:
            return
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.random_states = state["random_states"]
        for name in _COUNTERS:
            setattr(self, name, state[name])

    def _save_within_epoch(self, checkpoints: KeepsStates) -> None:
        if self.batches:  # else the checkpoint of the epoch before is this very state
            self._require_finite_weights()
            self.random_states = [self.generator.get_state(), torch.get_rng_state()]
            if self.device.type == "cuda":
                self.random_states.append(torch.cuda.get_rng_state(self.device))
            checkpoints.save(self.state())

    def _restore_random_states(self, states: list[Tensor]) -> None:
        self.generator.set_state(states[0])
        torch.set_rng_state(states[1])
        if self.device.type == "cuda" and len(states) > 2:
            torch.cuda.set_rng_state(states[2], self.device)

    def _require_finite_weights(self) -> None:
        if not all(bool(torch.isfinite(values).all()) for values in self.network.parameters()):
            raise _NotFiniteError


_COUNTERS = (
    "rate", "epoch", "steps_done", "stale", "best_loss", "best_weights", "batches", "total", "count", "seconds",
)  # fmt: skip


def _diverged(
    dataset: LatentDataset, config: UmnConfig, description: UmnDescription, checkpoints: KeepsStates
) -> DivergedError:
    """With the model of the last checkpoint, if that has seen all data once."""
    run = _Run(dataset, config, description, torch.device("cpu"), config.batch_size)
    run.resume(checkpoints)
    if not run.epoch:
        return DivergedError(None, 0)
    return DivergedError(TrainedUmn(description, run.result()), run.epoch)

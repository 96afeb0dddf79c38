"""The training loop of every network at the site: AdamW, warm-up and cosine, early stopping, cancel.

What is trained and on what loss is the caller's closure; this module owns the schedule, the precision, the best weights
so far, and the reports.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ppcmi.device import mixed_precision
from ppcmi.errors import CancelledError, TrainingError

REPORT_EVERY_S = 1.0


@dataclass(frozen=True)
class FitConfig:
    """Schedule of one training run; recorded with its result.

    :param epochs: passes over the items.
    :param batch_size: items a step.
    :param learning_rate: peak, reached after ``warm_up`` of all steps, then cosine to a hundredth of it.
    :param minimum_steps: small sets repeat their items in an epoch until the whole run has at least so many steps.
    :param patience: epochs without a better validation score before it stops; 0 keeps the last weights.
    :param part: of the learning rate's course that this run is, where a training has several; 0 to 1 is all of it.
    """

    epochs: int
    batch_size: int = 16
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    warm_up: float = 0.05
    minimum_steps: int = 0
    patience: int = 0
    part: tuple[float, float] = (0.0, 1.0)

    def scaled(self, effort: float) -> FitConfig:
        """A run that is ``effort`` times as long; at least one epoch."""
        epochs, minimum_steps = max(1, round(self.epochs * effort)), round(self.minimum_steps * effort)
        return replace(self, epochs=epochs, minimum_steps=minimum_steps)

    def rounds(self, count: int) -> list[FitConfig]:
        """The same run cut into ``count`` runs, or as many as it has epochs, with one course of the learning rate."""
        count = min(count, self.epochs)
        cuts = [round(number * self.epochs / count) for number in range(count + 1)]
        steps = [round(self.minimum_steps * cut / self.epochs) for cut in cuts]
        return [
            replace(
                self,
                epochs=cuts[number + 1] - cuts[number],
                minimum_steps=steps[number + 1] - steps[number],
                part=(cuts[number] / self.epochs, cuts[number + 1] / self.epochs),
            )
            for number in range(count)
        ]


@dataclass(frozen=True)
class FitReport:
    """What happened in an epoch so far.

    :param loss: mean over what was seen in the epoch.
    :param score: validation score at the epoch's end (larger is better); None before that, or if there is none.
    :param share: of the epoch that is done; 1 at its end.
    :param round_number: of ``rounds``, where members learn together; epochs count through all of them.
    """

    stage: str
    epoch: int
    epochs: int
    loss: float
    score: float | None
    seconds: float
    share: float = 1.0
    round_number: int = 1
    rounds: int = 1

    @property
    def seconds_left(self) -> float:
        """How long the training takes still, at this epoch's pace; infinite where nothing is known of it yet."""
        epochs_left = self.epochs - (self.epoch - 1 + self.share)
        return self.seconds / self.share * epochs_left if self.share else math.inf


Report = Callable[[FitReport], None]
"""Called after each epoch, and within one about every second. May raise CancelledError to end the training."""


def ignore_report(report: FitReport) -> None:
    """A :data:`Report` for callers that do not care."""


def fit(
    stage: str,
    network: nn.Module,
    loss_of: Callable[[Tensor], Tensor],
    items: int,
    config: FitConfig,
    *,
    generator: torch.Generator,
    report: Report = ignore_report,
    score: Callable[[], float] | None = None,
) -> None:
    """Train ``network`` in place; with ``patience`` it ends with the weights of the best score.

    :param loss_of: a batch of item indices, int64 on the CPU, to a scalar loss.
    :param score: validation score, called with the network in evaluation mode after each epoch.
    :raises TrainingError: if the loss stops being a number.
    :raises CancelledError: from ``report``.
    """
    if items == 0:
        raise TrainingError("There is nothing to train on; add labelled cases.")
    device = next(network.parameters()).device
    steps = config.epochs * max(1, math.ceil(items / config.batch_size))
    epoch_items = items * max(1, math.ceil(config.minimum_steps / steps))
    steps = config.epochs * max(1, math.ceil(epoch_items / config.batch_size))
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    begin, end = config.part
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rate_factor(begin + (end - begin) * step / steps, config.warm_up)
    )
    best: tuple[float, dict[str, Tensor]] | None = None
    stale = 0
    for epoch in range(config.epochs):
        started = time.monotonic()
        network.train()
        total, seen, told = torch.zeros(()), 0, started
        for batch in batches(items, epoch_items, config.batch_size, generator):
            optimizer.zero_grad(set_to_none=True)
            with mixed_precision(device):
                loss = loss_of(batch)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.detach().cpu() * len(batch)
            seen += len(batch)
            if seen < epoch_items and time.monotonic() - told > REPORT_EVERY_S:
                told = time.monotonic()
                mean, share = float(total) / seen, seen / epoch_items
                report(FitReport(stage, epoch + 1, config.epochs, mean, None, told - started, share))
        if not torch.isfinite(total):
            raise TrainingError("Training diverged (the loss is not a number); lower the learning rate.")
        network.eval()
        value = None
        if score is not None:
            with torch.no_grad(), mixed_precision(device):
                value = score()
            if config.patience and (best is None or value > best[0]):
                best, stale = (value, {k: v.detach().clone() for k, v in network.state_dict().items()}), 0
            else:
                stale += 1
        report(
            FitReport(stage, epoch + 1, config.epochs, float(total) / epoch_items, value, time.monotonic() - started)
        )
        if config.patience and stale >= config.patience:
            break
    if best is not None:
        network.load_state_dict(best[1])
    network.eval()


def batches(items: int, count: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """``count`` shuffled indices below ``items`` in batches; every index comes equally often.

    A last batch of one item is left out: batch normalization cannot use it.
    """
    order = torch.cat([torch.randperm(items, generator=generator) for _ in range(math.ceil(count / items))])[:count]
    for batch in torch.split(order, batch_size):
        if len(batch) > 1 or count == 1:
            yield batch


def rate_factor(progress: float, warm_up: float) -> float:
    """Learning rate over its peak at ``progress`` in 0..1: linear warm-up, then cosine to a hundredth."""
    if progress < warm_up:
        return (progress + 1e-3) / (warm_up + 1e-3)
    done = (progress - warm_up) / max(1e-9, 1 - warm_up)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


__all__ = ["CancelledError", "FitConfig", "FitReport", "Report", "batches", "fit", "ignore_report", "rate_factor"]

"""What ``ppcmi codec train`` makes under Mixup-Privacy: nothing is encoded, so it is the learned unmixing alone."""

from __future__ import annotations

import torch
from torch import Tensor

from ppcmi.codec.slice_set import SliceSet
from ppcmi.fitting import FitConfig, Report
from ppcmi.methods.mixup.case import labelled_patches
from ppcmi.methods.mixup.mixing import draw_shares, mix, one_hot
from ppcmi.methods.mixup.unmixing import UnmixingNetwork, train_unmixing, unmix
from ppcmi.task import Task

LARGEST_SAMPLE = 64
"""Patches that its quality is measured on."""


def train_mixup(
    network: UnmixingNetwork,
    labelled: SliceSet,
    task: Task,
    config: FitConfig,
    *,
    generator: torch.Generator,
    report: Report,
) -> None:
    """Train the consortium's unmixing in place."""
    labels = torch.cat([labels for _, labels in labelled_patches(labelled, task)])
    train_unmixing(network, labels[(labels > 0).flatten(1).any(dim=1)], config, generator=generator, report=report)


@torch.inference_mode()
def unmixing_dice(network: UnmixingNetwork, held_out: SliceSet, task: Task) -> dict[str, float | None]:
    """Dice by label of held-out patches that were mixed and taken apart, as if the server made no mistake."""
    labels = torch.cat([labels for _, labels in labelled_patches(held_out, task)])[:LARGEST_SAMPLE]
    generator = torch.Generator().manual_seed(0)
    target, reference = one_hot(labels, task.classes), one_hot(labels.roll(1, dims=0), task.classes)
    share = draw_shares(len(labels), generator)
    found = unmix(network, mix(target, reference, share), reference, share).argmax(dim=1)
    return {label.name: _dice(found == label.value, labels == label.value) for label in task.labels}


def _dice(found: Tensor, truth: Tensor) -> float | None:
    """None where there is nothing to find."""
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum())) if bool(truth.any()) else None

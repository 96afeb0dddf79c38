"""MONAI's U-Net on raw images: what there is without privacy (pooled), and without collaboration (alone)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
from monai.networks.nets import UNet
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.kept import show
from ppcmi.codec.augment import augment_pair
from ppcmi.codec.losses import segmentation_loss
from ppcmi.codec.quality import mean_dice
from ppcmi.codec.slice_set import SliceSet, join
from ppcmi.codec.training import predict_locally
from ppcmi.files import write_atomically
from ppcmi.fitting import FitConfig, fit
from ppcmi.task import Task

WIDTHS = (16, 32, 64, 128, 256)


def build_unet(task: Task) -> nn.Module:
    """Slices ``(n, c, h, w)`` to logits ``(n, K + 1, h, w)``; MONAI's five levels with two residual units each."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network: nn.Module = UNet(
            spatial_dims=2, in_channels=task.slicing.channels, out_channels=task.classes, channels=WIDTHS,
            strides=(2,) * (len(WIDTHS) - 1), num_res_units=2, norm="BATCH",
        )  # fmt: skip
    return network


def train_unet(
    task: Task, train: SliceSet, validation: SliceSet | None, config: FitConfig, device: torch.device
) -> nn.Module:
    """Trained on augmented slices; with ``validation``, until its Dice no longer grows."""
    network = build_unet(task).to(device)
    generator = torch.Generator().manual_seed(1)
    labels = train.known_labels

    def loss_of(index: Tensor) -> Tensor:
        slices, truth = augment_pair(train.slices[index].to(device), labels[index].to(device), generator)
        return segmentation_loss(network(slices).float(), truth)

    def score() -> float:
        assert validation is not None
        return mean_dice(predict_locally(network, validation.slices).argmax(dim=1), validation, task.classes)  # type: ignore[arg-type]

    fit(
        "U-Net", network, loss_of, len(train), config, generator=generator, report=show,
        score=None if validation is None else score,
    )  # fmt: skip
    return network


def kept_unet(file: Path, task: Task, sets: Sequence[tuple[SliceSet, SliceSet | None]], config: FitConfig,
              device: torch.device) -> nn.Module:  # fmt: skip
    """A U-Net of the sites whose training and validation cases these are, trained once and kept."""
    network = build_unet(task).to(device)
    if not file.exists():
        train, validation = sets[0]
        for more, check in sets[1:]:
            train = join(train, more)
            validation = join(validation, check) if validation and check else None
        trained = train_unet(task, train, validation, config, device)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, safetensors.torch.save({k: v.cpu() for k, v in trained.state_dict().items()}))
    network.load_state_dict(safetensors.torch.load(file.read_bytes()))
    return network.eval()


def parameters_count(network: nn.Module) -> int:
    """Numbers that a training changes."""
    return sum(p.numel() for p in network.parameters())


def flops(network: nn.Module, slices: Tensor) -> int:
    """Floating point operations for one of ``slices``."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(slices[:1])
    return int(counter.get_total_flops())

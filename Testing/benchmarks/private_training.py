"""The server's default network trained with differential privacy (DP-SGD, Abadi et al. 2016; Opacus), to compare with.

The unit is the patient: a step draws patients, each with the same probability, and each patient's gradient, over a few
of its slices, is clipped as one. So the guarantee is about all that a patient sent. The network is the real one; it has
group normalization, which Opacus takes as it is. What is kept is the moving average of the weights, as in the server's
own training; averaging costs no privacy.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from opacus import GradSampleModule
from opacus.accountants.utils import get_noise_multiplier
from opacus.optimizers import DPOptimizer
from opacus.validators import ModuleValidator
from torch import Tensor

from ppcmi.errors import TrainingError
from ppcmi_server.umn.batches import gather, slice_losses
from ppcmi_server.umn.config import UmnConfig
from ppcmi_server.umn.dataset import LatentDataset
from ppcmi_server.umn.model import TrainedUmn, UmnDescription, build_network


@dataclass(frozen=True)
class PrivacyConfig:
    """How much privacy, and how it is trained.

    :param epsilon, delta: of the guarantee, by patient.
    :param drawn: patients in a step, on average.
    :param slices: of a patient that make its gradient.
    :param largest_norm: of a patient's gradient.
    """

    epsilon: float
    delta: float = 1e-3
    steps: int = 30
    drawn: int = 8
    slices: int = 2
    largest_norm: float = 1.0
    learning_rate: float = 1e-3
    average: float = 0.05


def train_privately(
    dataset: LatentDataset, patient: Tensor, model: UmnConfig, config: PrivacyConfig, seed: int
) -> TrainedUmn:
    """Train on a data set of one codec.

    :param patient: ``(n,)`` int64, whose each slice is.
    :raises TrainingError: if the network has a layer that mixes patients.
    """
    description = UmnDescription(
        model.preset, model.profile, dict(dataset.images.shapes), dict(dataset.masks.shapes), dataset.codecs
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_network(description)
        if ModuleValidator.validate(network):
            raise TrainingError("The network mixes the slices of a batch; it cannot be trained with privacy.")
        averaged = copy.deepcopy(network).eval()
        _descend(network, averaged, dataset, patient, config, generator)
    return TrainedUmn(description, averaged)


def _descend(
    network: torch.nn.Module,
    averaged: torch.nn.Module,
    dataset: LatentDataset,
    patient: Tensor,
    config: PrivacyConfig,
    generator: torch.Generator,
) -> None:
    patients = torch.unique(patient)
    of_patient = [torch.nonzero(patient == one)[:, 0] for one in patients.tolist()]
    rate = min(1.0, config.drawn / len(patients))
    multiplier = get_noise_multiplier(
        target_epsilon=config.epsilon,
        target_delta=config.delta,
        sample_rate=rate,
        steps=config.steps,
        accountant="rdp",
    )
    hooked = GradSampleModule(network, loss_reduction="sum")
    optimizer = DPOptimizer(
        torch.optim.Adam(hooked.parameters(), lr=config.learning_rate),
        noise_multiplier=multiplier,
        max_grad_norm=config.largest_norm,
        expected_batch_size=max(1, round(rate * len(patients))),
        loss_reduction="mean",
        generator=generator,
    )
    hooked.train()
    for step in range(config.steps):
        optimizer.zero_grad(set_to_none=True)
        drawn = torch.nonzero(torch.rand(len(patients), generator=generator) < rate)[:, 0].tolist()
        if drawn:
            index = torch.cat([_some(of_patient[one], config.slices, generator) for one in drawn])
            batch = gather(dataset, 0, index, torch.device("cpu"))
            losses = slice_losses(hooked(batch.images, 0), batch.targets)
            (losses.sum() / config.slices).backward()
        for parameter in hooked.parameters():
            by_slice = getattr(parameter, "grad_sample", None)
            empty = torch.zeros(0, *parameter.shape)
            parameter.grad_sample = (  # type: ignore[attr-defined]
                empty if by_slice is None else by_slice.unflatten(0, (len(drawn), config.slices)).sum(dim=1)
            )
        optimizer.step()
        share = max(config.average, 1 / (2 + step))
        with torch.no_grad():
            for mine, current in zip(averaged.parameters(), network.parameters(), strict=True):
                mine.lerp_(current, share)


def _some(index: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """So many of a patient's slices, in turn if there are fewer."""
    order = index[torch.randperm(len(index), generator=generator)]
    return order.repeat(-(-count // len(order)))[:count]

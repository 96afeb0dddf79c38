"""The small decoder that learned attacks train: latents, or maps made of them, to pictures.

It is the codec's own image decoder behind a standardization and a 1 x 1 convolution for each scale, so that it takes
maps of any number of channels. Its loss is the squared error: who has learned nothing draws the mean picture, which is
what guessing is compared with. Every training has the same number of updates, however much an attacker knows, and ends
with the weights that did best on cases that the attacker set apart from its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppcmi.codec.image_autoencoder import ImageDecoder
from ppcmi.device import mixed_precision
from ppcmi.fitting import FitConfig, Report, fit, ignore_report
from ppcmi.latents import Latents
from ppcmi.scales import SCALE_CHANNELS, Shape

LatentsOf = Callable[[Tensor, torch.Generator], Latents]
"""Indices of pictures to their latents, with whatever is random about them drawn anew."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""What the decoder draws ``(n, outputs, h, w)`` and the truth of those slices to a scalar."""


@dataclass(frozen=True)
class DecoderConfig:
    """How an attacker's decoder is trained.

    :param steps: updates in all, the same for every attack that is compared.
    :param checks: how often the decoder is judged on the held-out cases.
    :param patience: checks without a better score before it stops.
    :param held_out_share: share of the attacker's cases that it is judged on.
    :param judged: most slices that it is judged on.
    """

    steps: int = 600
    batch_size: int = 32
    learning_rate: float = 2e-3
    checks: int = 12
    patience: int = 4
    held_out_share: float = 0.15
    judged: int = 256


class LatentDecoder(nn.Module):
    """Maps of some scales to pictures.

    :param shapes: channels, rows and columns of each scale.
    :param outputs: channels of a picture; 1 for images.
    """

    def __init__(self, shapes: Mapping[str, Shape], outputs: int = 1) -> None:
        super().__init__()
        self.entries = nn.ModuleDict({s: nn.Conv2d(shape[0], SCALE_CHANNELS[s], 1) for s, shape in shapes.items()})
        self.decoder = ImageDecoder(outputs, tuple(shapes))
        for scale, (channels, _, _) in shapes.items():
            self.register_buffer(f"mean_{scale}", torch.zeros(channels, 1, 1))
            self.register_buffer(f"deviation_{scale}", torch.ones(()))

    def standardize_by(self, examples: Latents) -> None:
        """Take the inputs' means by channel, and the largest deviation of a channel of each scale, from examples.

        A channel that says little, such as a late principal component, must not be made as loud as the first.
        """
        for scale, values in examples.items():
            getattr(self, f"mean_{scale}").copy_(values.mean(dim=(0, 2, 3))[:, None, None])
            getattr(self, f"deviation_{scale}").copy_(values.std(dim=(0, 2, 3)).max().clamp_min(1e-6))

    def forward(self, latents: Latents) -> Tensor:
        """Draw ``(n, outputs, h, w)``."""

        def enter(scale: str, values: Tensor) -> Tensor:
            standard = (values - getattr(self, f"mean_{scale}")) / getattr(self, f"deviation_{scale}")
            return torch.as_tensor(self.entries[scale](standard.clamp(-10, 10)))

        return torch.as_tensor(self.decoder(latents.map(enter)))


def train_decoder(
    latents_of: LatentsOf,
    pictures: Tensor,
    config: DecoderConfig,
    generator: torch.Generator,
    *,
    case: Tensor | None = None,
    outputs: int = 1,
    loss: Loss | None = None,
    report: Report = ignore_report,
) -> LatentDecoder:
    """Train a decoder from latents to ``pictures``.

    With fewer than three cases none is set apart, and the last weights stay.

    :param pictures: ``(n, h, w)``: pictures in 0..1, or whatever ``loss`` compares with.
    :param case: ``(n,)`` int64; which pictures are of one case and are set apart together; None: each is its own.
    :param loss: squared error of the one channel drawn, if None.
    """
    distance = loss or picture_loss
    learned, held_out = _set_apart(torch.arange(len(pictures)) if case is None else case, config, generator)
    first = latents_of(learned[: config.judged], generator)
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(1 << 31, (1,), generator=generator)))
        decoder = LatentDecoder(first.shapes, outputs)
    decoder.standardize_by(first)
    device = first[next(iter(first))].device
    decoder.to(device)

    def loss_of(virtual: Tensor) -> Tensor:
        index = learned[torch.randint(len(learned), (len(virtual),), generator=generator)]
        return distance(decoder(latents_of(index, generator)), pictures[index].to(device))

    judged_latents = latents_of(held_out, generator) if len(held_out) else first
    judged_pictures = pictures[held_out].to(device)

    def score() -> float:
        parts = zip(
            _in_batches(judged_latents, config.batch_size), torch.split(judged_pictures, config.batch_size), strict=True
        )
        losses = [float(distance(decoder(latents), truth)) * len(truth) for latents, truth in parts]
        return -sum(losses) / len(judged_pictures)

    steps = max(1, config.steps // config.checks)
    schedule = FitConfig(
        epochs=config.checks,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        patience=config.patience if len(held_out) else 0,
    )
    fit(
        "attacker's decoder", decoder, loss_of, steps * config.batch_size, schedule,
        generator=generator, report=report, score=score if len(held_out) else None,
    )  # fmt: skip
    return decoder.eval()


@torch.inference_mode()
def draw(decoder: LatentDecoder, latents: Latents, batch: int = 64) -> Tensor:
    """All outputs ``(n, outputs, h, w)`` of a decoder, float32 on the CPU."""
    device = next(decoder.parameters()).device
    with mixed_precision(device):
        parts = [decoder(part.to(device)).float().cpu() for part in _in_batches(latents, batch)]
    return torch.cat(parts)


def picture_loss(drawn: Tensor, truth: Tensor) -> Tensor:
    """Mean squared error of pictures ``(n, 1, h, w)`` and ``(n, h, w)``."""
    return F.mse_loss(drawn[:, 0].float(), truth)


def _set_apart(case: Tensor, config: DecoderConfig, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Indices to learn from, and at most ``config.judged`` of whole other cases."""
    cases = torch.unique(case)
    if len(cases) < 3:
        return torch.arange(len(case)), torch.zeros(0, dtype=torch.int64)
    shuffled = cases[torch.randperm(len(cases), generator=generator)]
    chosen = torch.isin(case, shuffled[: max(1, round(config.held_out_share * len(cases)))])
    held_out = torch.nonzero(chosen)[:, 0]
    few = held_out[torch.randperm(len(held_out), generator=generator)[: config.judged]]
    return torch.nonzero(~chosen)[:, 0], few


def _in_batches(latents: Latents, batch: int) -> list[Latents]:
    return [latents.select(slice(first, first + batch)) for first in range(0, len(latents), batch)]

"""The learned unmixing ``D(y_mix, y_ref, a)``: a 3D U-Net of four blocks, instance norms conditioned on the share.

It sees soft segmentations only, never a picture. Before there is a server's answer to learn from it is trained on
mixtures of true segmentations that were blurred and made unsure as an answer is; a site's refinement goes on from there
on real answers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppcmi.fitting import FitConfig, Report, fit, ignore_report
from ppcmi.methods.mixup.mixing import draw_shares, mix, one_hot, unmix_naively

WIDTHS = (12, 24, 48)
CONDITION = 16
"""Size of the embedding of the share."""


class AdaptiveInstanceNorm(nn.Module):
    """Instance normalization whose scale and shift follow from the share's embedding (Huang and Belongie 2017)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.affine = nn.Linear(CONDITION, 2 * channels)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """``(n, c, s, s, s)`` under the embedding ``(n, CONDITION)``."""
        scale, shift = self.affine(condition)[:, :, None, None, None].chunk(2, dim=1)
        # A small patch may be one voxel after the poolings, which has no deviation.
        normal = F.instance_norm(x) if x.shape[2:].numel() > 1 else x
        result: Tensor = normal * (1 + scale) + shift
        return result


class Block(nn.Module):
    """Two 3 x 3 x 3 convolutions, each with the conditioned norm."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv3d(i, outputs, 3, padding=1) for i in (inputs, outputs))
        self.norms = nn.ModuleList(AdaptiveInstanceNorm(outputs) for _ in range(2))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Apply."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.leaky_relu(norm(convolution(x), condition), 0.1)
        return x


class UnmixingNetwork(nn.Module):
    """Answer, reference and share to logits of the target's classes.

    What it adds to the naive unmixing starts at zero.
    """

    def __init__(self, image_channels: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.condition = nn.Sequential(nn.Linear(1, CONDITION), nn.SiLU(), nn.Linear(CONDITION, CONDITION))
        fine, middle, coarse = WIDTHS
        self.down = nn.ModuleList((Block(3 * classes, fine), Block(fine, middle)))
        self.bottom = Block(middle, coarse)
        self.up = Block(coarse + middle, fine)
        self.output = nn.Conv3d(2 * fine, classes, 1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)  # type: ignore[arg-type]
        self.sharpness = nn.Parameter(torch.tensor(6.0))

    def forward(self, answer: Tensor, references: Tensor, share: Tensor) -> Tensor:
        """Logits ``(n, K, s, s, s)`` of soft segmentations of the same shape and shares ``(n,)``.

        In float32: gradients of 3D convolutions in bfloat16 overflow now and then on processors (PyTorch 2.13).
        """
        with torch.autocast(answer.device.type, enabled=False):
            return self._unmix(answer, references, share)

    def _unmix(self, answer: Tensor, references: Tensor, share: Tensor) -> Tensor:
        naive = unmix_naively(answer, references, share)
        condition = self.condition(2 * share[:, None] - 1)
        fine = self.down[0](torch.cat((answer, references, naive), dim=1), condition)
        middle = self.down[1](F.max_pool3d(fine, 2), condition)
        bottom = self.bottom(F.max_pool3d(middle, 2), condition)
        middle = self.up(torch.cat((_grown(bottom), middle), dim=1), condition)
        logits: Tensor = self.output(torch.cat((_grown(middle), fine), dim=1))
        return logits + self.sharpness * naive


def soft_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross entropy plus soft Dice, with soft targets ``(n, K, s, s, s)``; mean over the patches."""
    entropy = -(truth * logits.log_softmax(dim=1)).sum(dim=1).mean()
    probabilities = logits.softmax(dim=1)[:, 1:]
    overlap, total = (probabilities * truth[:, 1:]).sum((0, 2, 3, 4)), (probabilities + truth[:, 1:]).sum((0, 2, 3, 4))
    return entropy + 1 - ((2 * overlap + 1) / (total + 1)).mean()


def train_unmixing(
    network: UnmixingNetwork,
    labels: Tensor,
    config: FitConfig,
    *,
    generator: torch.Generator,
    report: Report = ignore_report,
) -> None:
    """Train in place on mixtures of true labels ``(n, s, s, s)``, made unsure as a server's answer is."""
    device = next(network.parameters()).device

    def loss_of(index: Tensor) -> Tensor:
        other = torch.randint(len(labels), (len(index),), generator=generator)
        target, reference = one_hot(labels[index], network.classes), one_hot(labels[other], network.classes)
        share = draw_shares(len(index), generator)
        answer = _unsure(mix(target, reference, share), generator)
        logits = network(answer.to(device), reference.to(device), share.to(device))
        return soft_loss(logits, target.to(device))

    fit("unmixing", network, loss_of, len(labels), config, generator=generator, report=report)


def refine_unmixing(
    network: UnmixingNetwork,
    answers: Tensor,
    references: Tensor,
    shares: Tensor,
    truth: Tensor,
    config: FitConfig,
    *,
    generator: torch.Generator,
    report: Report = ignore_report,
) -> None:
    """Go on in place on a server's answers.

    :param answers: ``(n, K, s, s, s)`` for mixtures of ``n`` patches.
    :param references: labels ``(n, s, s, s)`` of what each was mixed with.
    :param truth: labels of the patches.
    """
    device = next(network.parameters()).device

    def loss_of(index: Tensor) -> Tensor:
        known = one_hot(references[index], network.classes).to(device)
        logits = network(answers[index].to(device).float(), known, shares[index].to(device))
        return soft_loss(logits, one_hot(truth[index], network.classes).to(device))

    fit("unmixing", network, loss_of, len(truth), config, generator=generator, report=report)


@torch.inference_mode()
def unmix(network: UnmixingNetwork, answer: Tensor, references: Tensor, share: Tensor) -> Tensor:
    """Probabilities ``(n, K, s, s, s)`` by the learned unmixing."""
    device = next(network.parameters()).device
    probabilities: Tensor = network(answer.to(device), references.to(device), share.to(device)).softmax(dim=1)
    return probabilities.cpu()


def _unsure(soft: Tensor, generator: torch.Generator) -> Tensor:
    """Blurred by as much as was drawn, and noisy."""
    blurred = F.avg_pool3d(F.pad(soft, (1,) * 6, mode="replicate"), 3, stride=1)
    strength = torch.rand(len(soft), 1, 1, 1, 1, generator=generator)
    noise = torch.randn(soft.shape, generator=generator) * 0.1 * torch.rand(len(soft), 1, 1, 1, 1, generator=generator)
    return (soft + strength * (blurred - soft) + noise).clamp(0, 1)


def _grown(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")

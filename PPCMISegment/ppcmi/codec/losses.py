"""Losses that do not lose a small structure.

The published loss (0.5 BCE + 0.5 soft Dice over all channels together) lets a small class vanish (RESULTS, Codecs);
cross entropy with the soft Dice of every foreground class over the whole batch does not.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def segmentation_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy plus one minus the mean batch soft Dice of the foreground classes.

    :param logits: ``(n, K + 1, h, w)``.
    :param labels: ``(n, h, w)``, integers.
    """
    labels = labels.long()
    probabilities = logits.softmax(dim=1)[:, 1:]
    target = F.one_hot(labels, logits.shape[1]).permute(0, 3, 1, 2)[:, 1:].to(logits.dtype)
    axes = (0, 2, 3)
    overlap = (probabilities * target).sum(axes)
    total = probabilities.sum(axes) + target.sum(axes)
    present = target.sum(axes) > 0
    dice = (2 * overlap + 1) / (total + 1)
    share = torch.where(present, 1 - dice, torch.zeros_like(dice)).sum() / present.sum().clamp_min(1)
    return F.cross_entropy(logits, labels) + share


def published_mask_loss(logits: Tensor, target: Tensor) -> Tensor:
    """PAPER's codec loss: 0.5 binary cross entropy + 0.5 soft Dice over all channels together.

    :param logits: before the sigmoid, ``(n, c, h, w)``.
    :param target: the same shape, in [0, 1].
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target)
    probabilities = logits.sigmoid()
    overlap = (probabilities * target).sum()
    dice = (2 * overlap + 1) / (probabilities.sum() + target.sum() + 1)
    return 0.5 * cross_entropy + 0.5 * (1 - dice)

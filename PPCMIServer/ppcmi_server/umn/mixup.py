"""The network of Mixup-Privacy (PAPER): a 3D U-Net++ that segments mixtures of patches.

U-Net++ (Zhou et al. 2018): every resolution has a row of nodes, each fed by all nodes before it in its row and the one
below; the last of the finest row is the output. Group norms, so that batches of four patches are enough.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppcmi.scales import Shapes

WIDTHS = (8, 16, 32, 64)
SMALLEST_SIDE = 8


class Node(nn.Module):
    """Two 3 x 3 x 3 convolutions, normalized in groups."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(inputs, outputs, 3, padding=1),
            nn.GroupNorm(4, outputs),
            nn.LeakyReLU(0.1, inplace=True),
            nn.Conv3d(outputs, outputs, 3, padding=1),
            nn.GroupNorm(4, outputs),
            nn.LeakyReLU(0.1, inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply."""
        return torch.as_tensor(self.layers(x))


class MixupNetwork(nn.Module):
    """Mixed patches ``x`` of shape ``(n, s, s, s)`` to mixed soft segmentations ``y``, ``(n, K s, s, s)``.

    :param images: shape of ``x``; ``masks``: of ``y``.
    """

    def __init__(self, images: Shapes, masks: Shapes) -> None:
        super().__init__()
        self.classes = masks["y"][0] // images["x"][0]
        depth = len(WIDTHS)
        self.nodes = nn.ModuleDict()
        for row, width in enumerate(WIDTHS):
            for column in range(depth - row):
                below = WIDTHS[row + 1] if column else 0
                inputs = column * width + below if column else (WIDTHS[row - 1] if row else 1)
                self.nodes[f"{row}{column}"] = Node(inputs, width)
        self.output = nn.Conv3d(WIDTHS[0], self.classes, 1)
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def forward(self, images: Mapping[str, Tensor], codec: int = 0) -> dict[str, Tensor]:
        """Segment; one network serves every codec.

        In float32: gradients of 3D convolutions in bfloat16 overflow now and then on processors (PyTorch 2.13).
        """
        with torch.autocast(images["x"].device.type, enabled=False):
            return self._segment(images["x"][:, None].float())

    def _segment(self, x: Tensor) -> dict[str, Tensor]:
        rows: list[list[Tensor]] = []
        for row in range(len(WIDTHS)):
            x = self.nodes[f"{row}0"](x if row == 0 else F.max_pool3d(x, 2))
            rows.append([x])
            for above in range(row - 1, -1, -1):
                column = row - above
                below = F.interpolate(rows[above + 1][column - 1], scale_factor=2.0, mode="nearest")
                node = self.nodes[f"{above}{column}"]
                rows[above].append(node(torch.cat((*rows[above][:column], below), dim=1)))
        logits = self.output(rows[0][-1])
        return {"y": logits.float().softmax(dim=1).flatten(1, 2)}


def mixture_losses(outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
    """Cross entropy plus soft Dice of each patch, ``(n,)``; targets are soft, class by class one cube."""
    side = outputs["y"].shape[-1]
    found, truth = (values["y"].reshape(len(values["y"]), -1, side, side, side) for values in (outputs, targets))
    entropy = -(truth * found.clamp_min(1e-6).log()).sum(dim=1).mean(dim=(1, 2, 3))
    overlap, total = (found * truth)[:, 1:].sum((2, 3, 4)), (found + truth)[:, 1:].sum((2, 3, 4))
    return entropy + 1 - ((2 * overlap + 1) / (total + 1)).mean(dim=1)

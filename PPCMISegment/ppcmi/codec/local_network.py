"""The site's own segmentation network, a plain 2-D U-Net: what the site has without any server.

It is the server-less twin that private collaboration is compared with, and its other half: the site's decoder averages
both predictions at a weight that the site's validation cases choose.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppcmi.codec.blocks import LARGE_SLICE, convolution_stage


class LocalNetwork(nn.Module):
    """Slices ``(n, c, h, w)`` in [0, 1] to logits ``(n, classes, h, w)``.

    :param stem: factor of the pixel unshuffle at the entry and of the shuffle at the exit; 1 for none.
    :param widths: channels of each level, finest first; each level halves the resolution.
    """

    def __init__(self, channels: int, classes: int, stem: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.stem = stem
        self.classes = classes
        inputs = (channels * stem**2, *widths)
        self.downs = nn.ModuleList(convolution_stage(i, o) for i, o in zip(inputs, widths, strict=False))
        self.reduces = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in pairwise(widths))
        self.ups = nn.ModuleList(convolution_stage(2 * fine, fine) for fine in widths[:-1])
        self.output = nn.Conv2d(widths[0], classes * stem**2, 1)

    def forward(self, slices: Tensor) -> Tensor:
        """Logits."""
        x, skips = F.pixel_unshuffle(slices - 0.5, self.stem), []
        for level, down in enumerate(self.downs):
            x = down(x if level == 0 else F.max_pool2d(x, 2))
            skips.append(x)
        for level in reversed(range(len(self.ups))):
            x = F.interpolate(self.reduces[level](x), scale_factor=2.0)
            x = self.ups[level](torch.cat((x, skips[level]), dim=1))
        logits: Tensor = F.pixel_shuffle(self.output(x), self.stem)
        return logits.float()


def build_local_network(channels: int, classes: int, slice_size: Sequence[int]) -> LocalNetwork:
    """The network for slices of ``slice_size`` rows and columns."""
    if slice_size[0] >= LARGE_SLICE:
        network = LocalNetwork(channels, classes, 2, (16, 32, 96, 160, 192))
    else:
        network = LocalNetwork(channels, classes, 1, (16, 32, 64, 128, 192))
    # With weights in the layout of the slices it takes two thirds of the time on a CPU.
    return network.to(memory_format=torch.channels_last)  # type: ignore[no-any-return, call-overload]

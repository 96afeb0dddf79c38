"""The default unified mapping network: all scales at once, with paths down and up between them.

It works in the space of the inner key. A channel mixing is undone, as far as that is needed at all, by the 1 x 1
adapters at either end; with a codec of its own for each site (scope ``site``) every codec has adapters of its own
around one common trunk.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppcmi.codec.blocks import residual_stage
from ppcmi.scales import Shapes

WIDTHS: Mapping[str, int] = {"s3": 96, "s4": 192, "b": 320}


class MappingNetwork(nn.Module):
    """Standardized image latents to standardized mask latents of the same scales.

    :param images: shapes of image latents, finest scale first; ``masks``: of mask latents.
    :param codecs: how many codecs the network serves; one for a consortium.
    """

    def __init__(self, images: Shapes, masks: Shapes, codecs: int = 1, depth: int = 2, dropout: float = 0.1) -> None:
        super().__init__()
        self.scales = tuple(images)

        def adapters(inputs: Mapping[str, int], outputs: Mapping[str, int]) -> nn.ModuleDict:
            return nn.ModuleDict(
                {s: nn.ModuleList(nn.Conv2d(inputs[s], outputs[s], 1) for _ in range(codecs)) for s in self.scales}
            )

        self.entries = adapters({s: channels for s, (channels, _, _) in images.items()}, WIDTHS)
        self.exits = adapters(WIDTHS, {s: channels for s, (channels, _, _) in masks.items()})
        self.down_stages = nn.ModuleDict({s: residual_stage(WIDTHS[s], depth, dropout) for s in self.scales})
        self.up_stages = nn.ModuleDict({s: residual_stage(WIDTHS[s], depth, dropout) for s in self.scales})
        pairs = list(zip(self.scales, self.scales[1:], strict=False))
        self.downs = nn.ModuleDict({f: nn.Conv2d(WIDTHS[f], WIDTHS[c], 2, stride=2) for f, c in pairs})
        self.ups = nn.ModuleDict({f: nn.Conv2d(WIDTHS[c], 4 * WIDTHS[f], 1) for f, c in pairs})

    def forward(self, images: Mapping[str, Tensor], codec: int = 0) -> dict[str, Tensor]:
        """Map; ``codec`` is the index of the codec that all slices of the batch were encoded with."""
        hidden: dict[str, Tensor] = {}
        finer: Tensor | None = None
        for scale in self.scales:
            x = self.entries[scale][codec](images[scale])  # type: ignore[index]
            if finer is not None:
                x = x + finer
            hidden[scale] = x = self.down_stages[scale](x)
            finer = self.downs[scale](x) if scale in self.downs else None
        masks: dict[str, Tensor] = {}
        coarser: Tensor | None = None
        for scale in reversed(self.scales):
            x = hidden[scale]
            if coarser is not None:
                x = x + F.pixel_shuffle(self.ups[scale](coarser), 2)
            coarser = x = self.up_stages[scale](x)
            masks[scale] = torch.as_tensor(self.exits[scale][codec](F.silu(x))).float()  # type: ignore[index]
        return masks

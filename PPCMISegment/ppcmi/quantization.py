"""Quantization: latents on their way in float32, float16 or 8-bit integers, and the tensors that a bundle has then.

For ``i8`` every slice and scale has one float32 factor, its largest magnitude / 127: the link layer makes a slice's
values alike and near Gaussian, which is what makes one factor and eight bits enough (rounding error at most half a
factor, about 1 % of the values' standard deviation).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal

from ppcmi.scales import Shape

TensorType = Literal["F32", "F16", "I8"]
"""A tensor's type as safetensors names it."""

ITEM_BYTES: Mapping[TensorType, int] = {"F32": 4, "F16": 2, "I8": 1}


class Quantization(StrEnum):
    """How many bits a latent value has on its way."""

    F32 = "f32"
    F16 = "f16"
    I8 = "i8"

    @property
    def tensor_type(self) -> TensorType:
        """The tensors' type."""
        types: Mapping[Quantization, TensorType] = {self.F32: "F32", self.F16: "F16", self.I8: "I8"}
        return types[self]


def tensor_layout(
    shapes: Mapping[str, Shape], slices: int, quantization: Quantization
) -> dict[str, tuple[TensorType, tuple[int, ...]]]:
    """Type and shape of each tensor, by name, for ``slices`` slices with scales of these shapes."""
    layout: dict[str, tuple[TensorType, tuple[int, ...]]] = {}
    for scale, (channels, rows, columns) in shapes.items():
        layout[scale] = (quantization.tensor_type, (slices, channels * rows * columns))
        if quantization is Quantization.I8:
            layout[f"{scale}.scale"] = ("F32", (slices,))
    return layout

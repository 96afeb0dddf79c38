"""Quantization: latents on their way in float32, float16, or 8 or 4 bits, and the tensors that a bundle has then.

The link layer makes a slice's values alike and near Gaussian, which is what makes one float32 factor for every slice
and scale, and few bits, enough. For ``i8`` the factor is the largest magnitude / 127 (rounding error at most half a
factor, about 1 % of the values' standard deviation). For ``i4`` it is the root mean square; a value is the nearest of
the sixteen levels that are best for a Gaussian (:data:`GAUSSIAN_LEVELS`), which errs by about 10 % of the standard
deviation, and two values share a byte: the first in its lower half; an odd number is filled up with level 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal

from ppcmi.scales import Shape

TensorType = Literal["F32", "F16", "I8", "U8"]
"""A tensor's type as safetensors names it."""

ITEM_BYTES: Mapping[TensorType, int] = {"F32": 4, "F16": 2, "I8": 1, "U8": 1}

GAUSSIAN_LEVELS = (
    -2.7326, -2.0690, -1.6181, -1.2562, -0.9424, -0.6568, -0.3881, -0.1284,
    0.1284, 0.3881, 0.6568, 0.9424, 1.2562, 1.6181, 2.0690, 2.7326,
)  # fmt: skip
"""Of ``i4``, times the factor: least mean squared error for a Gaussian (J. Max, IRE Trans. Inf. Theory 6, 1960)."""


class Quantization(StrEnum):
    """How many bits a latent value has on its way."""

    F32 = "f32"
    F16 = "f16"
    I8 = "i8"
    I4 = "i4"

    @property
    def tensor_type(self) -> TensorType:
        """The tensors' type."""
        types: Mapping[Quantization, TensorType] = {
            self.F32: "F32", self.F16: "F16", self.I8: "I8", self.I4: "U8",
        }  # fmt: skip
        return types[self]

    @property
    def has_factors(self) -> bool:
        """Whether every slice and scale has a factor."""
        return self in (self.I8, self.I4)

    def fit_for(self, mode: str) -> Quantization:
        """The same, but eight bits for four where no link layer makes a Gaussian of a slice."""
        return Quantization.I8 if self is Quantization.I4 and mode != "two-layer" else self


FOR_MAPPING = Quantization.I4
"""Of requests and answers unless a user chooses otherwise: no loss of Dice that counts, see docs/RESULTS.md."""

FOR_TRAINING = Quantization.I8
"""Of cohorts: a network learns from the same values many times."""


def tensor_layout(
    shapes: Mapping[str, Shape], slices: int, quantization: Quantization
) -> dict[str, tuple[TensorType, tuple[int, ...]]]:
    """Type and shape of each tensor, by name, for ``slices`` slices with scales of these shapes."""
    layout: dict[str, tuple[TensorType, tuple[int, ...]]] = {}
    for scale, (channels, rows, columns) in shapes.items():
        values = channels * rows * columns
        items = (values + 1) // 2 if quantization is Quantization.I4 else values
        layout[scale] = (quantization.tensor_type, (slices, items))
        if quantization.has_factors:
            layout[f"{scale}.scale"] = ("F32", (slices,))
    return layout

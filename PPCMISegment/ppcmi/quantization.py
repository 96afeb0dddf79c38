"""Quantization: latents as the flat tensors of a bundle, in float32, float16 or 8-bit integers.

For ``i8`` every slice and scale has one float32 factor, its largest magnitude / 127: the link layer makes a slice's
values alike and near Gaussian, which is what makes one factor and eight bits enough (rounding error at most half a
factor, about 1 % of the values' standard deviation).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import torch
from torch import Tensor

from ppcmi.errors import BundleError
from ppcmi.latents import Latents, Shape


class Quantization(StrEnum):
    """How many bits a latent value has on its way."""

    F32 = "f32"
    F16 = "f16"
    I8 = "i8"

    @property
    def dtype(self) -> torch.dtype:
        """The tensors' type."""
        return {Quantization.F32: torch.float32, Quantization.F16: torch.float16, Quantization.I8: torch.int8}[self]


def quantize(latents: Latents, quantization: Quantization) -> dict[str, Tensor]:
    """CPU tensors by name: ``s4`` of shape ``(n, C H W)``, and for ``i8`` the factors ``s4.scale``, float32 ``(n,)``.

    :raises BundleError: if a value is not finite, or too large for ``f16``.
    """
    tensors: dict[str, Tensor] = {}
    for scale, values in latents.items():
        flat = values.detach().flatten(1).float()
        if not torch.isfinite(flat).all():
            raise BundleError("The latents hold values that are not finite; check the image and the codec.")
        if quantization is Quantization.I8:
            flat, tensors[f"{scale}.scale"] = _to_int8(flat)
        elif quantization is Quantization.F16:
            flat = flat.half()
            if not torch.isfinite(flat).all():
                raise BundleError("The latents hold values too large for f16; use f32 or i8.")
        tensors[scale] = flat.cpu().contiguous()
    return tensors


def dequantize(tensors: Mapping[str, Tensor], shapes: Mapping[str, Shape], quantization: Quantization) -> Latents:
    """Float32 latents ``(n, C, H, W)`` from the tensors that :func:`quantize` gives.

    :param tensors: of the names, types and shapes that :func:`tensor_layout` tells.
    :raises BundleError: if a value is not finite, or a factor is negative.
    """
    scales = {}
    for scale, shape in shapes.items():
        values = tensors[scale].float()
        if quantization is Quantization.I8:
            factors = tensors[f"{scale}.scale"]
            if (factors < 0).any():
                raise BundleError("The bundle holds a negative quantization factor; ask its sender for it again.")
            values = values * factors[:, None]
        if not torch.isfinite(values).all():
            raise BundleError("The bundle holds values that are not finite; ask its sender for it again.")
        scales[scale] = values.reshape(-1, *shape)
    return Latents(scales)


def tensor_layout(
    shapes: Mapping[str, Shape], slices: int, quantization: Quantization
) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Type and shape of each tensor, by name, for ``slices`` slices with scales of these shapes."""
    layout: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    for scale, (channels, rows, columns) in shapes.items():
        layout[scale] = (quantization.dtype, (slices, channels * rows * columns))
        if quantization is Quantization.I8:
            layout[f"{scale}.scale"] = (torch.float32, (slices,))
    return layout


def _to_int8(flat: Tensor) -> tuple[Tensor, Tensor]:
    factors = flat.abs().amax(dim=1) / 127
    divisors = torch.where(factors > 0, factors, 1.0)
    return (flat / divisors[:, None]).round_().clamp_(-127, 127).to(torch.int8), factors.cpu()

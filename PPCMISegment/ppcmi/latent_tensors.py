"""Latents as the flat tensors of a bundle and back; see :mod:`ppcmi.quantization` for what the bits mean."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ppcmi.errors import BundleError
from ppcmi.latents import Latents, is_finite
from ppcmi.quantization import GAUSSIAN_LEVELS, Quantization
from ppcmi.scales import Shape


def quantize(latents: Latents, quantization: Quantization) -> dict[str, Tensor]:
    """CPU tensors by name: ``s4`` of shape ``(n, C H W)``, for ``i4`` half as long, and factors ``s4.scale`` ``(n,)``.

    :raises BundleError: if a value is not finite, or too large for ``f16``.
    """
    tensors: dict[str, Tensor] = {}
    for scale, values in latents.items():
        flat = values.detach().flatten(1).float()
        if not is_finite(flat):
            raise BundleError("The latents hold values that are not finite; check the image and the codec.")
        if quantization is Quantization.I8:
            flat, tensors[f"{scale}.scale"] = _to_int8(flat)
        elif quantization is Quantization.I4:
            flat, tensors[f"{scale}.scale"] = _to_int4(flat)
        elif quantization is Quantization.F16:
            flat = flat.half()
            if not is_finite(flat):
                raise BundleError("The latents hold values too large for f16; use f32 or i8.")
        tensors[scale] = flat.cpu().contiguous()
    return tensors


def dequantize(tensors: Mapping[str, Tensor], shapes: Mapping[str, Shape], quantization: Quantization) -> Latents:
    """Float32 latents ``(n, C, H, W)`` from the tensors that :func:`quantize` gives.

    :param tensors: of the names, types and shapes that :func:`~ppcmi.quantization.tensor_layout` tells.
    :raises BundleError: if a value is not finite, or a factor is negative.
    """
    scales = {}
    for scale, shape in shapes.items():
        values = tensors[scale]
        values = _levels_of(values, math.prod(shape)) if quantization is Quantization.I4 else values.float()
        if quantization.has_factors:
            factors = tensors[f"{scale}.scale"]
            if (factors < 0).any():
                raise BundleError("The bundle holds a negative quantization factor; ask its sender for it again.")
            values = values * factors[:, None]
        if not is_finite(values):
            raise BundleError("The bundle holds values that are not finite; ask its sender for it again.")
        scales[scale] = values.reshape(-1, *shape)
    return Latents(scales)


def _to_int8(flat: Tensor) -> tuple[Tensor, Tensor]:
    factors = flat.abs().amax(dim=1) / 127
    divisors = torch.where(factors > 0, factors, 1.0)
    return (flat / divisors[:, None]).round_().clamp_(-127, 127).to(torch.int8), factors.cpu()


def _to_int4(flat: Tensor) -> tuple[Tensor, Tensor]:
    rows = flat.cpu()
    norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)  # squares of large values fit float64 alone
    factors = (norms / math.sqrt(rows.shape[1])).float()
    divisors = torch.where(factors > 0, factors, 1.0)
    levels = torch.tensor(GAUSSIAN_LEVELS)
    limits = ((levels[1:] + levels[:-1]) / 2).numpy()
    packed = np.empty((len(rows), (rows.shape[1] + 1) // 2), dtype=np.uint8)
    for row, pairs in zip((rows / divisors[:, None]).numpy(), packed, strict=True):
        # Slice by slice all passes stay in the processor's cache: an eighth of the time of the same in PyTorch.
        numbers = np.zeros(2 * len(pairs), dtype=np.uint8)
        for limit in limits:
            numbers[: len(row)] += row > limit
        np.bitwise_or(numbers[0::2], numbers[1::2] << 4, out=pairs)
    return torch.from_numpy(packed), factors


def _levels_of(packed: Tensor, values: int) -> Tensor:
    """Levels, before the factors, from pairs of numbers ``(n, ceil(values / 2))``."""
    levels = torch.tensor(GAUSSIAN_LEVELS)
    pairs = torch.stack((levels.repeat(16), levels.repeat_interleave(16)), dim=1)  # by byte: low number, high number
    return pairs.index_select(0, packed.flatten().int()).view(len(packed), -1)[:, :values]

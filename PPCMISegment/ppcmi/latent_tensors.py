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

_LEVELS = np.array(GAUSSIAN_LEVELS, dtype=np.float32)


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
        if quantization.has_factors:
            factors = tensors[f"{scale}.scale"]
            if (factors < 0).any():
                raise BundleError("The bundle holds a negative quantization factor; ask its sender for it again.")
            if quantization is Quantization.I4:
                values = _from_int4(values, factors, math.prod(shape))
            else:
                values = values * factors[:, None]
        values = values.float()
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
    limits = (_LEVELS[1:] + _LEVELS[:-1]) / 2
    packed = np.empty((len(rows), (rows.shape[1] + 1) // 2), dtype=np.uint8)
    for row, divisor, pairs in zip(rows.numpy(), divisors.numpy(), packed, strict=True):
        # Slice by slice all passes stay in the processor's cache: an eighth of the time of the same in PyTorch.
        levels, numbers = row / divisor, np.zeros(2 * len(pairs), dtype=np.uint8)
        for limit in limits:
            numbers[: len(row)] += levels > limit
        np.bitwise_or(numbers[0::2], numbers[1::2] << 4, out=pairs)
    return torch.from_numpy(packed), factors


def _from_int4(packed: Tensor, factors: Tensor, values: int) -> Tensor:
    """Levels times factors ``(n, values)`` from pairs of numbers ``(n, ceil(values / 2))``."""
    pairs = np.stack((np.tile(_LEVELS, 16), np.repeat(_LEVELS, 16)), axis=1)  # by byte: low number, high number
    tables = torch.from_numpy(pairs) * factors[:, None, None]
    found = np.empty((*packed.shape, 2), dtype=np.float32)
    for numbers, table, row in zip(packed.numpy(), tables.numpy(), found, strict=True):
        np.take(table, numbers, axis=0, out=row, mode="clip")  # every byte is in the table; this way is the quickest
    return torch.from_numpy(found).view(len(packed), -1)[:, :values]

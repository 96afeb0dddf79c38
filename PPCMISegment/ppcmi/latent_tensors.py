"""Latents as the flat tensors of a bundle and back; see :mod:`ppcmi.quantization` for what the bits mean."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ppcmi.errors import BundleError
from ppcmi.latents import Latents
from ppcmi.quantization import Quantization
from ppcmi.scales import Shape


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

    :param tensors: of the names, types and shapes that :func:`~ppcmi.quantization.tensor_layout` tells.
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


def _to_int8(flat: Tensor) -> tuple[Tensor, Tensor]:
    factors = flat.abs().amax(dim=1) / 127
    divisors = torch.where(factors > 0, factors, 1.0)
    return (flat / divisors[:, None]).round_().clamp_(-127, 127).to(torch.int8), factors.cpu()

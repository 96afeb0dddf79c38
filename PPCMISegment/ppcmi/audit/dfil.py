"""Diagonal Fisher information leakage: what noise on latents buys (Maeng et al., ICML 2023, arXiv 2305.04146).

For ``z = f(x) + noise`` with Gaussian noise of deviation ``sigma`` and ``d`` pixels, ``dFIL = tr(J^T J) / (d sigma^2)``
with ``J`` the encoder's Jacobian: no unbiased estimate of the pixels has a mean squared error below ``1 / dFIL``. It is
a bound for who knows nothing about images; who knows what images look like does better. Without noise it is infinite.
An orthogonal mixing leaves ``J^T J`` as it is: a keyed transform adds exactly nothing here.

The trace is estimated by Hutchinson's method: the mean of ``|J v|^2`` over vectors ``v`` of random signs, by
forward-mode differentiation in float32.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from ppcmi.codec.codec import Codec, CodecNetwork
from ppcmi.latents import Latents
from ppcmi.scales import Profile, Stream

Mixing = Callable[[Latents], Latents]
"""A linear map of latents, such as a layer of the KLT without its bias."""


def diagonal_fisher_leakage(
    codec: Codec,
    slices: Tensor,
    profile: Profile,
    noise: float,
    generator: torch.Generator,
    *,
    mixing: Mixing | None = None,
    probes: int = 8,
) -> Tensor:
    """dFIL of each slice ``(n,)``, in 1 / gray level^2 of slices in [0, 1].

    :param noise: deviation of the noise, relative to each scale's own over ``slices``; 0 gives infinity.
    :param mixing: what the latents go through before they leave.
    """
    if noise == 0:
        return torch.full((len(slices),), math.inf)
    values = slices.float().to(codec.device)
    sigma = {scale: noise * float(v.std()) for scale, v in codec.encode_images(values).of(profile).items()}
    encode, pixels = _encoder(codec, profile), values[0].numel()
    total = torch.zeros(len(slices))
    for _ in range(probes):
        signs = torch.randint(2, values.shape, generator=generator).float().to(codec.device) * 2 - 1
        with torch.no_grad():
            _, change = torch.func.jvp(encode, (values.contiguous(),), (signs,))  # type: ignore[misc]
        left = Latents(change) if mixing is None else mixing(Latents(change))
        for scale, v in left.items():
            total += (v.float() / sigma[scale]).square().flatten(1).sum(dim=1).cpu()
    return total / (probes * pixels)


def lowest_error(leakage: Tensor) -> Tensor:
    """``1 / dFIL``: mean squared error of a pixel that no unbiased estimate goes below."""
    return 1 / leakage


def _encoder(codec: Codec, profile: Profile) -> Callable[[Tensor], dict[str, Tensor]]:
    """Slices to the standardized latents that leave."""
    standardization = codec.standardization(Stream.IMAGE)
    # Forward-mode differentiation of group normalization wants the usual order of memory.
    plain = copy.deepcopy(codec.network).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    network = cast(CodecNetwork, plain)

    def encode(slices: Tensor) -> dict[str, Tensor]:
        return dict(standardization.apply_to(network.encode_images(slices)).of(profile).items())

    return encode

"""Walsh-Hadamard transform of long rows as a few small matrix products, quicker on one core than butterflies."""

from __future__ import annotations

import functools
from itertools import cycle

import torch
from torch import Tensor

LARGEST_FACTOR_BITS = 6


class WalshHadamard:
    """Orthonormal Walsh-Hadamard transform (Sylvester's order) of each run of ``block`` values; its own inverse.

    ``H_B`` is the Kronecker product of Hadamard matrices of at most 64 rows: reshape, multiply along each axis.

    :param rows: the most rows that a call transforms.
    :param size: values a row; ``block`` is the largest power of two that divides it.
    """

    def __init__(self, rows: int, size: int, device: torch.device) -> None:
        self.block = size & -size
        self._factors = [factor.to(device) for factor in _orthonormal_factors(self.block.bit_length() - 1)]
        self._buffers = [torch.empty(rows * size, dtype=torch.float32, device=device) for _ in range(2)]

    def __call__(self, values: Tensor) -> Tensor:
        """Transform contiguous float32 ``(rows, size)``; the result lies in a buffer that the next call uses again."""
        current, groups = values, values.numel() // self.block
        for factor, buffer in zip(self._factors, cycle(self._buffers), strict=False):
            width = len(factor)
            source = current.view(groups, width, -1)
            target = buffer[: values.numel()].view(source.shape)
            if source.shape[2] == 1:
                torch.mm(source.squeeze(2), factor, out=target.squeeze(2))
            else:
                torch.bmm(factor.expand(groups, width, width), source, out=target)
            current, groups = target, groups * width
        return current.view(values.shape)


@functools.lru_cache(maxsize=32)
def _orthonormal_factors(bits: int) -> tuple[Tensor, ...]:
    """Hadamard matrices of sizes as equal as can be; the first carries the normalization ``2^(-bits / 2)``."""
    count = max(1, -(-bits // LARGEST_FACTOR_BITS))
    sizes = [bits // count + (index < bits % count) for index in range(count)]
    first, *others = (_hadamard(size) for size in sizes)
    return (first * 2.0 ** (-bits / 2), *others)


def _hadamard(bits: int) -> Tensor:
    """Sylvester's matrix of ``2^bits`` rows, entries +1 and -1."""
    matrix, step = torch.ones(1, 1), torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    for _ in range(bits):
        matrix = torch.kron(step, matrix)
    return matrix

"""Link layer of the KLT: a mixing of the whole slice, new for every slice of every bundle.

For the ``N = C H W`` values ``x`` of one scale of one slice, three rounds ``r`` of ``x <- H (s_r * x[p_r]) / sqrt(B)``:
a keyed permutation ``p_r`` that the slices of a bundle share, keyed signs ``s_r`` that are new for every slice, and the
Walsh-Hadamard transform ``H`` of each run of ``B`` values, ``B`` the largest power of two that divides ``N``. It is
orthogonal, so the rounds backwards are its exact inverse. It leaves no map of norms and makes all values alike, near
Gaussian. Against anyone without a way to read bundles it adds nothing to TLS and AES-GCM (DESIGN, What protects what).

The work is done in float32 on the latents' device, without gradients, and needs PyTorch's full float32 matrix products
(the default; not ``torch.set_float32_matmul_precision("medium")``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppcmi.klt.derivation import NONCE_BYTES, KeyStream, context_of, key_check, nonce_of, require_key
from ppcmi.klt.hadamard import WalshHadamard
from ppcmi.latents import Latents
from ppcmi.scales import Stream

ROUNDS = 3
WORK_VALUES = 1 << 19
"""Values (2 MiB as float32) that are worked on together: small enough for a processor's cache."""


_Rounds = Callable[[Tensor, Sequence[Tensor], WalshHadamard, Tensor], Tensor]
"""All rounds of some slices ``(n, N)``, given their signs, the transform and a tensor ``(n, N)`` to work in."""


class LinkLayer:
    """The link layer between one site and the server for one task.

    :param key: the link key, 32 bytes.
    :param task_identity: the task's name and version.
    """

    def __init__(self, key: bytes, task_identity: str) -> None:
        self._key = require_key(key)
        self._task = task_identity

    def apply(self, latents: Latents, stream: Stream, nonce: bytes) -> Latents:
        """Latents ``(n, C, H, W)`` of one bundle, mixed; float32 of the same shape. ``nonce`` has 16 bytes.

        A slice's signs depend on its place in the bundle, so the bundle goes through in one piece.
        """
        return latents.map(lambda scale, values: self._mixing(stream, scale, nonce, values).forward(values))

    def invert(self, latents: Latents, stream: Stream, nonce: bytes) -> Latents:
        """Mixed latents of one bundle, back as they were to float32 rounding."""
        return latents.map(lambda scale, values: self._mixing(stream, scale, nonce, values).backward(values))

    def nonce(self, content: bytes) -> bytes:
        """The nonce for a bundle of this content; see :func:`~ppcmi.klt.derivation.nonce_of`."""
        return nonce_of(self._key, content)

    def check(self, nonce: bytes) -> str:
        """Key check value, 16 hex digits, for the bundle with this nonce."""
        return key_check(self._key, "link", self._task, nonce)

    def _mixing(self, stream: Stream, scale: str, nonce: bytes, values: Tensor) -> _Mixing:
        if len(nonce) != NONCE_BYTES:
            raise ValueError(f"a nonce has {NONCE_BYTES} bytes, got {len(nonce)}")

        def streams(purpose: str) -> list[KeyStream]:
            return [
                KeyStream(self._key, context_of(self._task, stream, scale, purpose=purpose, nonce=nonce, round_=r))
                for r in range(ROUNDS)
            ]

        size = values.shape[1:].numel()
        return _Mixing([keys.permutation(size) for keys in streams("link permutation")], streams("link signs"))


class _Mixing:
    """The rounds of one scale of one bundle; good for one pass, because the streams of signs move on."""

    def __init__(self, permutations: Sequence[NDArray[np.int64]], signs: Sequence[KeyStream]) -> None:
        self._permutations = permutations
        self._signs = signs
        self._size = len(permutations[0])

    def forward(self, values: Tensor) -> Tensor:
        """All rounds, first to last."""
        orders = [torch.from_numpy(p).to(values.device) for p in self._permutations]

        def rounds(part: Tensor, signs: Sequence[Tensor], transform: WalshHadamard, work: Tensor) -> Tensor:
            for order, sign in zip(orders, signs, strict=True):
                torch.index_select(part, 1, order, out=work)
                part = transform(work.mul_(sign))
            return part

        return self._in_parts(values, rounds)

    def backward(self, values: Tensor) -> Tensor:
        """All rounds undone, last to first."""
        orders = [torch.from_numpy(_inverse(p)).to(values.device) for p in self._permutations]

        def rounds(part: Tensor, signs: Sequence[Tensor], transform: WalshHadamard, work: Tensor) -> Tensor:
            for order, sign in zip(reversed(orders), reversed(signs), strict=True):
                torch.index_select(transform(part).mul_(sign), 1, order, out=work)
                part = work
            return part

        return self._in_parts(values, rounds)

    @torch.no_grad()
    def _in_parts(self, values: Tensor, rounds: _Rounds) -> Tensor:
        rows = values.reshape(len(values), self._size)
        mixed = torch.empty(rows.shape, dtype=torch.float32, device=rows.device)
        step = max(1, WORK_VALUES // self._size)
        transform = WalshHadamard(min(step, len(rows)), self._size, rows.device)
        work = torch.empty((min(step, len(rows)), self._size), dtype=torch.float32, device=rows.device)
        with torch.autocast(rows.device.type, enabled=False):
            for start in range(0, len(rows), step):
                part = rows[start : start + step].float()
                signs = [self._next_signs(keys, len(part)).to(rows.device) for keys in self._signs]
                mixed[start : start + step] = rounds(part, signs, transform, work[: len(part)])
        return mixed.view(values.shape)

    def _next_signs(self, keys: KeyStream, slices: int) -> Tensor:
        """Signs ``(slices, N)``: every slice takes whole bytes, so grouping slices makes no difference."""
        whole = -(-self._size // 8) * 8
        return torch.from_numpy(keys.signs(slices * whole).reshape(slices, whole)[:, : self._size])


def _inverse(permutation: NDArray[np.int64]) -> NDArray[np.int64]:
    inverse = np.empty_like(permutation)
    inverse[permutation] = np.arange(len(permutation))
    return inverse

"""The published layer (`paper` mode): ``z' = P Q^T z + b`` at every position, fixed for a key.

PAPER: per scale an orthogonal channel mixing ``Q``, a client's permutation ``P`` of the channels and a bias ``b``. The
server inverts it to plain latents, and one known image breaks it; it exists to reproduce and to compare.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ppcmi.klt.derivation import KeyStream, context_of, key_check, nonce_of, require_key
from ppcmi.klt.inner import mix_channels
from ppcmi.latents import Latents
from ppcmi.scales import Stream


class PublishedLayer:
    """The published layer of one site for one task, with the interface of :class:`~ppcmi.klt.link.LinkLayer`.

    :param key: the link key, 32 bytes.
    :param task_identity: the task's name and version.
    """

    def __init__(self, key: bytes, task_identity: str) -> None:
        self._key = require_key(key)
        self._task = task_identity
        self._transforms: dict[tuple[Stream, str, int], tuple[Tensor, Tensor]] = {}

    def apply(self, latents: Latents, stream: Stream, nonce: bytes = b"") -> Latents:
        """Plain latents ``(n, C, H, W)`` to published ones, float32; the nonce makes no difference."""

        def protect(scale: str, values: Tensor) -> Tensor:
            matrix, bias = self._transform(stream, scale, values.shape[1])
            return mix_channels(matrix, values) + bias.to(values.device)

        return latents.map(protect)

    def invert(self, latents: Latents, stream: Stream, nonce: bytes = b"") -> Latents:
        """Published latents back to plain ones, ``Q P^T (z' - b)``; the nonce makes no difference."""

        def unprotect(scale: str, values: Tensor) -> Tensor:
            matrix, bias = self._transform(stream, scale, values.shape[1])
            return mix_channels(matrix.T, values - bias.to(values.device))

        return latents.map(unprotect)

    def nonce(self, content: bytes) -> bytes:
        """The nonce for a bundle of this content; see :func:`~ppcmi.klt.derivation.nonce_of`."""
        return nonce_of(self._key, content)

    def check(self, nonce: bytes) -> str:
        """Key check value, 16 hex digits, for the bundle with this nonce."""
        return key_check(self._key, "published", self._task, nonce)

    def _transform(self, stream: Stream, scale: str, channels: int) -> tuple[Tensor, Tensor]:
        """``P Q^T (C, C)``, whose row ``i`` is row ``p[i]`` of ``Q^T``, and ``b (C, 1, 1)``, standard normal."""
        wanted = (stream, scale, channels)
        if wanted not in self._transforms:
            q = self._stream(stream, scale, "orthogonal").orthogonal(channels)
            order = self._stream(stream, scale, "permutation").permutation(channels)
            bias = self._stream(stream, scale, "bias").normals(channels).reshape(channels, 1, 1)
            self._transforms[wanted] = (torch.from_numpy(q.T[order]).float(), torch.from_numpy(bias).float())
        return self._transforms[wanted]

    def _stream(self, stream: Stream, scale: str, purpose: str) -> KeyStream:
        return KeyStream(self._key, context_of(self._task, stream, scale, purpose=f"published {purpose}"))

"""Inner layer of the KLT: one fixed orthogonal channel mixing for each task, stream and scale, ``z' = Q^T z``.

Its key, the inner key, never reaches the server: the server works in the space that this layer opens and never holds a
plain latent. A channel mixing keeps distances and the norm at every position, so the map of norms still shows the
anatomy; this layer decides who can use latents, it does not hide them (DESIGN, What protects what).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ppcmi.klt.derivation import KeyStream, context_of, key_check, require_key
from ppcmi.latents import Latents
from ppcmi.scales import Stream


class InnerLayer:
    """The inner layer of one consortium (or site) for one task; keeps the matrices it has derived.

    :param key: the inner key, 32 bytes.
    :param task_identity: the task's name and version.
    """

    def __init__(self, key: bytes, task_identity: str) -> None:
        self._key = require_key(key)
        self._task = task_identity
        self._matrices: dict[tuple[Stream, str, int], Tensor] = {}

    def apply(self, latents: Latents, stream: Stream) -> Latents:
        """Plain latents ``(n, C, H, W)`` into the keyed space: ``Q^T z`` at every position."""
        return latents.map(lambda scale, values: mix_channels(self._matrix(stream, scale, values.shape[1]).T, values))

    def invert(self, latents: Latents, stream: Stream) -> Latents:
        """Keyed latents back to plain ones: ``Q z'`` at every position."""
        return latents.map(lambda scale, values: mix_channels(self._matrix(stream, scale, values.shape[1]), values))

    def check(self, nonce: bytes = b"") -> str:
        """Key check value, 16 hex digits; without a nonce it names the key for as long as the key lives."""
        return key_check(self._key, "inner", self._task, nonce)

    def _matrix(self, stream: Stream, scale: str, channels: int) -> Tensor:
        wanted = (stream, scale, channels)
        if wanted not in self._matrices:
            context = context_of(self._task, stream, scale, purpose="inner orthogonal")
            self._matrices[wanted] = torch.from_numpy(KeyStream(self._key, context).orthogonal(channels)).float()
        return self._matrices[wanted]


def mix_channels(matrix: Tensor, values: Tensor) -> Tensor:
    """``matrix @ z`` at every position of ``values (n, C, H, W)``, in float32 on the values' device."""
    with torch.autocast(values.device.type, enabled=False):
        mixed = torch.matmul(matrix.to(values.device), values.float().flatten(2))
    return mixed.view(values.shape)

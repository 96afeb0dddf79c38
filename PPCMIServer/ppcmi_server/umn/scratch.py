"""Latents that are too many for memory: in a file that has no name, encrypted under a key that only this process has.

A slice is one record, AES-256-GCM with the slice's number as nonce; every slice is written once. The file is unlinked
as soon as it is open, so it goes with the process, however that ends, and nothing on the disk opens what is left of it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from torch import Tensor

from ppcmi.latents import Latents
from ppcmi.scales import Shape

TAG_BYTES = 16
NONCE_BYTES = 12


class ScratchLatents:
    """Room for ``count`` slices on disk, float16; a :class:`~ppcmi_server.umn.dataset.LatentSource`.

    :param folder: on whose disk the file is.
    """

    def __init__(self, folder: Path, count: int, shapes: Mapping[str, Shape]) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.shapes = dict(shapes)
        self._count = count
        self._sizes = [int(np.prod(shape)) for shape in shapes.values()]
        self._record = 2 * sum(self._sizes) + TAG_BYTES
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - open as long as this object
        self._cipher = AESGCM(AESGCM.generate_key(256))

    def __len__(self) -> int:
        return self._count

    def put(self, first: int, latents: Latents) -> None:
        """Write the slices from number ``first`` on; each once."""
        values = torch.cat([v.half().flatten(1) for _, v in latents.items()], dim=1).contiguous().numpy()
        for number, content in enumerate(values, start=first):
            sealed = self._cipher.encrypt(_nonce(number), content.tobytes(), None)
            _write(self._file.fileno(), sealed, number * self._record)

    def select(self, index: Tensor) -> Latents:
        """Some of the slices, in memory."""
        values = np.empty((len(index), sum(self._sizes)), np.float16)
        for row, number in zip(values, index.tolist(), strict=True):
            sealed = os.pread(self._file.fileno(), self._record, number * self._record)
            row[:] = np.frombuffer(self._cipher.decrypt(_nonce(number), sealed, None), np.float16)
        parts = torch.split(torch.from_numpy(values), self._sizes, dim=1)
        return Latents(
            {s: part.reshape(-1, *shape) for (s, shape), part in zip(self.shapes.items(), parts, strict=True)}
        )

    def close(self) -> None:
        """Give the disk's space back."""
        self._file.close()


class MemoryLatents:
    """Room for ``count`` slices in memory, float16, to be filled as :class:`ScratchLatents` is."""

    def __init__(self, count: int, shapes: Mapping[str, Shape]) -> None:
        self._latents = Latents({s: torch.zeros(count, *shape, dtype=torch.float16) for s, shape in shapes.items()})
        self.shapes = dict(shapes)

    def __len__(self) -> int:
        return len(self._latents)

    def put(self, first: int, latents: Latents) -> None:
        """Keep the slices from number ``first`` on."""
        for scale, values in latents.items():
            self._latents[scale][first : first + len(values)] = values

    def select(self, index: Tensor) -> Latents:
        """Some of the slices."""
        return self._latents.select(index)

    def close(self) -> None:
        """Nothing: memory goes with the object."""


def _write(descriptor: int, content: bytes, offset: int) -> None:
    """All of it: one write may take less than it was given."""
    done = 0
    while done < len(content):
        done += os.pwrite(descriptor, memoryview(content)[done:], offset + done)


def _nonce(number: int) -> bytes:
    return number.to_bytes(NONCE_BYTES, "big")

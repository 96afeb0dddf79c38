"""Work through slices in portions that the device's memory holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from ppcmi.errors import DeviceMemoryError

Part = TypeVar("Part")


class Portions:
    """Portions of at most ``largest`` slices; one that does not fit into memory is halved, and so are those after it.

    Example::

        portions = Portions(32)
        latents = concatenate(portions.run(len(slices), lambda where: codec.encode_images(slices[where])))
    """

    def __init__(self, largest: int) -> None:
        self.largest = largest

    def run(self, count: int, work: Callable[[slice], Part]) -> list[Part]:
        """What ``work`` makes of each portion of ``count`` slices, in order.

        :raises DeviceMemoryError: if even a single slice does not fit.
        """
        parts: list[Part] = []
        done = 0
        while done < count:
            where = slice(done, min(done + self.largest, count))
            try:
                parts.append(work(where))
            except torch.OutOfMemoryError as error:
                size = where.stop - where.start
                if size == 1:
                    raise DeviceMemoryError(
                        "The graphics card's memory does not hold a single slice; close other programs that use it, or "
                        "choose the CPU as device."
                    ) from error
                self.largest = size // 2
            else:
                done = where.stop
        return parts

"""What a method does with one case: ``protect`` says what leaves, ``recover`` takes what comes back.

An item is what is mapped on its own: a slice, or with Mixup-Privacy a patch mixed with one reference. The pipeline and
the export drive these objects without knowing the method.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ppcmi.latents import Latents
from ppcmi.scales import Stream
from ppcmi.volume import Volume


class CaseAtWork(Protocol):
    """A case that is being segmented."""

    def __len__(self) -> int:
        """Number of items."""
        ...

    def protect(self, where: slice) -> Latents:
        """What is to leave of some items, before any key."""
        ...

    def recover(self, answer: Latents, where: slice) -> None:
        """Take the server's answer to these items."""
        ...

    def finish(self) -> tuple[Volume, NDArray[np.float32] | None]:
        """Labels uint8 on the volume's grid and, if they were asked for, probabilities ``(K, k, j, i)``."""
        ...


class LabelledCase(Protocol):
    """A labelled case that is being exported."""

    def __len__(self) -> int:
        """Number of items."""
        ...

    def protect(self, where: slice, variant: int) -> dict[Stream, Latents]:
        """What is to leave of some items, image and labels, before any key; ``variant`` 0 is the case as it is."""
        ...

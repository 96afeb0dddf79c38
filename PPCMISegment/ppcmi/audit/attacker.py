"""What an attacker has, what it sees, what it gives back: the one interface of every attack.

An attacker is told everything but the keys it lacks (Kerckhoffs): the method, the codec where it has it, images of the
same kind from other patients, and how to protect latents with keys of its own. It is trained anew for every setting.

Example::

    reconstruct = InvariantDecoder().learn(knowledge)      # an attack of pixels
    pictures = reconstruct(seen)                           # (n, h, w) in 0..1, compared with the truth elsewhere
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ppcmi.codec.codec import Codec
from ppcmi.latents import Latents


@dataclass(frozen=True, eq=False)
class Seen:
    """Latents of some slices as they lie before an attacker.

    :param latents: image latents of the scales that left, in whatever space the attacker sees them.
    :param case: ``(n,)`` int64: which slices came as one case.
    """

    latents: Latents
    case: Tensor

    def __len__(self) -> int:
        return len(self.case)

    def select(self, index: Tensor) -> Seen:
        """Some of the slices."""
        return Seen(self.latents.select(index), self.case[index])


@dataclass(frozen=True, eq=False)
class Pairs:
    """Slices that the attacker knows, ``(n, c, h, w)`` in [0, 1], with what it saw of each.

    :param labels: their masks ``(n, h, w)``, or None.
    """

    slices: Tensor
    seen: Seen
    labels: Tensor | None = None


Protect = Callable[[Latents, Tensor, torch.Generator], Latents]
"""Plain latents and the case of each slice to what would be seen of them, with keys drawn by the generator."""


@dataclass(frozen=True, eq=False)
class Knowledge:
    """All that an attacker has beside what it sees; nothing else is passed to it.

    :param slices: its own images ``(n, c, h, w)`` in [0, 1]: the same kind, other patients.
    :param labels: masks of its own images ``(n, h, w)``, or None.
    :param case: ``(n,)`` int64, the case of each of its own images.
    :param codec: the codec that made the latents, or None where the attacker has not got it.
    :param surrogate: a codec that it trained on its own images; its best guess where ``codec`` is None.
    :param protect: what is done to plain latents before the attacker sees them. Keys that it knows are in it; others
        are drawn anew at each call, so that it can rehearse.
    :param pairs: known images, from other patients than those attacked; empty if there are none.
    :param collected: what it saw of other cases of the same site, without their images.
    :param generator: its randomness.
    """

    slices: Tensor
    labels: Tensor | None
    case: Tensor
    codec: Codec | None
    surrogate: Codec
    protect: Protect
    pairs: Pairs
    collected: Seen
    generator: torch.Generator

    @property
    def encoder(self) -> Codec:
        """The victim's codec, or the attacker's own in its place."""
        return self.codec or self.surrogate


Reconstruct = Callable[[Seen], Tensor]
"""What is seen to pictures ``(n, h, w)`` in 0..1 of the slices' middle channel."""


class ReconstructionAttack(Protocol):
    """An attack that ends in pictures."""

    @property
    def name(self) -> str:
        """Its number in the suite, such as ``A7``."""

    @property
    def title(self) -> str:
        """What it does, in a few words for a report, such as ``known images (5)``."""

    def obstacle(self, knowledge: Knowledge) -> str | None:
        """Why it cannot be tried with this knowledge, as a sentence; None if it can."""

    def learn(self, knowledge: Knowledge) -> Reconstruct:
        """Prepare; everything that takes training happens here."""


@dataclass(frozen=True)
class Finding:
    """One number of the report.

    :param attack: its number in the suite.
    :param title: what was tried.
    :param setting: name of the setting, a row of the report.
    :param measure: such as ``SSIM``, ``top-1``, ``AUC``.
    :param low, high: 95 % interval, by patient.
    :param chance: what somebody who saw nothing would get, the mean image or a guess.
    :param seconds: time that the attack took, of one machine.
    :param note: what a reader must know to read it right; may be empty.
    """

    attack: str
    title: str
    setting: str
    measure: str
    value: float
    low: float
    high: float
    chance: float
    seconds: float
    note: str = ""

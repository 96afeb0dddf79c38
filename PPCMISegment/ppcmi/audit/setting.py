"""A setting: what leaves, and with whose eyes it is looked at. Rows of the report are settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from ppcmi.audit.attacker import Protect, Seen
from ppcmi.codec.codec import Codec
from ppcmi.latents import Latents
from ppcmi.scales import Profile

Encode = Callable[[Codec, Tensor], Latents]
"""A codec's latents of slices; who looks at the same slices in many settings may remember them."""


class Observer(StrEnum):
    """Who looks."""

    NETWORK = "someone who reads what is sent, without any key"
    SERVER = "the server, with the link key"
    COLLUSION = "the server with a member of the consortium, with both keys"


@dataclass(frozen=True, eq=False)
class Setting:
    """One row.

    :param name: what the report calls it.
    :param defense: the protection alone, without the observer, such as ``two layers``; its rows are compared.
    :param codec: the codec of the attacked site.
    :param codec_known: whether the observer has it.
    :param key_is_fixed: whether all cases are seen under the same keys, so that known images help.
    :param protect: plain latents of ``profile``'s scales to what the observer sees; keys that it lacks come from the
        generator.
    :param noise: standard deviation of the Gaussian noise that ``protect`` adds, relative to the latents'; for dFIL.
    """

    name: str
    defense: str
    observer: Observer
    profile: Profile
    codec: Codec
    codec_known: bool
    key_is_fixed: bool
    protect: Protect
    noise: float = 0.0

    def look(self, slices: Tensor, case: Tensor, site_keys: int, encode: Encode = Codec.encode_images) -> Seen:
        """Slices ``(n, c, h, w)`` as the observer sees them, under the site's keys, which ``site_keys`` stands for."""
        generator = torch.Generator().manual_seed(site_keys)
        plain = encode(self.codec, slices).of(self.profile).to("cpu")
        return Seen(self.protect(plain, case, generator), case)

"""A1, the published test: the latents as they are, decoded with another site's decoder (SECURITY 2.1).

It measures that two decoders differ rather than what latents hide; it is here because it is what was published.
"""

from __future__ import annotations

from dataclasses import dataclass

from ppcmi.audit.attacker import Knowledge, Reconstruct
from ppcmi.audit.attacks.channel_map import draw


@dataclass(frozen=True)
class CrossDecoder:
    """The attacker decodes what it sees with the decoder of its own codec."""

    name: str = "A1"
    title: str = "another site's decoder"

    def obstacle(self, knowledge: Knowledge) -> str | None:
        """None: it takes nothing."""
        return None

    def learn(self, knowledge: Knowledge) -> Reconstruct:
        """Nothing to learn."""
        return lambda seen: draw(knowledge.surrogate, seen.latents)

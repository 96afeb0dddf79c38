"""A6 and A7: a decoder that needs no key, trained on maps that no mixing of channels changes (SECURITY 1.4).

A6 has the victim's codec; A7 has only its own, trained on other patients. Four readings are tried, each with a training
of its own, and the best counts: an attacker would not choose a weaker one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

import torch

from ppcmi.audit.attacker import Knowledge, Reconstruct, Seen
from ppcmi.audit.attacks.decoder import train_decoder
from ppcmi.audit.attacks.plain_latents import Effort, draw_pictures, learn_to_draw
from ppcmi.audit.attacks.readings import as_seen, components_by_case, components_of_all, mixed, norms_and_products
from ppcmi.audit.attacks.rehearsal import Reading, rehearse, sees_plain
from ppcmi.audit.metrics import middle
from ppcmi.codec.codec import Codec
from ppcmi.latents import Latents, concatenate


class Invariant(StrEnum):
    """What the decoder reads."""

    CASE = "principal components of each case"
    COHORT = "principal components of all cases"
    PRODUCTS = "norms and inner products"
    MIXINGS = "random mixings"


@dataclass(frozen=True)
class InvariantDecoder:
    """A6 with the victim's codec, A7 with the attacker's own."""

    name: Literal["A6", "A7"]
    invariant: Invariant
    effort: Effort = field(default_factory=Effort)

    @property
    def title(self) -> str:
        """For a report."""
        return f"decoder on {self.invariant.value}, codec {'known' if self.name == 'A6' else 'unknown'}"

    def obstacle(self, knowledge: Knowledge) -> str | None:
        """The codec that A6 needs, or a stronger attack that stands for this one."""
        if self.name == "A6" and knowledge.codec is None:
            return "This attacker has not got the codec; A7 does without."
        if self.name == "A7" and knowledge.codec is not None:
            return "This attacker has the codec; A6 uses it and is stronger."
        if self.invariant is Invariant.MIXINGS and sees_plain(knowledge):
            return "No key is missing; A5 is the attack for that."
        return None

    def learn(self, knowledge: Knowledge) -> Reconstruct:
        """Train the decoder on the attacker's own images under keys of its own."""
        codec = knowledge.codec if self.name == "A6" else knowledge.surrogate
        if codec is None:
            raise ValueError("A6 needs the codec; ask for the obstacle first")
        match self.invariant:
            case Invariant.CASE:
                return learn_to_draw(knowledge, codec, components_by_case, self.effort)
            case Invariant.PRODUCTS:
                return learn_to_draw(knowledge, codec, norms_and_products, self.effort)
            case Invariant.COHORT:
                return learn_to_draw(knowledge, codec, components_of_all, self.effort, _beside(knowledge.collected))
            case Invariant.MIXINGS:
                return _learn_mixings(knowledge, codec, self.effort)


NAMES: tuple[Literal["A6", "A7"], ...] = ("A6", "A7")


def invariant_decoders(effort: Effort) -> Iterator[InvariantDecoder]:
    """All readings, with and without the codec."""
    for name in NAMES:
        for invariant in Invariant:
            yield InvariantDecoder(name, invariant, effort)


def _learn_mixings(knowledge: Knowledge, codec: Codec, effort: Effort) -> Reconstruct:
    """The decoder reads the latents themselves, under another mixing at every step of its training.

    Mixing once more what is already under an unknown key is the same, in law, as drawing another key.
    """
    rehearsal = rehearse(knowledge, codec, as_seen, effort.rehearsal)

    def latents_of(index: torch.Tensor, generator: torch.Generator) -> Latents:
        return mixed(rehearsal.latents_of(index, generator), generator)

    decoder = train_decoder(
        latents_of, middle(rehearsal.slices), effort.decoder, knowledge.generator,
        case=rehearsal.case, report=effort.report,
    )  # fmt: skip
    return lambda seen: draw_pictures(decoder, as_seen(seen))


def _beside(collected: Seen) -> Reading:
    """Components of all that was seen of the site, of the attacked slices alone."""

    def read(seen: Seen) -> Latents:
        everything = concatenate([seen.latents, collected.latents])
        of_all = components_of_all(Seen(everything, torch.cat((seen.case, collected.case))))
        return of_all.select(slice(0, len(seen)))

    return read

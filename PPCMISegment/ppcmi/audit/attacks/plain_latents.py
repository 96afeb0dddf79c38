"""A5: who holds plain latents, as the published server does, trains a decoder of its own (SECURITY 1.5)."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ppcmi.audit.attacker import Knowledge, Reconstruct
from ppcmi.audit.attacks.decoder import DecoderConfig, LatentDecoder, draw, train_decoder
from ppcmi.audit.attacks.readings import as_seen
from ppcmi.audit.attacks.rehearsal import Reading, RehearsalConfig, rehearse, sees_plain
from ppcmi.audit.metrics import middle
from ppcmi.codec.codec import Codec
from ppcmi.fitting import Report, ignore_report
from ppcmi.latents import Latents


@dataclass(frozen=True)
class Effort:
    """What a learned attack may spend.

    :param report: told how a decoder's training does; may raise CancelledError to end it.
    """

    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    rehearsal: RehearsalConfig = field(default_factory=RehearsalConfig)
    report: Report = ignore_report


@dataclass(frozen=True)
class PlainLatents:
    """A5. Where the codec is unknown, the decoder learns from the attacker's own codec in its place."""

    effort: Effort = field(default_factory=Effort)
    name: str = "A5"
    title: str = "decoder trained on plain latents"

    def obstacle(self, knowledge: Knowledge) -> str | None:
        """A key that is missing."""
        if not sees_plain(knowledge):
            return "The latents are under a key that this attacker lacks; A6 and A7 are the attacks for that."
        return None

    def learn(self, knowledge: Knowledge) -> Reconstruct:
        """Train the decoder on the attacker's own images."""
        return learn_to_draw(knowledge, knowledge.encoder, as_seen, self.effort)


def learn_to_draw(
    knowledge: Knowledge, codec: Codec, reading: Reading, effort: Effort, of_victims: Reading | None = None
) -> Reconstruct:
    """Train a decoder on what ``reading`` makes of the attacker's own images, encoded with ``codec``.

    :param of_victims: the reading of what is attacked, if it is another.
    """
    rehearsal = rehearse(knowledge, codec, reading, effort.rehearsal)
    decoder = train_decoder(
        rehearsal.latents_of, middle(rehearsal.slices), effort.decoder, knowledge.generator,
        case=rehearsal.case, report=effort.report,
    )  # fmt: skip
    return lambda seen: draw_pictures(decoder, (of_victims or reading)(seen))


def draw_pictures(decoder: LatentDecoder, maps: Latents) -> Tensor:
    """Pictures ``(n, h, w)`` in 0..1."""
    return draw(decoder, maps)[:, 0].clamp(0, 1)

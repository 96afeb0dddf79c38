"""Which attacks are tried in which setting, and how much they may spend."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from ppcmi.audit.attacker import Finding, Knowledge, ReconstructionAttack
from ppcmi.audit.attacks.alignment import BlindAlignment
from ppcmi.audit.attacks.attributes import measure_attributes
from ppcmi.audit.attacks.collusion import SharedCodec
from ppcmi.audit.attacks.cross_decoder import CrossDecoder
from ppcmi.audit.attacks.decoder import DecoderConfig
from ppcmi.audit.attacks.invariant_decoder import Invariant, invariant_decoders
from ppcmi.audit.attacks.leaked_pairs import LeakedPairs
from ppcmi.audit.attacks.linkage import measure_linkage
from ppcmi.audit.attacks.matcher import measure_trained_linkage
from ppcmi.audit.attacks.plain_latents import Effort, PlainLatents
from ppcmi.audit.attacks.procrustes import KNOWN_CASES, KnownImages
from ppcmi.audit.attacks.rehearsal import RehearsalConfig
from ppcmi.audit.attacks.stolen_masks import measure_stolen_masks
from ppcmi.audit.attacks.structure import measure_structure
from ppcmi.audit.setting import Observer, Setting
from ppcmi.audit.subjects import Subjects
from ppcmi.fitting import Report

Attacks = Literal["quick", "full"]

LEAKED_CASES = (1, 5, 20)
CASES_UNDER_FRESH_KEYS = 5

Score = Callable[[Setting, Subjects, Knowledge, int], list[Finding]]
"""An attack that ends in numbers, of a setting, the subjects, what the attacker has, and a seed."""


@dataclass(frozen=True)
class Lengths:
    """How much is attacked, and with how much training.

    :param victims: most slices that are attacked.
    :param others: most slices of the attackers' own, and of those collected.
    :param decoder: training of each learned attack.
    """

    victims: int
    others: int
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    rehearsal: RehearsalConfig = field(default_factory=RehearsalConfig)

    @classmethod
    def of(cls, attacks: Attacks) -> Lengths:
        """What is usual."""
        return cls(victims=64, others=256) if attacks == "quick" else cls(victims=160, others=1500)


def picture_attacks(
    attacks: Attacks, setting: Setting, lengths: Lengths, report: Report, known: int | None = None
) -> Iterator[ReconstructionAttack]:
    """Attacks that end in pictures; which of them cannot be tried, they say themselves.

    Where every bundle has a key of its own, more known cases teach nothing that one does not, and one number is tried.

    :param known: cases that leaked: an attack that would take more takes these. None if enough did.
    """
    yield CrossDecoder()
    yield from (KnownImages(cases) for cases in cases_tried(KNOWN_CASES, setting, known))
    yield BlindAlignment()
    if attacks == "quick":
        if setting.observer is Observer.COLLUSION:  # elsewhere it would hide that the attacks cannot see
            yield SharedCodec()
        return
    effort = Effort(lengths.decoder, lengths.rehearsal, report)
    yield from (LeakedPairs(cases, effort) for cases in cases_tried(LEAKED_CASES, setting, known))
    yield PlainLatents(effort)
    yield from (a for a in invariant_decoders(effort) if a.invariant is not Invariant.MIXINGS)  # never the best
    yield SharedCodec()


def cases_tried(numbers: Sequence[int], setting: Setting, known: int | None) -> list[int]:
    """How many leaked cases are tried: ``numbers``, or all that there are where those are fewer, each once."""
    usual = numbers if setting.key_is_fixed else (CASES_UNDER_FRESH_KEYS,)
    return sorted({number if known is None else min(number, known) for number in usual} - {0})


def scores_of(
    attacks: Attacks, lengths: Lengths, attributes: Mapping[str, Sequence[str]], report: Report
) -> Iterator[tuple[str, Score]]:
    """Attacks that end in numbers, with what they are called.

    :param attributes: for A12; see :func:`~ppcmi.audit.attacks.attributes.measure_attributes`.
    """
    yield "A9, linking cases", measure_linkage
    yield "A11, structure", measure_structure
    if attacks == "quick":
        return
    effort = Effort(lengths.decoder, lengths.rehearsal, report)
    yield "A5, masks", partial(measure_stolen_masks, effort=effort)
    yield "A9, linking cases with a trained network", partial(measure_trained_linkage, report=report)
    if attributes:
        yield "A12, attributes", partial(measure_attributes, attributes=attributes)

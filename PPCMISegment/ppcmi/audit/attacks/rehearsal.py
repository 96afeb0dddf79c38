"""What an attacker learns from: its own images, encoded and protected as the victim's are, under keys of its own.

Every copy of its images is protected by a call of its own, so under keys of its own where keys are unknown; copies
after the first are varied as training images are, because the attacker has few. Then a *reading* makes maps of what is
seen: the latents themselves, or maps that do not depend on the key (:mod:`ppcmi.audit.attacks.readings`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ppcmi.audit.attacker import Knowledge, Seen
from ppcmi.codec.augment import augment_pair
from ppcmi.codec.codec import Codec
from ppcmi.latents import Latents, concatenate
from ppcmi.scales import Stream

Reading = Callable[[Seen], Latents]
"""What is seen to the maps that a decoder reads."""

SAME = 0.3
"""Correlation of latents with what is seen of them above which no key hides them.

Unknown keys give about 0, of few channels by chance more; noise as strong as the latents gives 0.7.
"""

KEYS_TRIED = 8
"""One key may turn little; so many that all do are not drawn."""


@dataclass(frozen=True)
class RehearsalConfig:
    """How much an attacker rehearses.

    :param copies: least number of copies, each under keys of its own: principal components differ a little from copy to
        copy, and a decoder that saw one only takes the victims' for noise.
    :param slices: least number of slices over all copies.
    :param most: most slices in a copy; whole cases are left out beyond it.
    """

    copies: int = 5
    slices: int = 1500
    most: int = 1000


@dataclass(frozen=True, eq=False)
class Rehearsal:
    """What the attacker made of its own images.

    :param maps: float16; by the reading.
    :param slices: ``(n, c, h, w)``, as they were encoded.
    :param labels: ``(n, h, w)``, zeros where it has none.
    :param case: ``(n,)``; copies of a case share its number.
    """

    maps: Latents
    slices: Tensor
    labels: Tensor
    case: Tensor

    def latents_of(self, index: Tensor, generator: torch.Generator) -> Latents:
        """The maps of some slices, float32; nothing is random about them."""
        return self.maps.select(index).map(lambda _, values: values.float())


def rehearse(
    knowledge: Knowledge, codec: Codec, reading: Reading, config: RehearsalConfig, stream: Stream = Stream.IMAGE
) -> Rehearsal:
    """Encode with ``codec``, protect and read the attacker's own images, or their masks."""
    generator = knowledge.generator
    chosen = _whole_cases(knowledge.case, config.most, generator)
    slices, case = knowledge.slices[chosen], knowledge.case[chosen]
    labels = torch.zeros(len(slices), *slices.shape[2:], dtype=torch.uint8)
    if knowledge.labels is not None:
        labels = knowledge.labels[chosen]
    scales, maps, pictures, masks = scales_seen(knowledge), [], [], []
    copies = max(config.copies, -(-config.slices // len(slices)))
    for copy in range(copies):
        varied, moved = augment_pair(slices, labels, generator) if copy else (slices, labels)
        latents = codec.encode_images(varied) if stream is Stream.IMAGE else codec.encode_masks(moved)
        plain = Latents({scale: latents[scale].float().cpu() for scale in scales})
        seen = Seen(knowledge.protect(plain, case, generator), case)
        maps.append(reading(seen).map(lambda _, values: values.half()))
        pictures.append(varied)
        masks.append(moved)
    return Rehearsal(concatenate(maps), torch.cat(pictures), torch.cat(masks), case.repeat(copies))


def scales_seen(knowledge: Knowledge) -> tuple[str, ...]:
    """Names of the scales that leave."""
    return tuple(knowledge.collected.latents if len(knowledge.collected) else knowledge.pairs.seen.latents)


def sees_plain(knowledge: Knowledge) -> bool:
    """Whether no key is missing: what is seen is the latents themselves but for noise, whatever keys are drawn."""
    index = torch.arange(min(8, len(knowledge.slices)))
    latents = knowledge.encoder.encode_images(knowledge.slices[index]).to("cpu")
    plain = Latents({scale: latents[scale].float() for scale in scales_seen(knowledge)})
    case = knowledge.case[index]
    seeds = range(1, 1 + KEYS_TRIED)
    views = (knowledge.protect(plain, case, torch.Generator().manual_seed(seed)) for seed in seeds)
    return all(_correlation(plain, seen) > SAME for seen in views)  # most keys end it at once


def _correlation(first: Latents, second: Latents) -> float:
    rows = [torch.cat([values.flatten() for _, values in latents.items()]) for latents in (first, second)]
    return float(torch.corrcoef(torch.stack(rows))[0, 1])


def _whole_cases(case: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Indices of slices of randomly chosen whole cases, in order: at most ``most``, at least one case."""
    cases, counts = torch.unique(case, return_counts=True)
    order = torch.randperm(len(cases), generator=generator)
    kept = (torch.cumsum(counts[order], dim=0) <= most) | (torch.arange(len(order)) == 0)
    return torch.nonzero(torch.isin(case, cases[order[kept]]))[:, 0]

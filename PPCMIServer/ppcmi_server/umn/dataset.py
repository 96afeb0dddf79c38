"""Protected latents of all sites as the mapping network sees them: still in the space of the inner key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ppcmi.latents import Latents
from ppcmi.scales import Shape


class LatentSource(Protocol):
    """Latents of many slices, in memory (:class:`~ppcmi.latents.Latents`) or on disk."""

    def __len__(self) -> int:
        """Number of slices."""
        ...

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """Channels, rows and columns of each scale."""
        ...

    def select(self, index: Tensor) -> Latents:
        """Some of the slices, in memory."""
        ...


@dataclass(frozen=True, eq=False)
class LatentDataset:
    """Pairs of image and mask latents.

    :param images: ``(n, C, H, W)`` for each scale, float16 on the CPU.
    :param masks: the same scales, perhaps of other channels.
    :param codecs: fingerprints of the codecs that made them.
    :param member: ``(n,)`` int64, index into ``codecs``.
    :param case: ``(n,)`` int64, which case a slice belongs to.
    :param variant: ``(n,)`` int64, 0 for the case as it is, 1.. for an augmented encoding of it.
    :param sites: ids of the sites that sent them.
    :param site: ``(n,)`` int64, index into ``sites``; without it all are of the first.
    :param weight: ``(n,)`` float32, how much a slice counts in the loss; without it all count 1.
    """

    images: LatentSource
    masks: LatentSource
    codecs: tuple[str, ...]
    member: Tensor
    case: Tensor
    variant: Tensor
    sites: tuple[str, ...] = ("",)
    site: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    weight: Tensor = field(default_factory=lambda: torch.zeros(0))

    def __post_init__(self) -> None:
        if not len(self.site):
            object.__setattr__(self, "site", torch.zeros_like(self.member))
        if not len(self.weight):
            object.__setattr__(self, "weight", torch.ones(len(self.member)))

    def __len__(self) -> int:
        return len(self.member)

    def select(self, index: Tensor) -> LatentDataset:
        """Some of the slices, copied into memory."""
        return LatentDataset(
            self.images.select(index), self.masks.select(index), self.codecs,
            self.member[index], self.case[index], self.variant[index],
            self.sites, self.site[index], self.weight[index],
        )  # fmt: skip

    def split(self, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Indices of whole cases for training (with their variants) and of others for validation (as they are).

        Every site gives its part of the cases for validation, as near to ``share`` as whole cases allow.
        """
        cases = torch.unique(self.case)
        site_of = torch.zeros(int(cases.max()) + 1, dtype=torch.int64).scatter(0, self.case, self.site)
        shuffled = cases[torch.randperm(len(cases), generator=generator)]
        by_site = shuffled[torch.argsort(site_of[shuffled], stable=True)]
        count = round(share * len(cases))
        chosen = by_site[((torch.arange(count) + 0.5) * len(cases) / max(1, count)).long()]
        held_out = torch.isin(self.case, chosen)
        return torch.nonzero(~held_out)[:, 0], torch.nonzero(held_out & (self.variant == 0))[:, 0]


def join_datasets(parts: Sequence[LatentDataset]) -> LatentDataset:
    """One data set of several in memory, cases numbered on, codecs and sites merged."""
    codecs = tuple(dict.fromkeys(codec for part in parts for codec in part.codecs))
    sites = tuple(dict.fromkeys(site for part in parts for site in part.sites))
    member, site, case, first = [], [], [], 0
    for part in parts:
        member.append(torch.tensor([codecs.index(codec) for codec in part.codecs])[part.member])
        site.append(torch.tensor([sites.index(name) for name in part.sites])[part.site])
        case.append(part.case + first)
        first += int(part.case.max()) + 1
    whole = [
        (part.images.select(torch.arange(len(part))), part.masks.select(torch.arange(len(part)))) for part in parts
    ]
    return LatentDataset(
        Latents({s: torch.cat([images[s] for images, _ in whole]) for s in whole[0][0]}),
        Latents({s: torch.cat([masks[s] for _, masks in whole]) for s in whole[0][1]}),
        codecs,
        torch.cat(member),
        torch.cat(case),
        torch.cat([part.variant for part in parts]),
        sites,
        torch.cat(site),
        torch.cat([part.weight for part in parts]),
    )

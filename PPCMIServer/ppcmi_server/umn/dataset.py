"""Protected latents of all sites as the mapping network sees them: still in the space of the inner key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ppcmi.latents import Latents


@dataclass(frozen=True, eq=False)
class LatentDataset:
    """Pairs of image and mask latents.

    :param images: ``(n, C, H, W)`` for each scale, float16 on the CPU.
    :param masks: the same scales.
    :param codecs: fingerprints of the codecs that made them.
    :param member: ``(n,)`` int64, index into ``codecs``.
    :param case: ``(n,)`` int64, which case a slice belongs to.
    :param variant: ``(n,)`` int64, 0 for the case as it is, 1.. for an augmented encoding of it.
    """

    images: Latents
    masks: Latents
    codecs: tuple[str, ...]
    member: Tensor
    case: Tensor
    variant: Tensor

    def __len__(self) -> int:
        return len(self.member)

    def select(self, index: Tensor) -> LatentDataset:
        """Some of the slices."""
        return LatentDataset(
            self.images.select(index), self.masks.select(index), self.codecs,
            self.member[index], self.case[index], self.variant[index],
        )  # fmt: skip

    def split(self, share: float, generator: torch.Generator) -> tuple[LatentDataset, LatentDataset]:
        """Whole cases for training (with their variants) and others for validation (as they are)."""
        cases = torch.unique(self.case)
        order = cases[torch.randperm(len(cases), generator=generator)]
        held_out = torch.isin(self.case, order[: round(share * len(cases))])
        return self.select(torch.nonzero(~held_out)[:, 0]), self.select(
            torch.nonzero(held_out & (self.variant == 0))[:, 0]
        )


def join_datasets(parts: Sequence[LatentDataset]) -> LatentDataset:
    """One data set of several, cases numbered on and codecs merged."""
    codecs = tuple(dict.fromkeys(codec for part in parts for codec in part.codecs))
    member, case, first = [], [], 0
    for part in parts:
        member.append(torch.tensor([codecs.index(codec) for codec in part.codecs])[part.member])
        case.append(part.case + first)
        first += int(part.case.max()) + 1
    return LatentDataset(
        Latents({s: torch.cat([part.images[s] for part in parts]) for s in parts[0].images}),
        Latents({s: torch.cat([part.masks[s] for part in parts]) for s in parts[0].masks}),
        codecs,
        torch.cat(member),
        torch.cat(case),
        torch.cat([part.variant for part in parts]),
    )

"""How well mask latents follow from image latents, by a linear map: quick, and the same under any inner key.

A site's skill is ``1 - e / e0``: ``e`` the squared error of ridge regression from the image latents of a position to
its mask latents, ``e0`` that of the site's own mean at the position. 0 says that images tell nothing of the masks;
below 0 that what was learned elsewhere is wrong here. Everything is measured on cases that were left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ppcmi.latents import Latents
from ppcmi_server.umn.dataset import LatentDataset

SLICES_PER_SITE = 512
FOLDS = 4
RIDGE = 0.3
"""Of the mean variance of the inputs."""
READ_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class Positions:
    """Slices as rows of positions at the coarsest scale, float32.

    :param images: ``(n, p, i)``: all scales' image latents at ``p`` positions, finer ones averaged.
    :param masks: ``(n, p, m)``: the coarsest scale's mask latents.
    :param case: ``(n,)``.
    :param site: ``(n,)``.
    :param member: ``(n,)``: index of the codec.
    """

    images: Tensor
    masks: Tensor
    case: Tensor
    site: Tensor
    member: Tensor


@dataclass(frozen=True, eq=False)
class Skills:
    """Skills on each of a site's cases, ``(cases,)``, of maps fitted on the other sites, on its other cases, on both.

    ``others`` and ``both`` are None where no other site has the codec; ``own`` and ``both`` where it has one case.
    """

    others: Tensor | None
    own: Tensor | None
    both: Tensor | None

    @property
    def best(self) -> Tensor:
        """Of the map that does best for the site, on each case."""
        found = [skill for skill in (self.others, self.own, self.both) if skill is not None]
        return max(found, key=lambda skill: float(skill.median())) if found else torch.zeros(0)


def sample_positions(dataset: LatentDataset) -> Positions:
    """Up to :data:`SLICES_PER_SITE` slices of every site as they are, whole cases, the same every time."""
    chosen: list[Tensor] = []
    for site in range(len(dataset.sites)):
        own = torch.nonzero((dataset.site == site) & (dataset.variant == 0))[:, 0]
        cases = torch.unique(dataset.case[own])
        order = cases[torch.randperm(len(cases), generator=torch.Generator().manual_seed(site))]
        counts = torch.stack([(dataset.case[own] == case).sum() for case in order]).cumsum(0) if len(order) else order
        taken = order[: max(2, int((counts <= SLICES_PER_SITE).sum()))]
        chosen.append(own[torch.isin(dataset.case[own], taken)][: 2 * SLICES_PER_SITE])
    index = torch.cat(chosen)
    images, masks = [], []
    for part in torch.split(index, READ_AT_ONCE):
        images.append(_rows(_at_coarsest(dataset.images.select(part))))
        masks.append(_rows(_coarsest(dataset.masks.select(part))))
    return Positions(
        torch.cat(images), torch.cat(masks), dataset.case[index], dataset.site[index], dataset.member[index]
    )


def skills_of(positions: Positions, site: int) -> Skills:
    """How well a site's masks follow from its images."""
    own = positions.site == site
    cases = torch.unique(positions.case[own])
    folds = torch.arange(len(cases)) % FOLDS
    codecs = torch.unique(positions.member[own])
    others = ~own & torch.isin(positions.member, codecs)
    alone, several = not bool(others.any()), len(cases) > 1
    found: dict[str, list[float]] = {"others": [], "own": [], "both": []}
    elsewhere = None if alone else _fit(positions, others)
    for fold in range(min(FOLDS, len(cases))):
        left_out = own & torch.isin(positions.case, cases[folds == fold])
        rest = own & ~left_out
        usual = positions.masks[rest if several else own].mean(dim=0)
        maps = {
            "others": elsewhere,
            "own": _fit(positions, rest) if several else None,
            "both": _fit(positions, others | rest) if several and not alone else None,
        }
        for name, one in maps.items():
            if one is not None:
                found[name] += _case_skills(positions, left_out, one, usual)
    by_name = {name: torch.tensor(values) if values else None for name, values in found.items()}
    return Skills(by_name["others"], by_name["own"], by_name["both"])


@dataclass(frozen=True, eq=False)
class _Map:
    weights: Tensor
    input_mean: Tensor
    output_mean: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        return (images - self.input_mean) @ self.weights + self.output_mean


def _fit(positions: Positions, which: Tensor) -> _Map:
    """Ridge regression of what masks differ from their mean at the position; every site counts the same."""
    images, masks, sites = positions.images[which], positions.masks[which], positions.site[which]
    _, number, counts = torch.unique(sites, return_inverse=True, return_counts=True)
    share = (1 / counts.double()).float()[number][:, None, None]
    total = share.sum()
    input_mean = (share * images).sum(dim=0) / total
    output_mean = (share * masks).sum(dim=0) / total
    inputs, outputs = (images - input_mean).flatten(0, 1), (masks - output_mean).flatten(0, 1)
    weighted = (share * (images - input_mean)).flatten(0, 1)
    gram = weighted.T @ inputs
    gram += (RIDGE * gram.diagonal().mean() + 1e-6) * torch.eye(len(gram))
    return _Map(torch.linalg.solve(gram, weighted.T @ outputs), input_mean, output_mean)


def _case_skills(positions: Positions, which: Tensor, one: _Map, usual: Tensor) -> list[float]:
    images, masks, cases = positions.images[which], positions.masks[which], positions.case[which]
    error, before = (one(images) - masks).square().sum((1, 2)), (usual - masks).square().sum((1, 2))
    return [
        1 - float(error[cases == case].sum() / before[cases == case].sum().clamp_min(1e-6))
        for case in torch.unique(cases).tolist()
    ]


def _coarsest(latents: Latents) -> Tensor:
    return latents[list(latents)[-1]].float()


def _at_coarsest(latents: Latents) -> Tensor:
    rows, columns = _coarsest(latents).shape[2:]
    return torch.cat([F.adaptive_avg_pool2d(values.float(), (rows, columns)) for _, values in latents.items()], dim=1)


def _rows(values: Tensor) -> Tensor:
    """``(n, c, h, w)`` to ``(n, h w, c)``."""
    return values.flatten(2).transpose(1, 2).contiguous()

"""How well mask latents follow from image latents, by a linear map: quick, and the same under any inner key.

A site's skill is ``1 - e / e0``: ``e`` the squared error of ridge regression from the image latents of a position to
its mask latents, ``e0`` that of the site's own mean at the position. 0 says that images tell nothing of the masks;
below 0 that what was learned elsewhere is wrong here. Everything is measured on cases that were left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ppcmi.latents import Latents
from ppcmi.scales import PATCH_SCALES
from ppcmi_server.umn.dataset import LatentDataset

SLICES_PER_SITE = 512
FOLDS = 4
RIDGE = 0.3
"""Of the mean variance of the inputs."""
READ_AT_ONCE = 64
PATCH_POSITIONS = 4
"""Rows and columns that patches of voxels are averaged to; what is left tells as much."""


@dataclass(frozen=True, eq=False)
class Positions:
    """Slices as rows of positions at the coarsest scale, float32.

    :param images: ``(n, p, i)``: all scales' image latents at ``p`` positions, finer ones averaged.
    :param masks: ``(n, p, m)``: the coarsest scale's mask latents.
    :param case: ``(n,)``.
    :param site: ``(n,)``.
    :param member: ``(n,)``: index of the codec.
    :param weight: ``(n,)``: what is out of proportion counts less.
    """

    images: Tensor
    masks: Tensor
    case: Tensor
    site: Tensor
    member: Tensor
    weight: Tensor

    def finite_ones(self) -> Positions:
        """Only the slices of which everything is a number."""
        numbers = (self.images.flatten(1), self.masks.flatten(1), self.weight[:, None])
        keep = torch.stack([torch.isfinite(values).all(dim=1) for values in numbers]).all(dim=0)
        return Positions(*(values[keep] for values in vars(self).values()))


@dataclass(frozen=True, eq=False)
class Skills:
    """Skills on each of a site's cases, ``(cases,)``.

    ``others``, ``own`` and ``both`` are of maps fitted on the other sites, on the site's other cases, and on both; the
    first and last are None where no other site has the codec, the latter two where the site has one case.

    :param gain: how much better the site's own map does with a case's own images than with those of another of its
        cases at the same relative place, relative to the latter's error; None where ``own`` is.
    :param by_site: of maps fitted on one other site each, by that site.
    """

    others: Tensor | None
    own: Tensor | None
    both: Tensor | None
    gain: Tensor | None
    by_site: Mapping[int, Tensor]

    @property
    def best(self) -> float:
        """Median skill of the map that does best for the site."""
        return max((float(skill.median()) for skill in self._of_maps), default=0.0)

    @property
    def finite(self) -> bool:
        """Whether every skill is a number."""
        return all(bool(torch.isfinite(skill).all()) for skill in self._of_maps)

    @property
    def cases(self) -> int:
        """Cases that were looked at."""
        return 0 if self.own is None else len(self.own)

    @property
    def _of_maps(self) -> list[Tensor]:
        return [skill for skill in (self.others, self.own, self.both) if skill is not None]


def sample_positions(dataset: LatentDataset) -> Positions:
    """Up to :data:`SLICES_PER_SITE` slices of every site as they are, whole cases, the same every time.

    Slices that hold what is no number are left out: one of them would make every site's skills none.
    """
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
    found = Positions(
        torch.cat(images), torch.cat(masks), dataset.case[index], dataset.site[index], dataset.member[index],
        dataset.weight[index].clamp_min(1e-9),
    )  # fmt: skip
    return found.finite_ones()


def skills_of_sites(positions: Positions) -> dict[int, Skills]:
    """How well each site's masks follow from its images."""
    sites = torch.unique(positions.site).tolist()
    maps = {site: _fit(positions, positions.site == site) for site in sites}
    return {site: _skills(positions, site, maps) for site in sites}


def _skills(positions: Positions, site: int, maps: Mapping[int, _Map]) -> Skills:
    own = positions.site == site
    cases, codecs = torch.unique(positions.case[own]), torch.unique(positions.member[own])
    others = ~own & torch.isin(positions.member, codecs)
    usual = positions.masks[own].mean(dim=0)
    elsewhere = _case_skills(positions, own, _fit(positions, others), usual) if bool(others.any()) else None
    by_site = {
        one: _case_skills(positions, own, maps[one], usual) for one in torch.unique(positions.site[others]).tolist()
    }
    if len(cases) < 2:
        return Skills(elsewhere, None, None, None, by_site)
    alone: list[Tensor] = []
    both: list[Tensor] = []
    gain: list[Tensor] = []
    stranger = _same_place_in_another_case(positions, own)
    folds = torch.arange(len(cases)) % FOLDS
    for fold in torch.unique(folds).tolist():
        left_out = own & torch.isin(positions.case, cases[folds == fold])
        rest = own & ~left_out
        map_of_own, usual = _fit(positions, rest), positions.masks[rest].mean(dim=0)
        alone.append(_case_skills(positions, left_out, map_of_own, usual))
        gain.append(_case_skills(positions, left_out, map_of_own, map_of_own(positions.images[stranger[left_out]])))
        if elsewhere is not None:
            both.append(_case_skills(positions, left_out, _fit(positions, others | rest), usual))
    return Skills(elsewhere, torch.cat(alone), torch.cat(both) if both else None, torch.cat(gain), by_site)


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
    share = ((1 / counts.double()).float()[number] * positions.weight[which])[:, None, None]
    total = share.sum()
    input_mean = (share * images).sum(dim=0) / total
    output_mean = (share * masks).sum(dim=0) / total
    inputs, outputs = (images - input_mean).flatten(0, 1), (masks - output_mean).flatten(0, 1)
    weighted = (share * (images - input_mean)).flatten(0, 1)
    gram = weighted.T @ inputs
    gram += (RIDGE * gram.diagonal().mean() + 1e-9) * torch.eye(len(gram))
    return _Map(torch.linalg.solve(gram, weighted.T @ outputs), input_mean, output_mean)


def _case_skills(positions: Positions, which: Tensor, one: _Map, instead: Tensor) -> Tensor:
    """By case: ``1 - e / e0`` with the map's error and that of what is predicted instead."""
    masks, cases = positions.masks[which], positions.case[which]
    error = (one(positions.images[which]) - masks).square().sum((1, 2))
    before = (instead - masks).square().sum((1, 2))
    return torch.tensor(
        [
            1 - float(error[cases == case].sum() / before[cases == case].sum().clamp_min(1e-6))
            for case in torch.unique(cases).tolist()
        ]
    )


def _same_place_in_another_case(positions: Positions, own: Tensor) -> Tensor:
    """For each slice of a site, one of the site's next case at the same relative place, as an index; 0 for others."""
    found = torch.zeros(len(own), dtype=torch.int64)
    slices = {
        case: torch.nonzero(own & (positions.case == case))[:, 0] for case in torch.unique(positions.case[own]).tolist()
    }
    for mine, other in zip(slices.values(), [*list(slices.values())[1:], next(iter(slices.values()))], strict=True):
        found[mine] = other[torch.linspace(0, len(other) - 1, len(mine)).round().long()]
    return found


def _coarsest(latents: Latents) -> Tensor:
    values = latents[list(latents)[-1]].float()
    return F.adaptive_avg_pool2d(values, PATCH_POSITIONS) if list(latents)[-1] in PATCH_SCALES else values


def _at_coarsest(latents: Latents) -> Tensor:
    rows, columns = _coarsest(latents).shape[2:]
    return torch.cat([F.adaptive_avg_pool2d(values.float(), (rows, columns)) for _, values in latents.items()], dim=1)


def _rows(values: Tensor) -> Tensor:
    """``(n, c, h, w)`` to ``(n, h w, c)``."""
    return values.flatten(2).transpose(1, 2).contiguous()

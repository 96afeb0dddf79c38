"""A4: images that leaked, with what was seen of them, teach a decoder without the codec or a key (SECURITY 1.5).

Two are tried, and the one that draws held-out leaked cases better counts: the decoder of the other attacks, and least
squares from the vector at each position to the pixels under it, which learns from a single case.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ppcmi.audit.attacker import Knowledge, Pairs, Reconstruct
from ppcmi.audit.attacks.decoder import train_decoder
from ppcmi.audit.attacks.plain_latents import Effort, draw_pictures
from ppcmi.audit.metrics import middle
from ppcmi.latents import Latents
from ppcmi.scales import SCALE_STRIDES

JUDGED_SHARE = 3
"""One in so many leaked cases decides which way is better."""

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
USUAL_PENALTY = 1e-1


@dataclass(frozen=True)
class LeakedPairs:
    """A4 with ``cases`` of the cases that leaked."""

    cases: int
    effort: Effort = field(default_factory=Effort)
    name: str = "A4"

    @property
    def title(self) -> str:
        """For a report."""
        return f"trained on leaked images ({self.cases} {'case' if self.cases == 1 else 'cases'}), codec unknown"

    def obstacle(self, knowledge: Knowledge) -> str | None:
        """Too few leaked cases."""
        leaked = len(torch.unique(knowledge.pairs.seen.case))
        if leaked < self.cases:
            return f"The attacker has {leaked} leaked cases only."
        return None

    def learn(self, knowledge: Knowledge) -> Reconstruct:
        """Train on some of the leaked cases and keep what does better on the rest; with fewer than 3, least squares."""
        leaked = torch.unique(knowledge.pairs.seen.case)[: self.cases]
        mean = middle(knowledge.slices).mean(dim=0)
        everything = _of_cases(knowledge.pairs, leaked)
        if self.cases < JUDGED_SHARE:
            return _linear(everything, mean, USUAL_PENALTY)
        judged = _of_cases(knowledge.pairs, leaked[: self.cases // JUDGED_SHARE])
        learned = _of_cases(knowledge.pairs, leaked[self.cases // JUDGED_SHARE :])
        network = self._network(learned, knowledge.generator)
        errors = {penalty: _error(_linear(learned, mean, penalty), judged) for penalty in PENALTIES}
        best = min(errors, key=errors.__getitem__)
        return network if _error(network, judged) < errors[best] else _linear(everything, mean, best)

    def _network(self, pairs: Pairs, generator: torch.Generator) -> Reconstruct:
        latents = pairs.seen.latents
        decoder = train_decoder(
            lambda index, _: latents.select(index), middle(pairs.slices), self.effort.decoder, generator,
            case=pairs.seen.case, report=self.effort.report,
        )  # fmt: skip
        return lambda seen: draw_pictures(decoder, seen.latents)


def _linear(pairs: Pairs, mean: Tensor, penalty: float) -> Reconstruct:
    """Least squares from the vector at each position of the finest scale to its pixels' difference from ``mean``.

    :param penalty: of the squared coefficients, relative to the inputs' mean square.
    """
    block = SCALE_STRIDES[next(iter(pairs.seen.latents))]
    center, rows = _rows(pairs.seen.latents)
    pixels = F.pixel_unshuffle((middle(pairs.slices) - mean)[:, None], block)
    targets = pixels.permute(0, 2, 3, 1).flatten(0, 2).double()
    products = rows.T @ rows
    ridge = penalty * products.diagonal().mean() * torch.eye(len(products), dtype=torch.float64)
    weight = torch.linalg.solve(products + ridge, rows.T @ (targets - targets.mean(dim=0)))
    offset = targets.mean(dim=0) - center @ weight

    def draw(latents: Latents) -> Tensor:
        grid = latents[next(iter(latents))].shape[2:]
        _, inputs = _rows(latents, torch.zeros_like(center))
        drawn = (inputs @ weight + offset).float().reshape(len(latents), *grid, -1).permute(0, 3, 1, 2)
        return (F.pixel_shuffle(drawn, block)[:, 0] + mean).clamp(0, 1)

    return lambda seen: draw(seen.latents)


def _rows(latents: Latents, center: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The rows' mean and, less it, a row for each position of the finest scale: its vectors of all scales, float64."""
    size = latents[next(iter(latents))].shape[2:]
    maps = torch.cat([F.interpolate(values.float(), size) for _, values in latents.items()], dim=1)
    rows = maps.permute(0, 2, 3, 1).flatten(0, 2).double()
    middle = rows.mean(dim=0) if center is None else center
    return middle, rows - middle


def _error(reconstruct: Reconstruct, judged: Pairs) -> float:
    return float((reconstruct(judged.seen) - middle(judged.slices)).square().mean())


def _of_cases(pairs: Pairs, cases: Tensor) -> Pairs:
    index = torch.nonzero(torch.isin(pairs.seen.case, cases))[:, 0]
    return Pairs(pairs.slices[index], pairs.seen.select(index), None if pairs.labels is None else pairs.labels[index])

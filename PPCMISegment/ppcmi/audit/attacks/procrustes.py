"""A2: some of the site's images are known; what became of them gives the mixing away (SECURITY 1.2, 2.1).

With the codec the mixing is a rotation and a shift, found by orthogonal Procrustes for each scale. Without it the
attacker's own latents stand in, and the map is the least-squares one, its penalty chosen on known cases left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ppcmi.audit.attacker import Knowledge, Reconstruct, Seen
from ppcmi.audit.attacks.channel_map import AffineMap, ChannelMap, draw, orthogonal_map, ridge_map, vectors
from ppcmi.latents import Latents

KNOWN_CASES = (1, 2, 3, 5, 10)
PENALTIES = (1e-4, 1e-2, 1.0, 100.0)


@dataclass(frozen=True)
class KnownImages:
    """Fit on the first ``cases`` known cases.

    :param cases: that are used; whoever lists attacks asks for no more than are known.
    """

    cases: int
    name: str = "A2"

    @property
    def title(self) -> str:
        """For a report."""
        return f"known images ({self.cases} case{'s' if self.cases > 1 else ''})"

    def obstacle(self, knowledge: Knowledge) -> str | None:
        """It needs that many known cases."""
        known = len(torch.unique(knowledge.pairs.seen.case))
        return None if known >= self.cases else f"Only {known} cases with known images, of {self.cases}."

    def learn(self, knowledge: Knowledge) -> Reconstruct:
        """Fit a map for each scale."""
        pairs = knowledge.pairs
        index = torch.nonzero(torch.isin(pairs.seen.case, torch.unique(pairs.seen.case)[: self.cases]))[:, 0]
        own = knowledge.encoder.encode_images(pairs.slices[index]).to("cpu")
        fitted = fit_known(pairs.seen.select(index), own, exact=knowledge.codec is not None)
        return lambda victims: draw(knowledge.encoder, fitted.apply(victims.latents))


def fit_known(seen: Seen, own: Latents, *, exact: bool) -> ChannelMap:
    """The map from what is seen of known slices to ``own``, latents that the attacker made of them.

    :param exact: ``own`` is from the codec that was attacked, so that a rotation is all that is missing.
    """
    return ChannelMap(
        {
            scale: orthogonal_map(vectors(values), vectors(own[scale]))
            if exact
            else _penalized_map(values, own[scale], seen.case)
            for scale, values in seen.latents.items()
        }
    )


def _penalized_map(seen: Tensor, own: Tensor, case: Tensor) -> AffineMap:
    """Least squares with the penalty that does best on the last known case, or slice of a single one."""
    group = case if len(torch.unique(case)) > 1 else torch.arange(len(case))
    last = group == group.max()
    if last.all():
        return ridge_map(vectors(seen), vectors(own), PENALTIES[-2])

    def error(penalty: float) -> float:
        fitted = ridge_map(vectors(seen[~last]), vectors(own[~last]), penalty)
        return float((fitted.apply(seen[last]) - own[last]).square().mean())

    return ridge_map(vectors(seen), vectors(own), min(PENALTIES, key=error))

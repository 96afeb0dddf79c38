"""A3: no known image, only the statistics of many: a fixed mixing turns them as it turns the latents (SECURITY 1.3).

The attacker encodes its own images and compares moments with what it collected from the site. Eigenvectors of the
covariances belong together in the order of their eigenvalues; their signs come from skewness, or from the mean latents
at each position, which organs at the same place make alike. Each guess is refined by rounds of nearest neighbors and
Procrustes (as Wasserstein-Procrustes, Grave et al. 2018), and the guess under which both sets agree best is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ppcmi.audit.attacker import Knowledge, Reconstruct
from ppcmi.audit.attacks.channel_map import AffineMap, ChannelMap, draw, nearest_rotation, vectors
from ppcmi.latents import concatenate


@dataclass(frozen=True)
class BlindAlignment:
    """Match statistics of the attacker's images and of what it collected.

    :param rounds: of refinement.
    :param sample: vectors of each side that the refinement looks at.
    """

    rounds: int = 8
    sample: int = 1000
    name: str = "A3"
    title: str = "matched statistics"

    def obstacle(self, knowledge: Knowledge) -> str | None:
        """It needs something collected."""
        return None if len(knowledge.collected) else "Nothing else of the site was collected."

    def learn(self, knowledge: Knowledge) -> Reconstruct:
        """Align every scale."""
        own = knowledge.encoder.encode_images(knowledge.slices).to("cpu")
        parts = (knowledge.collected, knowledge.pairs.seen)  # of known images only what was seen of them
        seen = concatenate([part.latents for part in parts])
        fitted = ChannelMap({scale: self._align(v, own[scale], knowledge.generator) for scale, v in seen.items()})
        return lambda victims: draw(knowledge.encoder, fitted.apply(victims.latents))

    def _align(self, seen: Tensor, own: Tensor, generator: torch.Generator) -> AffineMap:
        seen_mean, own_mean = vectors(seen).mean(dim=0), vectors(own).mean(dim=0)
        theirs = _Cloud(vectors(seen) - seen_mean, _placed(seen), self.sample, generator)
        mine = _Cloud(vectors(own) - own_mean, _placed(own), self.sample, generator)
        means = (_position_means(seen) - seen_mean).T @ (_position_means(own) - own_mean)
        guesses = [self._refined(first, theirs, mine) for first in _first_guesses(theirs.rows, mine.rows, means)]
        rotation = min(guesses, key=lambda guess: theirs.distance(guess, mine))
        return AffineMap(rotation, seen_mean, own_mean)

    def _refined(self, rotation: Tensor, theirs: _Cloud, mine: _Cloud) -> Tensor:
        best, distance = rotation, theirs.distance(rotation, mine)
        for _ in range(self.rounds):
            rotation = theirs.follow_neighbors(rotation, mine)
            now = theirs.distance(rotation, mine)
            if now >= distance:
                break
            best, distance = rotation, now
        return best


class _Cloud:
    """Centered vectors with their places; a random sample of them serves neighbor searches.

    :param rows: ``(m, C)``, all of them.
    :param places: ``(m, 2)`` rows and columns in 0..1; a neighbor should lie at about the same place.
    """

    def __init__(self, rows: Tensor, places: Tensor, sample: int, generator: torch.Generator) -> None:
        self.rows = rows
        index = torch.randperm(len(rows), generator=generator)[:sample]
        self.sample, self.places = rows[index], places[index]

    def distance(self, rotation: Tensor, other: _Cloud) -> float:
        """Mean distance to the nearest neighbor, both ways, once turned: how badly two clouds agree."""
        apart = self._apart(rotation, other)
        return float(apart.amin(dim=0).mean() + apart.amin(dim=1).mean())

    def follow_neighbors(self, rotation: Tensor, other: _Cloud) -> Tensor:
        """The rotation that brings vectors nearest to their present neighbors, both ways."""
        apart = self._apart(rotation, other)
        covariance = self.sample.T @ other.sample[apart.argmin(dim=1)]
        return nearest_rotation(covariance + self.sample[apart.argmin(dim=0)].T @ other.sample)

    def _apart(self, rotation: Tensor, other: _Cloud) -> Tensor:
        weight = other.rows.square().sum(dim=1).mean().sqrt()
        mine = torch.cat((self.sample @ rotation, weight * self.places), dim=1)
        theirs = torch.cat((other.sample, weight * other.places), dim=1)
        return torch.cdist(mine.float(), theirs.float()).double()


def _first_guesses(seen: Tensor, own: Tensor, means: Tensor) -> Iterator[Tensor]:
    """Rotations ``(C, C)`` from moments.

    :param means: ``(C, C)`` covariance of the mean latents by position, those seen and the attacker's own.
    """
    strengths, theirs = torch.linalg.eigh(seen.T @ seen / len(seen))
    _, mine = torch.linalg.eigh(own.T @ own / len(own))
    by_skewness = torch.sign((seen @ theirs).pow(3).mean(dim=0) * (own @ mine).pow(3).mean(dim=0))
    by_place = torch.sign(((theirs.T @ means) * mine.T).sum(dim=1))
    for signs in (by_skewness, by_place):
        yield (theirs * torch.where(signs == 0, 1.0, signs)) @ mine.T
    matched = (theirs * by_place * strengths.clamp_min(0)) @ mine.T
    yield nearest_rotation(means / means.norm().clamp_min(1e-12) + matched / matched.norm().clamp_min(1e-12))


def _position_means(values: Tensor) -> Tensor:
    """Mean over slices at every position, float64 ``(h w, C)``."""
    return values.double().mean(dim=0).flatten(1).T


def _placed(values: Tensor) -> Tensor:
    """Row and column in 0..1 of each of :func:`~ppcmi.audit.attacks.channel_map.vectors`."""
    n, _, h, w = values.shape
    rows, columns = torch.meshgrid(torch.linspace(0, 1, h), torch.linspace(0, 1, w), indexing="ij")
    return torch.stack((rows, columns), dim=-1).reshape(-1, 2).repeat(n, 1).double()

"""The attack on InstaHide (Carlini et al. 2020, arXiv 2011.05315) against Mixup-Privacy: references are used again.

A site has a few dozen references and mixes every patch with some of them. So mixtures of different patches share a
reference, as encodings in InstaHide share a private image: the attacker groups them, and then has more equations than
unknowns. The grouping by a trained network and the unknown signs fall away here: which mixtures are of one patch
is known, and nothing is masked. What is left is to alternate, from a start that needs no reference at all:

1. the start: a patch is the mean of its mixtures without the mean of all mixtures, as ``E[x] = a t + (1 - a) r``;
2. every mixture gets the reference and the share that explain it best;
3. patches and references follow by least squares, all voxels having one and the same system.
"""

from __future__ import annotations

import torch
from sklearn.cluster import KMeans
from torch import Tensor

from ppcmi.audit.attacks.mixtures import MixedPatches
from ppcmi.methods.mixup.mixing import LARGEST_SHARE, LEAST_SHARE

MOST_ROUNDS = 40
ROUNDS_AFTER = 5
"""Rounds that the shares get once the references no longer change."""
RIDGE = 1e-2
CLUSTERED_VOXELS = 4096
"""Enough of a patch to tell references apart."""
MEAN_SHARE = (LEAST_SHARE + LARGEST_SHARE) / 2


def unmixed_mean(mixed: MixedPatches) -> Tensor:
    """The start alone, ``(t, s, s, s)`` in 0..1: no grouping, no least squares."""
    whole = mixed.pictures.mean(dim=(0, 1))
    return ((mixed.pictures.mean(dim=1) - (1 - MEAN_SHARE) * whole) / MEAN_SHARE).clamp(0, 1)


def unmix_requests(mixed: MixedPatches, seed: int) -> Tensor:
    """Reconstructions ``(t, s, s, s)`` in 0..1 from all mixtures of the site together."""
    count, times = mixed.pictures.shape[:2]
    rows = mixed.pictures.flatten(0, 1).flatten(1)
    target = torch.arange(count).repeat_interleave(times)
    targets = unmixed_mean(mixed).flatten(1)
    references = _first_references(rows, targets[target], mixed.references, seed)
    before = torch.full((len(rows),), -1)
    settled = 0
    for _ in range(MOST_ROUNDS):
        share, chosen = _explain(rows, targets, references, target)
        settled = settled + 1 if torch.equal(chosen, before) else 0
        if settled > ROUNDS_AFTER:
            break
        before = chosen
        targets, references = _least_squares(rows, share, target, chosen, targets, references)
    return targets.reshape(count, *mixed.pictures.shape[2:]).clamp(0, 1)


def _first_references(rows: Tensor, targets: Tensor, count: int, seed: int) -> Tensor:
    """Guesses ``(r, v)``: what is left of each mixture without its patch, in clusters."""
    left = (rows - MEAN_SHARE * targets) / (1 - MEAN_SHARE)
    count, some = min(count, len(rows)), left[:, :: max(1, left.shape[1] // CLUSTERED_VOXELS)]
    label = torch.from_numpy(KMeans(count, n_init=2, random_state=seed).fit_predict(some.numpy())).long()
    sums = torch.zeros(count, left.shape[1]).index_add_(0, label, left)
    return sums / torch.bincount(label, minlength=count).clamp_min(1)[:, None]


def _explain(rows: Tensor, targets: Tensor, references: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Share ``(n,)`` and reference ``(n,)`` with the least error for each mixture.

    With ``d = t - r`` it is ``x - r = a d``, so the best share is a projection; only inner products are needed.
    """
    own = targets[target]
    xr, tr = rows @ references.T, own @ references.T
    rr = references.square().sum(dim=1)
    xt, tt, xx = (rows * own).sum(dim=1, keepdim=True), own.square().sum(dim=1, keepdim=True), rows.square().sum(dim=1)
    across = xt - xr - tr + rr
    length = (tt - 2 * tr + rr).clamp_min(1e-9)
    share = (across / length).clamp(LEAST_SHARE, LARGEST_SHARE)
    error = (xx[:, None] - 2 * xr + rr) - 2 * share * across + share.square() * length
    chosen = error.argmin(dim=1)
    return share.gather(1, chosen[:, None])[:, 0], chosen


def _least_squares(
    rows: Tensor, share: Tensor, target: Tensor, chosen: Tensor, targets: Tensor, references: Tensor
) -> tuple[Tensor, Tensor]:
    """Patches and references that explain the mixtures best, drawn a little to what they were."""
    count = len(targets)
    design = torch.zeros(len(rows), count + len(references))
    design[torch.arange(len(rows)), target] = share
    design[torch.arange(len(rows)), count + chosen] = 1 - share
    before = torch.cat((targets, references))
    gram = design.T @ design + RIDGE * torch.eye(design.shape[1])
    found = torch.linalg.solve(gram, design.T @ rows + RIDGE * before).clamp(0, 1)
    return found[:count], found[count:]

"""Blind source separation against Mixup-Privacy, as its paper tests it: several mixtures of one patch are signals.

Independent component analysis (FastICA, scikit-learn) gives as many sources as there are mixtures. Which of them is the
patch, its sign and its range are not known: the attacker takes the source that is most like the mean of the mixtures,
and gives it the mean and deviation of that mean. Beside it stands what needs no analysis at all: the mean itself.
"""

from __future__ import annotations

import warnings

import torch
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from ppcmi.audit.attacks.mixtures import MixedPatches

MOST_SOURCES = 4
"""More sources than these split the patch up."""


def mean_mixtures(mixed: MixedPatches) -> Tensor:
    """The mean of each patch's mixtures, ``(t, s, s, s)``: every reference fades, the patch stays."""
    return mixed.pictures.mean(dim=1)


def separate(mixed: MixedPatches, seed: int) -> Tensor:
    """Reconstructions ``(t, s, s, s)`` in 0..1, each from the mixtures of that patch alone."""
    return torch.stack([_separate(pictures, seed) for pictures in mixed.pictures])


def _separate(pictures: Tensor, seed: int) -> Tensor:
    """One patch from its mixtures ``(k, s, s, s)``."""
    signals, mean = pictures.flatten(1).double(), pictures.mean(dim=0)
    ica = FastICA(min(MOST_SOURCES, len(pictures)), random_state=seed, whiten="unit-variance", max_iter=500)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # what it has then is judged like the rest
        sources = torch.from_numpy(ica.fit_transform(signals.T.numpy())).T
    flat = mean.flatten().double()
    likeness = torch.stack([torch.corrcoef(torch.stack((source, flat)))[0, 1] for source in sources]).nan_to_num()
    best = int(likeness.abs().argmax())
    source = sources[best] * likeness[best].sign()
    scaled = (source - source.mean()) / source.std().clamp_min(1e-9) * flat.std() + flat.mean()
    return scaled.reshape(mean.shape).clamp(0, 1).float()

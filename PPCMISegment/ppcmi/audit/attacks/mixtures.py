"""What a server that runs Mixup-Privacy sees, and how near a reconstruction of it comes.

The server receives each patch mixed with several references, one mixture after the other, so it knows which mixtures
are of one patch. It knows the method and images of the same kind from other patients, not the shares and no reference.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ppcmi.audit.attacker import Finding
from ppcmi.audit.metrics import interval, picture_scores

SLICES_SCORED = 4


@dataclass(frozen=True, eq=False)
class MixedPatches:
    """Mixtures as a server has them.

    :param pictures: ``(t, k, s, s, s)``: ``k`` mixtures of each of ``t`` patches of one site.
    :param usual: ``(s, s, s)``: the mean of patches that the attacker has of other patients.
    :param references: how many patches the site mixes with, which the method tells.
    """

    pictures: Tensor
    usual: Tensor
    references: int


def middle_slices(patches: Tensor) -> Tensor:
    """Some slices ``(n SLICES_SCORED, s, s)`` about the middle of patches ``(n, s, s, s)``, to be looked at."""
    first = (patches.shape[1] - SLICES_SCORED) // 2
    return patches[:, first : first + SLICES_SCORED].flatten(0, 1)


def picture_findings(
    title: str, found: Tensor, truth: Tensor, patient: Tensor, mixed: MixedPatches, *, seconds: float, seed: int
) -> list[Finding]:
    """Scores of reconstructions ``(t, s, s, s)`` of patches, with intervals by patient.

    :param patient: ``(t,)``: whose each patch is. Chance is the mean picture of the attacker's own patches.
    """
    shown, true = middle_slices(found), middle_slices(truth)
    whose = patient.repeat_interleave(SLICES_SCORED)
    guess = middle_slices(mixed.usual[None]).repeat(len(truth), 1, 1)
    chance = picture_scores(guess, true)
    findings = []
    for measure, values in picture_scores(shown, true).items():
        value, low, high = interval(values, whose, seed)
        known = chance[measure][torch.isfinite(chance[measure])]
        findings.append(
            Finding(
                "Mixup", title, "Mixup-Privacy, the server", measure, value, low, high, float(known.mean()), seconds
            )
        )
    return findings

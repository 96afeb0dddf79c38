"""A10 by another member: who was the codec, or a network that a site shares, trained on?

Members hold both as they are, so no model of the server's is asked: the attacker looks at how well each slice is
redrawn, or segmented, alone and compared with what another network makes of it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ppcmi.audit.attacker import Finding
from ppcmi.audit.attacks.membership import Decisions, decision_findings
from ppcmi.codec.codec import Codec
from ppcmi.codec.local_network import LocalNetwork
from ppcmi.codec.slice_set import SliceSet
from ppcmi.codec.training import predict_locally
from ppcmi.scales import Profile

Cases = tuple[SliceSet, Tensor]
"""Cases, and the patient ``(cases,)`` of each."""


def measure_codec_membership(
    codec: Codec,
    members: Cases,
    others: Cases,
    seed: int,
    *,
    surrogate: Codec | None = None,
    setting: str = "the codec",
) -> list[Finding]:
    """Membership by the reconstruction error of a codec, alone and compared with another codec's.

    :param members, others: cases that the codec was and was not trained on; no patient is in both, and all are of the
        same kind.
    :param surrogate: a codec that was trained on neither; None leaves the comparison out.
    """
    started = time.monotonic()
    profile = Profile.PAPER if codec.preset == "paper" else Profile.FULL
    slices = torch.cat((members[0].slices, others[0].slices))
    error = _reconstruction_losses(codec, slices, profile)
    ways = {"reconstruction error": -error}
    if surrogate is not None:
        ways["reconstruction error, compared with another codec's"] = (
            _reconstruction_losses(surrogate, slices, profile) - error
        )
    return _by_patient(ways, members, others, setting, seed, started)


def measure_network_membership(
    network: LocalNetwork,
    compared_with: Sequence[LocalNetwork],
    members: Cases,
    others: Cases,
    seed: int,
    *,
    setting: str = "a shared network",
) -> list[Finding]:
    """Membership by the segmentation loss of a network that a site shares, alone and compared with other networks'.

    :param compared_with: other members' networks, at least one. Where they learned together these have learned from
        the cases too, but less directly.
    :param members, others: labelled cases that the network was and was not trained on; no patient is in both, and all
        are of the same kind.
    """
    started = time.monotonic()
    cases = (members[0], others[0])
    loss = torch.cat([_segmentation_losses(network, part) for part in cases])
    usual = torch.stack(
        [torch.cat([_segmentation_losses(other, part) for part in cases]) for other in compared_with]
    ).mean(dim=0)
    ways = {"loss alone": -loss, "loss, compared with other members' networks": usual - loss}
    return _by_patient(ways, members, others, setting, seed, started)


def _by_patient(
    ways: Mapping[str, Tensor], members: Cases, others: Cases, setting: str, seed: int, started: float
) -> list[Finding]:
    """What each way to score slices ``(n,)``, the members' first, says of the patients: the mean over their slices."""
    patient = torch.cat((members[1][members[0].case], others[1][others[0].case]))
    inside = torch.cat((torch.ones(len(members[0]), dtype=torch.bool), torch.zeros(len(others[0]), dtype=torch.bool)))
    names, of_slice = torch.unique(patient, return_inverse=True)
    counts = torch.bincount(of_slice).double()
    is_member = torch.zeros(len(names), dtype=torch.bool).index_fill(0, of_slice[inside], value=True)
    findings = []
    for name, scores in ways.items():
        mean = torch.zeros(len(names), dtype=torch.float64).index_add(0, of_slice, scores) / counts
        decisions = Decisions(mean, is_member, torch.arange(len(names)))
        findings += decision_findings(name, setting, decisions, seed, time.monotonic() - started)
    return findings


def _reconstruction_losses(codec: Codec, slices: Tensor, profile: Profile) -> Tensor:
    rebuilt = codec.reconstruct_images(codec.encode_images(slices), profile).to("cpu").float()
    error = (rebuilt - slices).square().flatten(1).mean(dim=1).double()
    return torch.as_tensor(error.clamp_min(1e-12).log())


def _segmentation_losses(network: LocalNetwork, cases: SliceSet) -> Tensor:
    likelihood = predict_locally(network, cases.slices).cpu().clamp_min(1e-12).log()
    error = F.nll_loss(likelihood, cases.known_labels.long(), reduction="none").flatten(1).mean(dim=1).double()
    return torch.as_tensor(error.clamp_min(1e-12).log())

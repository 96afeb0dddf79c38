"""A local network that a site trained on its own cases, as it is kept and as the consortium's members get it.

The file is safetensors: the weights of a :class:`~ppcmi.codec.local_network.LocalNetwork` and one JSON document in the
metadata. Members average the weights of networks that went on from the same start (federated averaging, McMahan et al.
2017, "Communication-efficient learning of deep networks from decentralized data").
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from ppcmi.codec.codec import DAMAGE, Codec
from ppcmi.codec.local_network import LocalNetwork, build_local_network
from ppcmi.codec.presets import read_metadata
from ppcmi.errors import CodecError
from ppcmi.files import write_atomically
from ppcmi.strict_json import is_whole
from ppcmi.task import Task

FORMAT = "ppcmi-network/1"
MOST_CASES = 1_000_000
MAXIMUM_NETWORK_BYTES = 64 << 20
LARGEST_VALUE = 1e4
"""No trained network comes near it, and larger ones would spoil every mean they are in."""

MOST_OF_THE_SMALLER = 3
"""A network counts in a mean at most so many times as often as the (lower) median of all: cases are only claimed."""

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class TrainedNetwork:
    """Weights, and what a mean needs to know of them.

    :param codec: fingerprint of the codec whose network this one went on from.
    :param cases: labelled cases that it learned from, at least 1: what it counts in a mean.
    :param last: whether it is of the last round of its training, so that nobody need wait for another one.
    :param weights: as ``LocalNetwork.state_dict`` gives them, on the CPU.
    :param mixes: whether its site, having compared, uses the mean with the others' networks; not so if their mean was
        worse there.
    """

    codec: str
    cases: int
    last: bool
    weights: Weights
    mixes: bool = True

    @classmethod
    def of(cls, network: LocalNetwork, codec: Codec, cases: int, *, last: bool) -> TrainedNetwork:
        """A copy of what ``network`` knows now."""
        weights = {name: values.detach().cpu().clone() for name, values in network.state_dict().items()}
        return cls(codec.fingerprint, cases, last, weights)

    def to_bytes(self) -> bytes:
        """The file's content."""
        document = {"format": FORMAT, "codec": self.codec, "cases": self.cases, "last": self.last, "mixes": self.mixes}
        tensors = {name: values.contiguous() for name, values in self.weights.items()}
        return safetensors.torch.save(tensors, {"ppcmi": json.dumps(document, sort_keys=True)})

    @classmethod
    def from_bytes(cls, content: bytes, codec: Codec) -> TrainedNetwork:
        """What :meth:`to_bytes` wrote, checked against ``codec``: another site may have made it.

        :raises CodecError: if it is damaged, of another codec or shape, or has weights that are no numbers.
        """
        try:
            document = json.loads(read_metadata(content)["ppcmi"])
            made_for, cases, last, mixes = (document[name] for name in ("codec", "cases", "last", "mixes"))
            if (
                document["format"] != FORMAT
                or not is_whole(cases)
                or not 1 <= cases <= MOST_CASES
                or not all(isinstance(told, bool) for told in (last, mixes))
            ):
                raise ValueError("not what the format asks for")
            weights = safetensors.torch.load(content)
        except DAMAGE as error:
            raise CodecError("The network is damaged, or of another version of ppcmi.") from error
        if made_for != codec.fingerprint:
            raise CodecError("The network went on from another codec.")
        expected = codec.local.state_dict()
        if weights.keys() != expected.keys() or not all(
            _fits(name, weights[name], expected[name]) for name in expected
        ):
            raise CodecError("The network is not of the codec's form.")
        return cls(made_for, cases, last, weights, mixes)

    def save(self, path: Path) -> None:
        """Write the file, by rename.

        :raises WriteError: if it cannot be written.
        """
        write_atomically(path, self.to_bytes())

    @classmethod
    def load(cls, path: Path, codec: Codec) -> TrainedNetwork:
        """Read :meth:`save`.

        :raises CodecError: as :meth:`from_bytes`, or if the file cannot be read.
        """
        try:
            if path.stat().st_size > MAXIMUM_NETWORK_BYTES:
                raise CodecError("The site's network is larger than 64 MiB; refine it again.")
            content = path.read_bytes()
        except OSError as error:
            raise CodecError("The site's network cannot be read; refine it again.") from error
        return cls.from_bytes(content, codec)


def network_bytes(task: Task, cases: int) -> int:
    """The size of the file of a network for ``task`` that learned from ``cases``; it needs no codec."""
    with torch.device("meta"):  # nothing is drawn at random for it
        network = build_local_network(task.slicing.channels, task.classes, task.slicing.size)
    weights = {name: torch.zeros(values.shape, dtype=values.dtype) for name, values in network.state_dict().items()}
    return len(TrainedNetwork("0" * 32, max(1, cases), last=True, weights=weights).to_bytes())


def mean_weights(networks: Sequence[TrainedNetwork]) -> dict[str, Tensor]:
    """The mean of the networks' weights, each counting as often as it has cases, up to :data:`MOST_OF_THE_SMALLER`.

    :param networks: at least one, all of one codec.
    """
    most = MOST_OF_THE_SMALLER * statistics.median_low(network.cases for network in networks)
    counts = [min(network.cases, most) for network in networks]
    mean = {}
    for name, first in networks[0].weights.items():
        summed = torch.zeros(first.shape, dtype=torch.float64)
        for network, count in zip(networks, counts, strict=True):
            summed += network.weights[name].double() * (count / sum(counts))
        mean[name] = summed.to(first.dtype)
    return mean


def _fits(name: str, values: Tensor, expected: Tensor) -> bool:
    """Whether received values have the form of the expected ones and could be theirs."""
    if values.shape != expected.shape or values.dtype != expected.dtype:
        return False
    if values.is_floating_point() and not bool(
        (values.abs() <= LARGEST_VALUE).all()
    ):  # what is no number is not, either
        return False
    return not name.endswith("running_var") or bool((values >= 0).all())

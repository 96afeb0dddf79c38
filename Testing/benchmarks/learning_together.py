"""Sites that learn together in one process: a thread each, the product's rounds, and no server between them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from benchmarks.federation import Site
from benchmarks.kept import show
from ppcmi.codec.codec import Codec
from ppcmi.codec.refinement import USUAL_WEIGHT_TOGETHER, RefinementConfig, SiteDecoder
from ppcmi.codec.together import learn_together
from ppcmi.codec.trained_network import TrainedNetwork, mean_weights


class _Table:
    """What all sites have shared; a round begins when all have."""

    def __init__(self, sites: int) -> None:
        self.networks: dict[str, TrainedNetwork] = {}
        self.barrier = threading.Barrier(sites)


class _Neighbors:
    """One site's :class:`~ppcmi.codec.together.Members`."""

    def __init__(self, table: _Table, name: str) -> None:
        self._table, self._name = table, name

    def networks(self) -> Sequence[TrainedNetwork]:
        self._table.barrier.wait()
        found = [network for name, network in sorted(self._table.networks.items()) if name != self._name]
        self._table.barrier.wait()  # nobody shares the next round's before everybody has read this one's
        return found

    def share(self, network: TrainedNetwork) -> None:
        self._table.networks[self._name] = network

    def left_out(self, network: TrainedNetwork) -> None:
        print(f"  {self._name} left a network out", flush=True)


def learn_in_step(
    codec: Codec, sites: Sequence[Site], config: RefinementConfig
) -> tuple[dict[str, SiteDecoder], dict[str, TrainedNetwork]]:
    """Every site's decoder after ``config.rounds`` rounds of all of them, "" is that of a member without labels; and
    the network that each site shared last."""
    table = _Table(len(sites))

    def learn(site: Site) -> SiteDecoder:
        try:
            neighbors = _Neighbors(table, site.name)
            return learn_together(codec, site.train, site.validation, neighbors, config, report=show)[0]
        except BaseException:
            table.barrier.abort()  # else the other sites would wait for ever
            raise

    with torch.random.fork_rng(), ThreadPoolExecutor(len(sites)) as threads:
        decoders = dict(zip([site.name for site in sites], threads.map(learn, sites), strict=True))
    decoders[""] = SiteDecoder(codec)
    decoders[""].usual_weight = USUAL_WEIGHT_TOGETHER
    decoders[""].local.load_state_dict(mean_weights([table.networks[site.name] for site in sites]))
    return decoders, table.networks

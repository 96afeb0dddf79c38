"""The baseline: what each site reaches alone, with the same network trained as long, and nothing from others."""

from __future__ import annotations

import torch

from ppcmi.codec.local_network import LocalNetwork, build_local_network
from ppcmi.codec.refinement import RefinementConfig
from ppcmi.codec.slice_set import read_slice_set
from ppcmi.codec.training import predict_locally, train_local_network
from ppcmi.data_folders import CaseFiles
from ppcmi.slicing import restore_labels, slice_volume
from ppcmi.task import Task
from ppcmi.volume import Volume

SEED = 1


def train_alone(cases: list[CaseFiles], task: Task, effort: float) -> LocalNetwork:
    """A network trained on one site's cases from nothing, for as many steps as the site's refinement."""
    labelled, config = read_slice_set(cases, task), RefinementConfig().local.scaled(effort)
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        network = build_local_network(task.slicing.channels, task.classes, task.slicing.size)
    train_local_network(network, labelled, config, torch.Generator().manual_seed(SEED))
    return network.eval()


def segment_alone(network: LocalNetwork, volume: Volume, task: Task) -> Volume:
    """Labels on the volume's grid without any server."""
    slices, grid = slice_volume(volume, task)
    return restore_labels(predict_locally(network, torch.from_numpy(slices)).cpu().numpy(), grid)

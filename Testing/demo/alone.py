"""The baseline: what each site reaches alone, with the same network trained as long in all, and nothing from others.

It needs nothing from the server, so it is trained in a process of its own while the story is played.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_model, save_model

from demo.story import DemoError
from ppcmi.codec.local_network import LocalNetwork, build_local_network
from ppcmi.codec.refinement import RefinementConfig
from ppcmi.codec.slice_set import read_slice_set
from ppcmi.codec.training import CodecTrainingConfig, predict_locally, train_local_network
from ppcmi.data_folders import CaseFiles
from ppcmi.slicing import restore_labels, slice_volume
from ppcmi.task import Task
from ppcmi.volume import Volume

SEED = 1


class AloneTrainings:
    """Every site's network alone, under way until the context ends.

    :param cases: labelled ones, by the site's letter.
    :param folder: where the networks are kept.
    """

    def __init__(self, cases: Mapping[str, list[CaseFiles]], task: Task, effort: float, folder: Path) -> None:
        folder.mkdir()
        self._task, self._folder = task, folder
        self._process = multiprocessing.get_context("spawn").Process(
            target=_train_all, args=(dict(cases), task, effort, folder), daemon=True
        )
        self._process.start()

    def __enter__(self) -> AloneTrainings:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join()

    def network(self, letter: str) -> LocalNetwork:
        """A site's network, once all are trained.

        :raises DemoError: if the training failed.
        """
        self._process.join()
        if self._process.exitcode != 0:
            raise DemoError("Training each site alone failed; what it printed says why.")
        network = _new_network(self._task)
        load_model(network, self._folder / f"{letter}.safetensors")
        return network.eval()


def _train_all(cases: Mapping[str, list[CaseFiles]], task: Task, effort: float, folder: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it ends it
    torch.set_num_threads(1)  # the other cores play the story
    for letter, own in cases.items():
        save_model(train_alone(own, task, effort), str(folder / f"{letter}.safetensors"))


def train_alone(cases: list[CaseFiles], task: Task, effort: float) -> LocalNetwork:
    """A network trained on one site's cases from nothing, for as many steps as the codec's and its refinement."""
    labelled = read_slice_set(cases, task)
    shared, own = CodecTrainingConfig().local, RefinementConfig().local
    steps = shared.minimum_steps + own.minimum_steps
    config = replace(own, epochs=shared.epochs + own.epochs, minimum_steps=steps).scaled(effort)
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        network = _new_network(task)
    train_local_network(network, labelled, config, torch.Generator().manual_seed(SEED))
    return network.eval()


def segment_alone(network: LocalNetwork, volume: Volume, task: Task) -> Volume:
    """Labels on the volume's grid without any server."""
    slices, grid = slice_volume(volume, task)
    return restore_labels(predict_locally(network, torch.from_numpy(slices)).cpu().numpy(), grid)


def _new_network(task: Task) -> LocalNetwork:
    return build_local_network(task.slicing.channels, task.classes, task.slicing.size)

"""How good the server's network is while it is trained: Dice of its decoded answers at each checkpoint, by time."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.kept import show_umn
from ppcmi_server.umn.model import TrainedUmn, UmnDescription, build_network
from ppcmi_server.umn.training import EpochReport, Watching

Points = list[tuple[float, float]]
"""Seconds of training so far, and Dice."""


class Curve:
    """Takes the place of a training's checkpoints: it scores the averaged weights of each.

    :param file: where the points are kept.
    :param score: Dice of a network's answers; its time does not count.
    """

    def __init__(self, file: Path, description: UmnDescription, score: Callable[[TrainedUmn], float]) -> None:
        self.file, self.description, self.score = file, description, score
        self.points: Points = []
        self.seconds = 0.0
        """Of the epochs that are done."""
        self._scoring = 0.0
        """Seconds of the present epoch that were not training."""
        self.watching = Watching(report=self._count)

    def _count(self, report: EpochReport) -> None:
        self.seconds += report.seconds - self._scoring
        self._scoring = 0.0
        show_umn(report)

    def save(self, state: Mapping[str, Any]) -> None:
        """Score the weights of this moment."""
        started = time.monotonic()
        within_epoch = state["batches"] > 0
        seconds = self.seconds + (state["seconds"] - self._scoring if within_epoch else 0.0)
        network = build_network(self.description)
        network.load_state_dict(copy.deepcopy(state["averaged"]))
        self.points.append((seconds, self.score(TrainedUmn(self.description, network))))
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(self.points))
        if within_epoch:
            self._scoring += time.monotonic() - started

    def newest_first(self) -> Iterator[Mapping[str, Any]]:
        """None: what was cut off begins anew."""
        return iter(())


def read_points(file: Path) -> Points:
    """What a training kept; empty if there was none."""
    return [(float(seconds), float(dice)) for seconds, dice in json.loads(file.read_text())] if file.exists() else []


def seconds_to(points: Points, dice: float) -> float | None:
    """Training time after which a checkpoint first had this Dice; None if none had."""
    return next((seconds for seconds, reached in points if reached >= dice), None)

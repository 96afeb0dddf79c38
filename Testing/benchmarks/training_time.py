"""How soon the server's network is as good as the published one: ``python -m benchmarks.training_time DATA``.

Good is the Dice of decoded answers for validation cases, which nobody trained on; the published network's is that of
its end. Ours, in ``coarse``, with the usual codec and with one that is not minimized, is trained anew, as for the
tables, and asked at its checkpoints, one a minute and one at each epoch's end; asking does not count. Of the published
one, which ``make bench-accuracy`` trained, some steps are timed in the same run: its training is as many steps as it
took.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch

from benchmarks.accuracy import Run, answered
from benchmarks.accuracy_budget import budget
from benchmarks.accuracy_report import MINIMIZED, PAPER, TRAINING_TIME, report
from benchmarks.bench.curve import Curve, read_points, seconds_to
from benchmarks.federation import Member, PlainLatents, join_consortium, received_together
from benchmarks.results import REPOSITORY
from benchmarks.sites import SITES, SMALLEST_PAPER_SLICE, TASKS
from ppcmi.codec.codec import Codec
from ppcmi.codec.presets import image_channels
from ppcmi.codec.quality import mean_dice
from ppcmi.errors import CancelledError
from ppcmi.scales import Profile
from ppcmi.task import load_task
from ppcmi_server.umn.batches import epoch_batches
from ppcmi_server.umn.config import UmnConfig
from ppcmi_server.umn.model import TrainedUmn
from ppcmi_server.umn.training import Watching, train_umn
from support.descriptions import describe_umn

TIMED_STEPS = 4


def measure(run: Run, make: Callable[[], tuple[Codec, list[PlainLatents]]], name: str) -> dict[str, object]:
    """Seconds of both trainings, and the points of ours.

    :param make: our codec, and what every site exports with it.
    """
    codec, plains = make()
    members, exported = run.published_sites()
    published = run.networks.umn(PAPER, list(members.values()), exported, run.budget.paper_umn)
    goal = validation_dice(run, members, published)
    theirs = training_seconds(list(members.values()), exported, run.budget.paper_umn)

    ours = {site: join_consortium(codec, Profile.COARSE, link_key=bytes([n]) * 32) for n, site in enumerate(SITES, 1)}
    config = run.budget.umn
    size, channels = run.task.slicing.size, image_channels(codec.preset)
    description = describe_umn(config.preset, config.profile, size, (codec.fingerprint,), channels)
    file = run.networks.folder / f"curve-{codec.preset}.json"
    curve = Curve(file, description, lambda umn: validation_dice(run, ours, umn))
    run.networks.umn(name, list(ours.values()), plains, config, curve)
    points = read_points(file)
    return {
        "published_dice": goal, "published_seconds": theirs, "curve": points,
        "reached_dice": max(dice for _, dice in points), "needed_seconds": seconds_to(points, goal),
    }  # fmt: skip


def validation_dice(run: Run, members: Mapping[str, Member], umn: TrainedUmn) -> float:
    """Of the server's part alone, the mean over sites."""
    judged = [(members[site.name], site.validation) for site in run.sites if site.validation is not None]
    return statistics.mean(mean_dice(answered(m, cases, umn), cases, run.task.classes) for m, cases in judged)


def training_seconds(members: Sequence[Member], plains: Sequence[PlainLatents], config: UmnConfig) -> float:
    """Of a whole training: the median of some steps, the first left out, which warms up, times their number."""
    dataset = received_together(members, plains)
    once = len(epoch_batches(dataset, torch.arange(len(dataset)), config.batch_size, 1, torch.Generator()))
    started: list[float] = []

    def should_stop() -> bool:
        started.append(time.monotonic())
        return len(started) > TIMED_STEPS + 1

    with suppress(CancelledError):
        train_umn(dataset, config, watching=Watching(should_stop=should_stop), checkpoint_s=math.inf)
    steps = [after - before for before, after in pairwise(started[1:])]
    return statistics.median(steps) * max(config.minimum_steps, once * config.epochs)


def main() -> int:
    """Measure, keep the row, write docs/results/accuracy.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a data folder, as for make bench-accuracy")
    parser.add_argument("--store", type=Path, default=Path("bench-output"), help="where finished rows are kept")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    name = options.data.name
    task = load_task(REPOSITORY / "Resources" / "Tasks" / f"{TASKS[name]}.json")
    if task.slicing.size[0] < SMALLEST_PAPER_SLICE:
        print(f"{name}: its slices are too small for the published network.")
        return 0
    run = Run(options.data, task, None, budget(task, False), options.store / f"accuracy-{name}-all.json")
    for name, make in ((TRAINING_TIME + MINIMIZED, run.minimized_codec), (TRAINING_TIME, run.autoencoder_codec)):
        run.row(name, partial(measure, run, make, name))
    report(options.store)
    return 0


if __name__ == "__main__":
    sys.exit(main())

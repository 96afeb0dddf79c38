"""What a training on more data than memory takes: ``python -m benchmarks.service_large_training``.

Latents of 256 x 256 slices in profile ``coarse``, made up, in an encrypted scratch file; some steps of the default
network and a validation, in a process of its own. Beside it the same on data of a few batches in memory: the difference
is what the data cost. The numbers go to docs/results/service.json.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import torch

from benchmarks.results import Measurement, here_and_now, measure, measurement
from ppcmi.errors import CancelledError
from ppcmi.latents import Latents
from ppcmi.scales import Profile, scale_shapes
from ppcmi_server.training.predictability import sample_positions, skills_of_sites
from ppcmi_server.umn.config import UmnConfig
from ppcmi_server.umn.dataset import LatentDataset
from ppcmi_server.umn.scratch import MemoryLatents, ScratchLatents
from ppcmi_server.umn.training import Watching, train_umn

COMMAND = "python -m benchmarks.service_large_training"
LARGE_BYTES, SMALL_BYTES = 5 << 30, 64 << 20
STEPS = 6
SLICES_OF_CASE = 32
SHAPES = scale_shapes((256, 256), Profile.COARSE.scales)
SLICE_BYTES = 2 * 2 * sum(channels * rows * columns for channels, rows, columns in SHAPES.values())


def large_training() -> list[Measurement]:
    """Both, each in its own process."""
    origin, found = here_and_now(), {}
    for name, size in (("large", LARGE_BYTES), ("small", SMALL_BYTES)):
        command = [sys.executable, "-m", "benchmarks.service_large_training", "--process", str(size)]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found[name] = json.loads(out.splitlines()[-1])
    beyond = (found["large"]["peak_mib"] - found["small"]["peak_mib"]) / 1024
    title = "training on latents of 5 GiB"

    def row(name: str, value: float, unit: str, at_most: float | None = None) -> Measurement:
        return measurement(f"{title}: {name}", value, unit, command=COMMAND, origin=origin, at_most=at_most)

    return [
        row("memory beyond a training on 64 MiB", beyond, "GiB", 1.0),
        row("largest resident memory", found["large"]["peak_mib"] / 1024, "GiB"),
        row("writing to the scratch file", found["large"]["write_mib_s"], "MiB/s"),
        row("a step, of one on latents in memory", found["large"]["step_s"] / found["small"]["step_s"], "x"),
    ]


def train_some_steps(size: int) -> None:
    """What the processes do: fill, examine, train some steps; prints its numbers."""
    count = size // SLICE_BYTES // SLICES_OF_CASE * SLICES_OF_CASE
    with tempfile.TemporaryDirectory() as folder:
        small = size <= SMALL_BYTES
        images, masks = (
            MemoryLatents(count, SHAPES) if small else ScratchLatents(Path(folder), count, SHAPES) for _ in range(2)
        )
        case = torch.arange(count) // SLICES_OF_CASE
        dataset = LatentDataset(
            images, masks, ("c",), torch.zeros_like(case), case, torch.zeros_like(case), ("a", "b", "c"), case % 3
        )
        generator, started = torch.Generator().manual_seed(1), time.monotonic()
        for first in range(0, count, SLICES_OF_CASE):
            for room in (images, masks):
                values = {s: torch.randn(SLICES_OF_CASE, *shape, generator=generator) for s, shape in SHAPES.items()}
                room.put(first, Latents(values).map(lambda _, v: v.half()))
        write_s = time.monotonic() - started
        skills_of_sites(sample_positions(dataset))
        steps: list[float] = []

        def stop() -> bool:
            steps.append(time.monotonic())
            return len(steps) > STEPS

        with suppress(CancelledError):
            train_umn(dataset, UmnConfig(epochs=1), watching=Watching(should_stop=stop))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    step_s = (steps[-1] - steps[1]) / (len(steps) - 2)
    print(json.dumps({"peak_mib": peak, "write_mib_s": size / (1 << 20) / write_s, "step_s": step_s}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--process"]:
        train_some_steps(int(sys.argv[2]))
    else:
        sys.exit(measure("service", {"large-training": large_training}))

"""What protecting costs beside encoding, and mapping beside the published network: ``make bench-cost``.

Both layers of the KLT, keys derived anew, on 128 slices of 256 x 256, in turn with the default encoder on the same
slices, on one core: a ratio of one run on one machine. Mapping networks are compared by the operations of a slice. No
data are needed; nothing here depends on what is in a slice.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.results import SEPARATOR, Measurement, here_and_now, measurement, merge
from ppcmi.codec.codec import Codec
from ppcmi.klt.inner import InnerLayer
from ppcmi.klt.link import LinkLayer
from ppcmi.latents import Latents
from ppcmi.scales import Profile, Stream, scale_shapes
from ppcmi.task import load_task
from ppcmi_server.umn.model import Preset, TrainedUmn, build_network
from support.descriptions import describe_umn

SLICES, SIZE, ROUNDS = 128, 256, 5
COMMAND = "make bench-cost"
TASK = Path(__file__).resolve().parents[2] / "Resources" / "Tasks" / "fetal-head-us.json"


def seconds(action: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def main() -> int:
    """Measure and write docs/results/cost.json."""
    torch.set_num_threads(1)
    merge("cost", [*protecting(), *mapping()])
    return 0


def protecting() -> list[Measurement]:
    """Seconds of both layers to the encoder's."""
    task = load_task(TASK)
    codec = Codec(task, "autoencoder")
    slices = torch.rand(SLICES, task.slicing.channels, SIZE, SIZE)
    found = []
    for profile in (Profile.FULL, Profile.COARSE, Profile.MINIMAL):
        shapes = scale_shapes((SIZE, SIZE), profile.scales)
        latents = Latents({scale: torch.randn(SLICES, *shape) for scale, shape in shapes.items()})

        def protect(latents: Latents = latents) -> None:
            inner, link = InnerLayer(os.urandom(32), task.identity), LinkLayer(os.urandom(32), task.identity)
            link.apply(inner.apply(latents, Stream.IMAGE), Stream.IMAGE, os.urandom(16))

        protect()
        codec.encode_images(slices)
        rounds = [(seconds(protect), seconds(lambda: codec.encode_images(slices))) for _ in range(ROUNDS)]
        ratio = statistics.median(ours / encoder for ours, encoder in rounds)
        name = SEPARATOR.join((f"{profile}, {SLICES} slices of {SIZE} x {SIZE}", "both layers, time to the encoder's"))
        found.append(measurement(name, ratio, "ratio", command=COMMAND, origin=here_and_now(), at_most=1.0))
        print(f"{name}: {ratio:.3f}")
    return found


def mapping() -> list[Measurement]:
    """Operations of a slice, the default mapping network's to the published one's."""
    published = _flops("paper", Profile.PAPER)
    found = []
    for profile in (Profile.FULL, Profile.COARSE, Profile.MINIMAL):
        name = SEPARATOR.join(
            (f"{profile}, a slice of {SIZE} x {SIZE}", "mapping network, FLOPs to the published one's")
        )
        ratio = _flops("default", profile) / published
        found.append(measurement(name, ratio, "ratio", command=COMMAND, origin=here_and_now(), at_most=0.1))
        print(f"{name}: {ratio:.3f}")
    return found


def _flops(preset: Preset, profile: Profile) -> int:
    description = describe_umn(preset, profile, (SIZE, SIZE))
    return TrainedUmn(description, build_network(description)).flops()


if __name__ == "__main__":
    sys.exit(main())

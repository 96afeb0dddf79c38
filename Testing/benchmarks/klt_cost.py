"""What the KLT costs: milliseconds a slice on one core, for deriving and applying together, and for the inner layer.

Run: ``PYTHONPATH=PPCMISegment python Testing/benchmarks/klt_cost.py [slices] [rows]``
"""

import os
import sys
import time
from collections.abc import Callable
from functools import partial

import torch

from ppcmi.klt.inner import InnerLayer
from ppcmi.klt.link import LinkLayer
from ppcmi.klt.published import PublishedLayer
from ppcmi.latents import Latents, Profile, Stream, scale_shapes


def milliseconds(action: Callable[[], object], repeats: int = 5) -> float:
    """Best of several runs, without the first."""
    action()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def main() -> None:
    """Print one line for each profile and layer."""
    slices = int(sys.argv[1]) if len(sys.argv) > 1 else 128
    rows = int(sys.argv[2]) if len(sys.argv) > 2 else 256
    torch.set_num_threads(1)
    link, inner, published = (layer(bytes(32), "phantom@1") for layer in (LinkLayer, InnerLayer, PublishedLayer))
    print(f"{slices} slices of {rows} x {rows}, one core, ms a slice")
    nonce = os.urandom(16)
    for profile in (Profile.FULL, Profile.COARSE, Profile.MINIMAL):
        shapes = scale_shapes((rows, rows), profile.scales)
        latents = Latents({scale: torch.randn(slices, *shape) for scale, shape in shapes.items()})
        costs = {
            "link apply": milliseconds(partial(link.apply, latents, Stream.IMAGE, nonce)),
            "link invert": milliseconds(partial(link.invert, latents, Stream.IMAGE, nonce)),
            "inner apply": milliseconds(partial(inner.apply, latents, Stream.IMAGE)),
            "published apply": milliseconds(partial(published.apply, latents, Stream.IMAGE, nonce)),
        }
        print(f"{profile:8}", *(f"{name} {cost / slices:.3f}" for name, cost in costs.items()), sep="   ")


if __name__ == "__main__":
    main()

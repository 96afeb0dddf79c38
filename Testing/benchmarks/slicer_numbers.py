"""How the Slicer side behaves on a workstation: ``make bench-slicer``, numbers in docs/results/slicer.json.

No data are needed: the site, its server and its scans are made for the measurement. ``python -m
benchmarks.slicer_numbers NAME...`` measures only those named.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.results import SEPARATOR, Measurement, here_and_now, measure, measurement
from benchmarks.slicer_panel import panel
from support.resident_memory import memory_of_a_batch
from support.trained_site import PPCMI, trained_site

COMMAND = "make bench-slicer"
VOLUMES, EARLY, WINDOW = 500, 100, 20


def batch_memory() -> list[Measurement]:
    """What one run over 500 volumes of 145 000 voxels holds at its end beyond what it held after 100."""
    with tempfile.TemporaryDirectory(prefix="ppcmi-bench-") as scratch, trained_site(Path(scratch)) as site:
        held = memory_of_a_batch(site, site.images[0], VOLUMES, Path(scratch), [*PPCMI, "segment"])
    early, late = max(held[EARLY - WINDOW : EARLY]), max(held[VOLUMES - WINDOW :])
    name = SEPARATOR.join((f"a batch of {VOLUMES} volumes", f"resident memory after {VOLUMES} less that after {EARLY}"))
    return [measurement(name, late - early, "MiB", command=COMMAND, origin=here_and_now(), at_most=10)]


MEASURED: Mapping[str, Callable[[], list[Measurement]]] = {
    "panel": panel,
    "batch-memory": batch_memory,
}
"""What can be measured, by the name to ask for it."""


if __name__ == "__main__":
    sys.exit(measure("slicer", MEASURED))

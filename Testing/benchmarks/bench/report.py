"""From finished rows to docs/results and the page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.bench.page import Contents, page
from benchmarks.bench.table import measurements, read_tables
from benchmarks.bench.targets import byte_targets, targets
from benchmarks.results import RESULTS, Measurement, merge
from ppcmi.files import write_atomically

NAMES = {"whole": "bench", "quick": "bench-quick"}
COMMANDS = {"whole": "make bench DATA=...", "quick": "make bench DATA=... BENCH_ARGS=--quick"}
TITLES = {"whole": "All systems, side by side", "quick": "All systems, side by side: a quick run"}
NOTES = {
    "whole": "Every system on the same patients, scored on the volumes' own voxels.",
    "quick": "Few cases and short training on a CPU. This shows that every row can be measured and what the systems "
    "cost. How good they are it cannot say: every system is far from converged, and the published ones, of which a "
    "training step takes some thirty times as long, have not learned anything yet. Dice after longer training is in "
    "RESULTS.md, section Accuracy.",
}
PUBLISHED_NOTE = (
    "The published networks need slices of 256 x 256 of one channel; hippocampus_mr, whose slices are 64 x 64, is "
    "scaled up for them. p is a two-sided Wilcoxon signed-rank test against the published system over patients. "
    "Training to the published Dice is the server's training time until its decoded answers for validation cases were "
    "as good as those of the published network at the end of its training."
)


def write_report(store: Path, budget: str, budgets: Sequence[str], *, complete: bool) -> Path:
    """Write what is measured so far: all numbers, the targets where they are asked, and the page.

    The whole benchmark's targets are the product's: they stand with the others in accuracy.json and speed.json. A quick
    run's stand for themselves.

    :param complete: nothing is left to measure.
    """
    name, command = NAMES[budget], COMMANDS[budget]
    tables, speed = read_tables(store), read_speed(store)
    asked = [*(targets(tables, command) if budget == "whole" else ()), *byte_targets(tables, command)]
    numbers = list(measurements(tables, command))
    contents = Contents(
        title=TITLES[budget],
        budgets=budgets,
        notes=(NOTES[budget], PUBLISHED_NOTE),
        tables=tables,
        targets=[*asked, *(number for number in speed if number.target is not None)],
        speed=speed,
    )
    path = RESULTS / f"{name}.html"
    write_atomically(path, page(contents).encode())
    if budget == "whole":
        merge("accuracy", asked)
        merge("speed", speed)
        merge(name, numbers, complete=complete)
    else:
        merge(name, [*asked, *numbers, *speed], complete=complete)
    return path


def keep_speed(store: Path, found: Sequence[Measurement]) -> None:
    """Keep the timings beside the rows."""
    store.mkdir(parents=True, exist_ok=True)
    write_atomically(store / "speed.json", json.dumps([asdict(number) for number in found], indent=1).encode())


def read_speed(store: Path) -> list[Measurement]:
    """The timings that were kept; none if there are none."""
    file = store / "speed.json"
    return [Measurement(**entry) for entry in json.loads(file.read_text())] if file.exists() else []

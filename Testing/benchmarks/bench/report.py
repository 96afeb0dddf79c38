"""From finished rows to docs/results and the page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.bench.page import Contents, page
from benchmarks.bench.table import measurements, read_tables
from benchmarks.bench.targets import byte_targets, targets
from benchmarks.results import RESULTS, Measurement, code, merge
from ppcmi.files import write_atomically

NAMES = {"whole": "bench", "quick": "bench-quick"}
COMMANDS = {"whole": "make bench DATA=...", "quick": "make bench DATA=... BENCH_ARGS=--quick"}
TITLES = {"whole": "All systems, side by side", "quick": "All systems, side by side: a quick run"}
NOTES = {
    "whole": "Every system on the same patients, scored on the volumes' own voxels.",
    "quick": "Few cases and short training on a CPU. This shows that every row can be measured and what the systems "
    "cost. How good they are it cannot say: every system is far from converged, and the published ones, of which a "
    "training step takes many times as long, have not learned anything yet. Dice after longer training is in "
    "RESULTS.md, section Accuracy.",
}
PUBLISHED_NOTE = (
    "The published networks need slices of 256 x 256 of one channel; hippocampus_mr, whose slices are 64 x 64, is "
    "scaled up for them. Below a score is its 95 % interval, a bootstrap over patients. p is a two-sided Wilcoxon "
    "signed-rank test against the published system over patients; it is left out where the published system's score, "
    "or its Dice, is the same for every patient, as that of a network is which has not learned anything. Where only "
    "one of truth and segmentation has a structure, HD95 and ASD are the diagonal of the image: a structure that is "
    "missed counts as the worst distance, it is not left out. Parameters of the server are those of all its networks,"
    " also where each site has one; a site's are those of the networks that it uses itself. Privacy-SF's bottleneck "
    "in place of pyramid pooling takes 14.6 of the server's 58.9 million parameters, 0.87 million of them the "
    "pooling's own. Training to the published Dice is the server's training time until its decoded answers for "
    "validation cases were as good as those of the published network at the end of its training."
)


def write_report(store: Path, budget: str, budgets: Sequence[str], *, complete: bool) -> Path:
    """Write what is measured so far: all numbers, the targets where they are asked, and the page.

    Targets stand in the same file as the rows that they are of: those in accuracy.json are of other trainings, and no
    run's may stand beside another's as if both were true. Timings are the same as those of ``make bench-speed``: the
    whole benchmark's take their place in speed.json, a quick run's stand for themselves.

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
        merge("speed", speed)
        merge(name, [*asked, *numbers], complete=complete)
    else:
        merge(name, [*asked, *numbers, *speed], complete=complete)
    return path


def keep_speed(store: Path, found: Sequence[Measurement]) -> None:
    """Keep the timings beside the rows."""
    store.mkdir(parents=True, exist_ok=True)
    kept = {"code": code(), "numbers": [asdict(number) for number in found]}
    write_atomically(store / "speed.json", json.dumps(kept, indent=1).encode())


def read_speed(store: Path) -> list[Measurement]:
    """The timings that were kept; none if there are none by the present code."""
    file = store / "speed.json"
    kept = json.loads(file.read_text()) if file.exists() else {}
    if not isinstance(kept, dict) or kept.get("code") != code():
        return []
    return [Measurement(**entry) for entry in kept["numbers"]]

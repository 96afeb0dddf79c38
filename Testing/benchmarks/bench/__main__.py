"""Measure all systems on both data sets, and write the tables, targets and the page: ``make bench DATA=folder``.

Every row is kept as it is finished, in ``--store``; a run that was cut off goes on, as long as the code is the same:
rows that other code measured are measured anew. The whole benchmark is for a GPU; ``--quick`` measures the rows on few
cases with short training, on two CPU cores in about half an hour: not the ablations of hippocampus_mr, whose slices
have to be scaled up for them, nor the time to the published Dice.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.bench.budgets import BUDGETS
from benchmarks.bench.report import COMMANDS, keep_speed, read_speed, write_report
from benchmarks.bench.rows import Bench
from benchmarks.bench.splits import DataSet
from benchmarks.kept import KeptRows
from benchmarks.results import REPOSITORY, machine
from benchmarks.sites import TASKS
from benchmarks.speed import measure_speed
from ppcmi.device import choose_device
from ppcmi.task import load_task

TASK_FILES = REPOSITORY / "Resources" / "Tasks"
SPEED = "speed"
ROUNDS_AND_SLICES = {"whole": (7, 128), "quick": (1, 32)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is not measured yet, then write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help=f"folder with {' and '.join(TASKS)}, or one of them")
    parser.add_argument("--quick", action="store_const", const="quick", default="whole", dest="budget")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU (default: 2)")
    parser.add_argument("--store", type=Path, default=Path("bench-output"), help="where finished rows are kept")
    parser.add_argument("--rows", default="", help="only rows with this in their data's, table's or own name")
    parser.add_argument("--minutes", type=float, default=None, help="begin no row after so long; the next run goes on")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    device, started = choose_device(options.device), time.monotonic()
    store = options.store / options.budget

    def late() -> bool:
        return options.minutes is not None and time.monotonic() - started > 60 * options.minutes

    benches = [_Measured(folder, options.budget, store, device) for folder in _folders(options.data)]
    left = sum(bench.measure(options.rows, late) for bench in benches)
    if options.rows in SPEED and not any(number.machine == machine(device) for number in read_speed(store)):
        if late():
            left += 1
        else:
            rounds, slices = ROUNDS_AND_SLICES[options.budget]
            keep_speed(store, measure_speed(device, rounds, slices, COMMANDS[options.budget]))
    complete = not (left or options.rows)
    page = write_report(
        store, options.budget, [f"{bench.name}, {bench.budget.says()}" for bench in benches], complete=complete
    )
    print(f"The page is {page.relative_to(REPOSITORY)}.", flush=True)
    if left:
        print(f"{left} rows are left to measure; run the same command again.", flush=True)
    return 0


class _Measured:
    """One data folder's rows, measured and kept."""

    def __init__(self, folder: Path, budget: str, store: Path, device: torch.device) -> None:
        self.name = folder.name
        self.budget = BUDGETS[budget](load_task(TASK_FILES / f"{TASKS[folder.name]}.json"))
        self.rows = KeptRows(store / f"{folder.name}.json", device, self.budget.says())
        limits = {"train": self.budget.train, "val": self.budget.validation, "test": self.budget.test}
        networks = store / f"{folder.name}-{self.rows.code}"
        self.bench = Bench(DataSet(folder, limits), self.budget, networks, device)

    def measure(self, wanted: str, late: Callable[[], bool]) -> int:
        """Measure the rows that have ``wanted`` in their names until it is ``late``; how many are left."""
        left, kept = 0, self.rows.rows
        for plan in self.bench.plans():
            if wanted not in f"{self.name}, {plan.key}":
                continue
            if plan.key not in kept and late():
                left += 1
                continue
            row = self.rows.row(plan.key, plan.measure)
            print(f"{self.name}, {plan.key}: {len(row['cases'])} cases, {row['seconds']:.0f} s", flush=True)
        return left


def _folders(data: Path) -> list[Path]:
    """The data folders: this one, or those in it."""
    return [data] if data.name in TASKS else [data / name for name in TASKS]


if __name__ == "__main__":
    sys.exit(main())

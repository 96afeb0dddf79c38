"""What the benchmark's numbers were asked to be: differences of rows, held against their bounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from benchmarks.bench.rows import ALONE, FOURTH, POOLED, SHIFTED, SITES, UNCOMPRESSED, ours, server_part, table_of
from benchmarks.bench.scoring import by_site
from benchmarks.bench.splits import Split
from benchmarks.bench.table import Table, mean_over_sites, metric, origin_of, seconds_to_published, table_named
from benchmarks.results import MEGABYTE, SEPARATOR, Measurement, measurement
from benchmarks.sites import TASKS
from ppcmi.scales import Profile

COARSE = ours(Profile.COARSE)
GAIN_OVER_PUBLISHED: Mapping[str, float] = {"hippocampus_mr": 0.03, "fetal_head_us": 0.0}
GAIN_OVER_ALONE: Mapping[int | None, float] = {5: 0.05, 20: 0.02, None: 0.0}
DISTANCE_TO_POOLED, SPREAD_OF_SITES, FOURTH_BEHIND = 0.01, 0.03, 0.03
LOSS_BY_BITS, MEGABYTES_A_SLICE = 0.005, 0.05
TRAINING_TIME = 0.1
SIZE_OF_THE_BYTES = "fetal_head_us"
"""Its slices are 256 x 256, as the published ones."""


def targets(tables: Sequence[Table], command: str) -> Iterator[Measurement]:
    """The targets whose rows are measured; Dice says nothing unless the networks were trained to convergence."""
    for data in TASKS:
        found = {t: table for t in (SITES, SHIFTED) if (table := table_named(tables, data, table_of(t)))}
        for table in found.values():
            yield from _of_sites(table, command)
        if SITES in found:
            yield from _of_three_sites(found[SITES], command)
        if SHIFTED in found and COARSE in found[SHIFTED].rows:
            dice = by_site(found[SHIFTED].rows[COARSE]["cases"], "dice").values()
            yield _held(
                found[SHIFTED], COARSE, "best site less worst", max(dice) - min(dice), command,
                at_most=SPREAD_OF_SITES,
            )  # fmt: skip
        for labelled, least in GAIN_OVER_ALONE.items():
            table = table_named(tables, data, table_of(Split("site", labelled=labelled)))
            if table and {COARSE, ALONE} <= table.rows.keys():
                gain = mean_over_sites(table.rows[COARSE]) - mean_over_sites(table.rows[ALONE])
                yield _held(table, COARSE, "gain over each site alone", gain, command, at_least=least)


def byte_targets(tables: Sequence[Table], command: str) -> Iterator[Measurement]:
    """What is asked of sizes, which no training changes."""
    table = table_named(tables, SIZE_OF_THE_BYTES, table_of(SITES))
    if table and COARSE in table.rows:
        megabytes = table.rows[COARSE]["bytes_a_slice"] / MEGABYTE
        yield _held(table, COARSE, "MB a slice, both directions", megabytes, command, "MB", at_most=MEGABYTES_A_SLICE)


def _of_sites(table: Table, command: str) -> Iterator[Measurement]:
    if table.paper and COARSE in table.rows:
        gain = _dice(table, COARSE) - _mean(table.paper)
        yield _held(
            table, COARSE, "gain over the published system", gain, command, at_least=GAIN_OVER_PUBLISHED[table.data]
        )


def _of_three_sites(table: Table, command: str) -> Iterator[Measurement]:
    rows = table.rows
    if {COARSE, POOLED} <= rows.keys():
        distance = _dice(table, POOLED) - _dice(table, COARSE)
        yield _held(table, COARSE, "distance to the pooled U-Net", distance, command, at_most=DISTANCE_TO_POOLED)
    if {COARSE, FOURTH} <= rows.keys():
        (late, dice), *_ = by_site(rows[FOURTH]["cases"], "dice").items()
        others = [value for site, value in by_site(rows[COARSE]["cases"], "dice").items() if site != late]
        behind = sum(others) / len(others) - dice
        yield _held(table, FOURTH, "behind the others", behind, command, at_most=FOURTH_BEHIND)
    if {COARSE, UNCOMPRESSED} <= rows.keys():
        loss = _dice(table, UNCOMPRESSED) - _dice(table, COARSE)
        yield _held(table, COARSE, "loss against float32", loss, command, at_most=LOSS_BY_BITS)
    part = server_part(Profile.COARSE)
    if table.paper and table.paper.get("curve") and rows.get(part, {}).get("curve"):
        seconds, dice = table.paper["curve"][-1]
        taken = seconds_to_published(rows[part], table.paper)
        if taken is not None:
            what = "training time to the published Dice, to the published system's"
            yield _held(table, part, what, taken / seconds, command, "ratio", at_most=TRAINING_TIME)
        else:
            short = dice - max(reached for _, reached in rows[part]["curve"])
            yield _held(table, part, "short of the published Dice at the training's end", short, command, at_most=0.0)


def _held(
    table: Table, row: str, what: str, value: float, command: str, unit: str = "Dice", **bound: float
) -> Measurement:
    name = SEPARATOR.join((f"{table.data}, {table.title}", row, what))
    return measurement(name, value, unit, command=command, origin=origin_of(table.rows[row]), **bound)


def _dice(table: Table, row: str) -> float:
    return _mean(table.rows[row])


def _mean(row: Mapping[str, object]) -> float:
    found = metric(row, "dice")
    return found.mean if found else float("nan")

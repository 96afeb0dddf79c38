"""From the rows that the accuracy benchmark kept to docs/results/accuracy.json: numbers, distances, targets."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.results import SEPARATOR, Measurement, Origin, measurement, merge

Row = Mapping[str, Any]

ALONE, POOLED, COARSE = "each site alone", "U-Net on pooled raw images", "private, coarse"
FULL = "private, full"
WITHOUT_LABELS = ", fourth member"
FOURTH = COARSE + WITHOUT_LABELS
PAPER = "private, paper codecs, UMN and protocol"
MINIMIZED = ", minimized codec"
"""Behind the names of rows of the usual codec; the others are of the preset ``autoencoder``."""

USUAL = COARSE + MINIMIZED
TOGETHER = ", learning together"
"""Behind the names of rows where members share their networks with each other."""
LABELS = {"all": "all labels", "few": "few labels", "shifted": "all labels, shifted sites"}
TRAINING_TIME = "training time to the published Dice"
LOWEST_DICE = {"hippocampus_mr": 0.82, "fetal_head_us": 0.94}
LARGEST_DISTANCE = 0.01
LARGEST_SPREAD = 0.03
"""Between the best and the worst of sites whose data differ, and between others and a member without labels."""
LEAST_GAIN = {
    ("hippocampus_mr", "few"): 0.05, ("hippocampus_mr", "20"): 0.02,
    ("fetal_head_us", "5"): 0.05, ("fetal_head_us", "few"): 0.02,
}  # fmt: skip
"""Of the default profile, with 5 and 20 labelled cases a site; elsewhere it must not be worse than a site alone."""
PUBLISHED_SIZE = ("fetal_head_us",)
"""Data whose slices have the published size for ours as well: only there a slice's FLOPs are comparable."""

LARGEST_LOSS_BY_BITS = 0.005
LARGEST_FLOP_SHARE = 0.1
LARGEST_TIME_SHARE = 0.1
NO_COMPARISON = (", server's part alone", ", member without labels", ", fourth member")
"""Rows that no site alone is the counterpart of."""


def report(store: Path) -> None:
    """Write what the files in ``store`` hold into docs/results/accuracy.json."""
    measurements: list[Measurement] = []
    for path in sorted(store.glob("accuracy-*.json")):
        data, labels = path.stem.removeprefix("accuracy-").rsplit("-", maxsplit=1)
        measurements += of_one_run(data, labels, json.loads(path.read_text()))
    merge("accuracy", measurements)


def of_one_run(data: str, labels: str, rows: Mapping[str, Row]) -> Iterator[Measurement]:
    """The numbers and targets of one data folder's kept rows with one label budget."""
    title = f"{data}, {LABELS.get(labels, f'{labels} labelled cases a site')}"
    command = f"make bench-accuracy DATA=.../{data}"

    def named(row: str, column: str, value: float, unit: str = "Dice", **bound: float) -> Measurement:
        found = rows[row]
        origin = Origin(str(found["commit"]), str(found["machine"]), str(found["date"]))
        return measurement(SEPARATOR.join((title, row, column)), value, unit, command=command, origin=origin, **bound)

    for name, row in rows.items():
        if "dice" not in row:
            continue
        yield named(name, "mean", row["dice"])
        for site, dice in row["by_site"].items():
            yield named(name, f"site {site}", dice)
        if ALONE in rows and name.startswith("private") and not name.endswith(NO_COMPARISON):
            least = LEAST_GAIN.get((data, labels), 0.0) if name in (COARSE, USUAL, USUAL + TOGETHER) else 0.0
            bound = {} if name == PAPER else {"at_least": least}  # the published system is measured, not promised
            yield named(name, "gain over each site alone", row["dice"] - rows[ALONE]["dice"], **bound)
    for name in (name for name in (COARSE, USUAL, USUAL + TOGETHER) if name in rows):
        dice, by_site = rows[name]["dice"], rows[name]["by_site"]
        if labels == "all":
            yield named(name, "mean Dice", dice, at_least=LOWEST_DICE[data])
        yield named(name, "distance to the pooled U-Net", rows[POOLED]["dice"] - dice, at_most=LARGEST_DISTANCE)
        if labels == "shifted":
            spread = max(by_site.values()) - min(by_site.values())
            yield named(name, "from the best to the worst site", spread, at_most=LARGEST_SPREAD)
    for name in (name for name in (COARSE, USUAL + TOGETHER) if {name, name + WITHOUT_LABELS} <= rows.keys()):
        fourth = rows[name + WITHOUT_LABELS]
        behind = statistics.mean(_others(fourth, rows[name])) - fourth["dice"]
        yield named(name + WITHOUT_LABELS, "behind the others", behind, at_most=LARGEST_SPREAD)
    yield from _losses_by_bits(rows, named)
    yield from _beside_published(data, rows, named)


def _others(fourth: Row, with_its_labels: Row) -> list[float]:
    """Dice of the members whose labels the fourth member's networks learned from.

    Rows that were measured before these were kept are compared with the same sites where its labels are used, too.
    """
    (unseen,) = fourth["by_site"]
    by_site = fourth.get("others") or with_its_labels["by_site"]
    return [dice for site, dice in by_site.items() if site != unseen]


def _losses_by_bits(rows: Mapping[str, Row], named: Callable[..., Measurement]) -> Iterator[Measurement]:
    for row, uncompressed, what in (
        (COARSE, f"{COARSE}, f32 bundles", "loss by i8 bundles"),
        (f"{COARSE}, i4 requests", f"{COARSE}, f32 bundles", "loss by i4 requests"),
        (f"{USUAL}, i4 requests", f"{USUAL}, f32 requests", "loss by i4 requests"),
    ):
        if row in rows and uncompressed in rows:
            loss = rows[uncompressed]["dice"] - rows[row]["dice"]
            yield named(row, what, loss, at_most=LARGEST_LOSS_BY_BITS)


def _beside_published(data: str, rows: Mapping[str, Row], named: Callable[..., Measurement]) -> Iterator[Measurement]:
    """Distances to the published system; what it reaches so briefly trained decides nothing, so they have no target."""
    for name in (name for name in (COARSE, USUAL, USUAL + TOGETHER) if {name, PAPER} <= rows.keys()):
        gain = rows[name]["dice"] - rows[PAPER]["dice"]
        yield named(name, "gain over the published", gain)
    if data in PUBLISHED_SIZE and {PAPER, FULL} <= rows.keys():
        share = rows[FULL]["umn_gflop"] / rows[PAPER]["umn_gflop"]
        yield named(FULL, "UMN's FLOPs to the published", share, "ratio", at_most=LARGEST_FLOP_SHARE)
    if {PAPER, FULL} <= rows.keys():
        server = f"{FULL}, server's part alone"
        yield named(server, "gain over the published", rows[server]["dice"] - rows[PAPER]["dice"])
    for name in (name for name in rows if name.startswith(TRAINING_TIME)):
        row = rows[name]
        short = row["published_dice"] - row["reached_dice"]
        yield named(name, "short of it at the training's end", short, at_most=0.0)
        if row["needed_seconds"] is not None:
            share = row["needed_seconds"] / row["published_seconds"]
            yield named(name, "of the published training's", share, "ratio", at_most=LARGEST_TIME_SHARE)

"""What the rows say: a number for each row and column, as the page, the plots and docs/results show them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bench.curve import seconds_to
from benchmarks.bench.published import PAPER
from benchmarks.bench.scoring import Estimate, by_site, estimate, paired_p
from benchmarks.results import HIGH, KILOBYTE, LOW, P_UNIT, SEPARATOR, Measurement, Origin, code, measurement
from benchmarks.sites import TASKS

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """A number of a row.

    :param value: from the row and the published system's row of the same table, which may not be there.
    """

    title: str
    unit: str
    value: Callable[[Row, Row | None], float | None]


def metric(row: Row, name: str) -> Estimate | None:
    """A score's mean over patients with its interval."""
    return estimate(row["cases"], name)


def mean_over_sites(row: Row) -> float:
    """Dice, each site counting the same."""
    sites = by_site(row["cases"], "dice")
    return sum(sites.values()) / max(1, len(sites))


def seconds_to_published(row: Row, paper: Row | None) -> float | None:
    """Seconds of the server's training after which its network was as good as the published one at its end."""
    if paper is None or not row.get("curve") or not paper.get("curve"):
        return None
    return seconds_to([(s, d) for s, d in row["curve"]], float(paper["curve"][-1][1]))


def _score(name: str) -> Callable[[Row, Row | None], float | None]:
    def value(row: Row, paper: Row | None) -> float | None:
        found = metric(row, name)
        return None if found is None else found.mean

    return value


def _bound(name: str, bound: str) -> Callable[[Row, Row | None], float | None]:
    def value(row: Row, paper: Row | None) -> float | None:
        found = metric(row, name)
        return None if found is None else float(getattr(found, bound))

    return value


def _fact(name: str, factor: float = 1.0) -> Callable[[Row, Row | None], float | None]:
    def value(row: Row, paper: Row | None) -> float | None:
        return factor * float(row[name]) if row.get(name) is not None else None

    return value


def _p(name: str) -> Callable[[Row, Row | None], float | None]:
    def value(row: Row, paper: Row | None) -> float | None:
        return None if paper is None or row is paper else paired_p(row["cases"], paper["cases"], name)

    return value


SCORES: Mapping[str, tuple[str, str]] = {
    "Dice": ("dice", "Dice"),
    "IoU": ("iou", "IoU"),
    "sensitivity": ("sensitivity", "share"),
    "specificity": ("specificity", "share"),
    "HD95": ("hd95_mm", "mm"),
    "ASD": ("asd_mm", "mm"),
}
"""Title of each score: what a case calls it, and its unit."""

PAIRED = ", p"
"""Behind a score's title: p of the test against the published system's row."""

COLUMNS = (
    *(
        column
        for title, (name, unit) in SCORES.items()
        for column in (
            Column(title, unit, _score(name)),
            Column(title + LOW, unit, _bound(name, "low")),
            Column(title + HIGH, unit, _bound(name, "high")),
            Column(title + PAIRED, P_UNIT, _p(name)),
        )
    ),
    Column("worst site", "Dice", lambda row, _: min(by_site(row["cases"], "dice").values(), default=None)),
    Column("KB a slice", "KB", _fact("bytes_a_slice", 1 / KILOBYTE)),
    Column("server's GFLOP", "GFLOP", _fact("umn_gflop")),
    Column("server's parameters", "million", _fact("umn_parameters", 1e-6)),
    Column("site's GFLOP", "GFLOP", _fact("site_gflop")),
    Column("site's parameters", "million", _fact("site_parameters", 1e-6)),
    Column("codec's PSNR", "dB", _fact("codec_psnr_db")),
    Column("codec's SSIM", "SSIM", _fact("codec_ssim")),
    Column("codec's mask Dice", "Dice", _fact("codec_mask_dice")),
    Column("training to the published Dice", "s", seconds_to_published),
)


@dataclass(frozen=True)
class Table:
    """Rows of one data set and one way to share it out, by name: raw images, ours, published."""

    data: str
    title: str
    rows: Mapping[str, Row]

    @property
    def paper(self) -> Row | None:
        """The published system's row."""
        return self.rows.get(PAPER.title)

    def beside(self, row: str) -> Row | None:
        """What a row is compared with: the published system's, with as many sites where rows differ in that."""
        return self.paper or self.rows.get(f"{PAPER.title}, {row.rsplit(', ', 1)[-1]}")

    def value(self, row: str, column: Column) -> float | None:
        """A number, None where it does not apply or is not defined."""
        found = column.value(self.rows[row], self.beside(row))
        return None if found is None or math.isnan(found) else found


def kind_of(row: str) -> int:
    """0 for networks on raw images, 1 for ours, 2 for the published systems."""
    if row.startswith("U-Net"):
        return 0
    return 1 if row.startswith("ours") else 2


def read_tables(store: Path) -> list[Table]:
    """What the present code has measured so far."""
    tables, present = [], code()
    for data in TASKS:
        file = store / f"{data}.json"
        kept: Mapping[str, Row] = json.loads(file.read_text()) if file.exists() else {}
        rows = {key: row for key, row in kept.items() if row.get("code") == present}
        titles = dict.fromkeys(key.split(SEPARATOR)[0] for key in rows)
        for title in titles:
            chosen = {key.split(SEPARATOR)[1]: row for key, row in rows.items() if key.split(SEPARATOR)[0] == title}
            tables.append(Table(data, title, {name: chosen[name] for name in sorted(chosen, key=kind_of)}))
    return tables


def table_named(tables: Sequence[Table], data: str, title: str) -> Table | None:
    """The table, if any of its rows is measured."""
    return next((table for table in tables if (table.data, table.title) == (data, title)), None)


def measurements(tables: Sequence[Table], command: str) -> Iterator[Measurement]:
    """Every number with its origin."""
    for table in tables:
        for name, row in table.rows.items():
            origin = origin_of(row)
            for column in COLUMNS:
                value = table.value(name, column)
                if value is not None:
                    title = SEPARATOR.join((f"{table.data}, {table.title}", name, column.title))
                    yield measurement(title, value, column.unit, command=command, origin=origin)


def origin_of(row: Row) -> Origin:
    """Where and when a row was measured."""
    return Origin(str(row["commit"]), str(row["machine"]), str(row["date"]))

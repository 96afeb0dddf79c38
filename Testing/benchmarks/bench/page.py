"""The benchmark as one page: targets, plots, and every table; no script, nothing fetched, and it prints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from benchmarks.bench import plots
from benchmarks.bench.rows import COUNTS
from benchmarks.bench.table import COLUMNS, PAIRED, SCORES, Table, metric
from benchmarks.results import HIGH, LOW, P_UNIT, SEPARATOR, Measurement, p_text
from benchmarks.speed import FULL_BATCH

COLORS = "Blue is ours, orange the published systems, gray networks that see raw images. Lines are 95 % intervals."


@dataclass(frozen=True)
class Contents:
    """What the page shows.

    :param budgets: a sentence for each data set on how much was trained.
    :param notes: what a reader must know before reading a number.
    """

    title: str
    budgets: Sequence[str]
    notes: Sequence[str]
    tables: Sequence[Table]
    targets: Sequence[Measurement]
    speed: Sequence[Measurement]


def page(contents: Contents) -> str:
    """The page's HTML."""
    tables = contents.tables
    parts = [f"<h1>{escape(contents.title)}</h1>", *_paragraphs(contents.notes), _list(contents.budgets)]
    parts += ["<h2>Targets</h2>", _targets(contents.targets)]
    parts += ["<h2>At a glance</h2>", f"<p>{escape(COLORS)}</p>", plots.dice_against_bytes(tables)]
    if contents.speed:
        parts.append(plots.time_by_stage(contents.speed, (1, FULL_BATCH)))
    if any(table.title == COUNTS for table in tables):
        parts.append(plots.dice_by_sites(tables))
    for table in tables:
        parts.append(f"<h2>{escape(table.data)}, {escape(table.title)}</h2>")
        parts += [plots.dice_by_row(table), _scores(table), *_paired(table)]
    if contents.speed:
        parts += ["<h2>Time and bytes</h2>", *_speed(contents.speed)]
    parts += ["<h2>Measured</h2>", _list(_origins(contents))]
    return _HEAD.replace("TITLE", escape(contents.title)) + "\n".join(parts) + "\n</main></body></html>\n"


def _scores(table: Table) -> str:
    """Means, the interval below each, and the facts of the networks."""
    shown = [column for column in COLUMNS if column.unit != P_UNIT and not column.title.endswith((LOW, HIGH))]
    used = [column for column in shown if any(table.value(row, column) is not None for row in table.rows)]
    lines = []
    for name, row in table.rows.items():
        cells = []
        for column in used:
            value = table.value(name, column)
            text = "" if value is None else _number(value)
            if column.title in SCORES and (found := metric(row, SCORES[column.title][0])):
                mean, low, high = (f"{number:.3f}" for number in (found.mean, found.low, found.high))
                shown_mean = f"<b>{mean}</b>" if column.title == "Dice" else mean
                text = f'{shown_mean}<br><small title="95 % interval over patients">{low} to {high}</small>'
            cells.append(text)
        lines.append((_row_head(name), cells))
    heads = [f"{escape(c.title)}<br><small>{escape(c.unit)}</small>" for c in used]
    return _html_table(["", *heads], lines)


def _paired(table: Table) -> list[str]:
    """p of each score against the published system's row, where it can be had."""
    columns = [column for column in COLUMNS if column.unit == P_UNIT]
    found = {name: [table.value(name, column) for column in columns] for name in table.rows}
    lines = [
        (_row_head(name), ["" if p is None else escape(p_text(p)) for p in values])
        for name, values in found.items()
        if any(p is not None for p in values)
    ]
    if not lines:
        return []
    heads = [f"{escape(column.title.removesuffix(PAIRED))}<br><small>p</small>" for column in columns]
    return ["<h3>Paired tests against the published system</h3>", _html_table(["", *heads], lines)]


def _row_head(name: str) -> str:
    return f'<span style="color:{plots.color_of(name)}">&#9679;</span> {escape(name)}'


def _targets(targets: Sequence[Measurement]) -> str:
    lines = [
        (
            escape(t.name),
            [escape(t.target or ""), f"{_number(t.measured)} {escape(t.unit)}", _verdict(t.holds)],
        )
        for t in targets
    ]
    return _html_table(["target", "asked", "measured", "holds"], lines)


def _verdict(holds: bool | None) -> str:
    return '<b class="yes">yes</b>' if holds else '<b class="no">no</b>'


def _speed(speed: Sequence[Measurement]) -> list[str]:
    by_title: dict[str, dict[str, dict[str, str]]] = {}
    for number in speed:
        title, system, column = number.name.split(SEPARATOR)
        row = plots.SYSTEM_TITLES.get(system, system)
        unit = "" if number.unit in title.split() else f" {escape(number.unit)}"
        by_title.setdefault(title, {}).setdefault(row, {})[column] = _number(number.measured) + unit
    parts = []
    for title, rows in by_title.items():
        columns = list(dict.fromkeys(column for row in rows.values() for column in row))
        lines = [(escape(name), [row.get(column, "") for column in columns]) for name, row in rows.items()]
        parts += [f"<h3>{escape(title)}</h3>", _html_table(["", *map(escape, columns)], lines)]
    return parts


def _origins(contents: Contents) -> list[str]:
    rows = [row for table in contents.tables for row in table.rows.values()]
    found = [(str(row["commit"]), str(row["machine"]), str(row["date"])) for row in rows]
    found += [(number.commit, number.machine, number.date) for number in contents.speed]
    seconds = sum(float(row["seconds"]) for row in rows)
    lines = [f"commit {commit}, {machine}, {date}" for commit, machine, date in dict.fromkeys(found)]
    return [*lines, f"{seconds / 60:.0f} minutes for all rows"]


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1e3 else f"{value:.0f}"


def _html_table(head: Sequence[str], lines: Iterable[tuple[str, Sequence[str]]]) -> str:
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{name}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>\n"
        for name, cells in lines
    )
    return f'<div class="table"><table><thead><tr>{top}</tr></thead><tbody>\n{body}</tbody></table></div>'


def _paragraphs(texts: Iterable[str]) -> list[str]:
    return [f"<p>{escape(text)}</p>" for text in texts]


def _list(texts: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>"


_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>TITLE</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2937; background: #fff; margin: 0; }
main { max-width: 72rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .75rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; padding-top: 1rem; border-top: 1px solid #e5e7eb; }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
p { max-width: 46rem; margin: .5rem 0; }
svg { display: block; width: 100%; max-width: 60rem; height: auto; margin: .75rem 0; }
svg text { font-family: system-ui, sans-serif; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-size: .82rem; margin: .5rem 0; }
th, td { padding: .28rem .55rem; border-bottom: 1px solid #e5e7eb; text-align: right; vertical-align: baseline; }
th { font-weight: 500; }
thead th { color: #4b5563; vertical-align: bottom; font-size: .76rem; }
th[scope=row], thead th:first-child { text-align: left; min-width: 14rem; }
td { font-variant-numeric: tabular-nums; white-space: nowrap; }
small { color: #6b7280; font-weight: 400; }
.yes { color: #166534; } .no { color: #b91c1c; }
@media print { main { max-width: none; padding: 0; } .table { overflow: visible; } table { font-size: 6.5pt; }
  svg, tr { break-inside: avoid; } h2 { break-after: avoid; } }
</style></head><body><main>
"""

"""The benchmark's plots as SVG text: the same rows give the same bytes.

Ours is blue, the published systems are orange, raw images (no privacy) are gray; every bar of error is a 95 % interval
over patients. Words say what colors do, so that the page can be printed without them.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from benchmarks.bench.published import PAPER, PRIVACY_SF
from benchmarks.bench.rows import COUNTS, SITES, ours, table_of
from benchmarks.bench.table import Table, kind_of, metric, table_named
from benchmarks.results import KILOBYTE, SEPARATOR, Measurement
from benchmarks.speed import STAGES, stage_table
from ppcmi.scales import Profile

OURS, PUBLISHED, RAW = "#1d6a96", "#c4622d", "#6b7280"
STAGE_COLORS = ("#9ecae1", "#1d6a96", "#5b8c5a")
STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "ppcmi", "font.family": "sans-serif", "font.size": 10,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "axes.titlesize": 11,
    "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.edgecolor": "#9ca3af", "grid.color": "#e5e7eb",
    "xtick.color": "#374151", "ytick.color": "#374151", "figure.facecolor": "white",
}  # fmt: skip
INCH_A_ROW = 0.3


def color_of(row: str) -> str:
    """By whose system it is."""
    return (RAW, OURS, PUBLISHED)[kind_of(row)]


def dice_by_row(table: Table) -> str:
    """Every row of a table, its mean and interval."""
    names = list(table.rows)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.0, 1.0 + INCH_A_ROW * len(names)), layout="constrained")
        axes = figure.subplots()
        for place, name in enumerate(names):
            found = metric(table.rows[name], "dice")
            if found is None:
                continue
            axes.plot([found.low, found.high], [place, place], color=color_of(name), linewidth=2, alpha=0.45)
            axes.plot(found.mean, place, "o", color=color_of(name), markersize=6)
            axes.annotate(
                f"{found.mean:.3f}", (found.high, place), xytext=(6, 0), textcoords="offset points", va="center",
                fontsize=8.5, color="#374151",
            )  # fmt: skip
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.margins(x=0.08)
        axes.grid(axis="x")
        axes.set_xlabel("Dice, mean over patients and 95 % interval")
        return _svg(figure, f"Dice of each system on {table.data}, {table.title}")


def dice_against_bytes(tables: Sequence[Table]) -> str:
    """What leaves a site for a slice, both directions, and what comes of it."""
    chosen = [table for table in tables if table.title == table_of(SITES)]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.0, 3.6), layout="constrained")
        for axes, table in zip(_row_of_axes(figure, len(chosen)), chosen, strict=True):
            for name, row in table.rows.items():
                found = metric(row, "dice")
                if found is None or not row.get("bytes_a_slice") or name not in _IN_BYTES:
                    continue
                kilobytes = row["bytes_a_slice"] / KILOBYTE
                axes.plot([kilobytes] * 2, [found.low, found.high], color=color_of(name), linewidth=2, alpha=0.35)
                axes.plot(kilobytes, found.mean, "o", color=color_of(name), markersize=6)
                axes.annotate(
                    _IN_BYTES[name], (kilobytes, found.mean), xytext=(4, 6), textcoords="offset points", fontsize=8.5,
                    rotation=40, rotation_mode="anchor",
                )  # fmt: skip
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.margins(x=0.28, y=0.3)
            axes.grid()
            axes.set_xlabel("KB a slice, both directions")
            axes.set_title(table.data)
        if figure.axes:
            figure.axes[0].set_ylabel("Dice")
        return _svg(figure, "Dice against the bytes that a slice sends and receives")


_IN_BYTES: Mapping[str, str] = {
    PAPER.title: "PPCMI-SF",
    PRIVACY_SF.title: "Privacy-SF",
    **{ours(profile): f"ours, {profile}" for profile in (Profile.FULL, Profile.COARSE, Profile.MINIMAL)},
    "ours, coarse, float32": "coarse, float32",
}


def time_by_stage(speed: Sequence[Measurement], batches: Sequence[int]) -> str:
    """Milliseconds of a slice at the site, at the server, and at the site again."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.0, 2.8), layout="constrained")
        for axes, batch in zip(_row_of_axes(figure, len(batches)), batches, strict=True):
            taken: dict[str, dict[str, float]] = {}
            for number in speed:
                title, row, column = number.name.split(SEPARATOR)
                if title == stage_table(batch) or title.startswith(f"{stage_table(batch)}, "):  # of another device
                    taken.setdefault(row, {})[column] = number.measured
            for place, stages in enumerate(taken.values()):
                left = 0.0
                for stage, color in zip(STAGES, STAGE_COLORS, strict=True):
                    axes.barh(
                        place, stages[stage], left=left, color=color, height=0.6, label=stage if not place else None
                    )
                    left += stages[stage]
                axes.annotate(
                    f"{left:.0f}" if left >= 100 else f"{left:.3g}",
                    (left, place),
                    xytext=(4, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=8.5,
                )
            axes.set_yticks(range(len(taken)), [SYSTEM_TITLES.get(name, name) for name in taken])
            axes.invert_yaxis()
            axes.margins(x=0.14)
            axes.grid(axis="x")
            axes.set_xlabel("ms a slice of 256 x 256")
            axes.set_title(f"batch {batch}")
        if figure.axes:
            handles, labels = figure.axes[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
        return _svg(figure, "Time of a slice by stage")


SYSTEM_TITLES: Mapping[str, str] = {"paper": "PPCMI-SF"} | {
    str(profile): f"ours, {profile}" for profile in (Profile.FULL, Profile.COARSE, Profile.MINIMAL)
}


def dice_by_sites(tables: Sequence[Table]) -> str:
    """The same patients shared out to more and more sites."""
    chosen = [found for table in tables if (found := table_named(tables, table.data, COUNTS)) is table]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.0, 3.2), layout="constrained")
        for axes, table in zip(_row_of_axes(figure, len(chosen)), chosen, strict=True):
            for system, title in ((ours(Profile.COARSE), "ours, coarse"), (PAPER.title, "PPCMI-SF")):
                counts = {
                    int(match[1]): metric(row, "dice")
                    for name, row in table.rows.items()
                    if (match := re.fullmatch(re.escape(system) + r", (\d+) sites?", name))
                }
                points = [(count, found) for count, found in sorted(counts.items()) if found is not None]
                if not points:
                    continue
                beside = 0.06 if system == PAPER.title else -0.06
                counts_of_sites = [count + beside for count, _ in points]
                below, above = ([f.mean - f.low for _, f in points], [f.high - f.mean for _, f in points])
                means = [found.mean for _, found in points]
                axes.errorbar(
                    counts_of_sites, means, (below, above), fmt="o-", color=color_of(system), capsize=3, label=title
                )
            axes.set_xticks(range(1, 8))
            axes.grid()
            axes.set_xlabel("sites")
            axes.set_title(table.data)
            axes.legend(frameon=False, fontsize=8.5)
        if figure.axes:
            figure.axes[0].set_ylabel("Dice")
        return _svg(figure, "Dice by the number of sites that the same patients are shared out to")


def _row_of_axes(figure: Figure, count: int) -> list[Axes]:
    return list(figure.subplots(1, count, squeeze=False)[0]) if count else []


def _svg(figure: Figure, description: str) -> str:
    """The figure as an element of a page, with words for whoever cannot see it."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    return text[text.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{description}" ', 1)

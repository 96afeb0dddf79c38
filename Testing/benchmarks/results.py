"""Measured numbers: docs/results/NAME.json holds them, docs/RESULTS.md is rendered from these files.

Benchmarks write both, and NAME.md beside a file where there is more to say than numbers. A number's name has up to
three parts, ``TABLE / ROW / COLUMN``, which is how it is shown.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import torch

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = REPOSITORY / "docs" / "results"
PAGE = REPOSITORY / "docs" / "RESULTS.md"
COUNTED = ("PPCMISegment", "PPCMIServer", "Testing/benchmarks")
"""Folders whose files decide what is measured."""

SEPARATOR = " / "
KILOBYTE, MEGABYTE = 1 << 10, 1 << 20
"""Bytes, as the paper counts them: its 0.88 MB a slice are 917,504 bytes of float32."""

P_UNIT, SMALLEST_P = "p", 1e-3
"""Of the numbers that are p of a paired test; below ``SMALLEST_P`` a page says no more than that."""

LOW, HIGH = ", 95 % low", ", 95 % high"
"""Behind a column's title: the bounds of its 95 % interval, which a page shows in the cell."""

INTRODUCTION = """\
# Results

Every number in the tables of measurements was written by the benchmark named beside it, into a file of
[results](results), and this page is rendered from those files; texts between them, "Tried" above all, are notes by
hand. Dice is on held-out patients (fold `test` of the data folder's split.csv), one seed, after short trainings of
fixed length; differences of a few thousandths are noise. "alone" is the product's U-Net on one site's images,
"pooled" the same U-Net on all sites' raw images, "private" the product: that U-Net, which comes with the consortium's
codec, refined at the site, and averaged with the decoded answer of the server. A site alone trains for as many steps
as both trainings together. "The server switched off" is the same without that answer: the difference of the two rows
is the server's, the rest of the gain is the shared network's. A "member without labels" uses the consortium's network
as it is; the "fourth member" is site C when none of its labels are used, and "the others" are those whose labels its
networks learned from. "Learning together" means that members also share the sites' networks with each other, in
rounds. A commit that this history does not have was measured before its work was joined to another's; what it named
is in the history by another name.
"""


@dataclass(frozen=True)
class Origin:
    """Where, when and from which code a number comes."""

    commit: str
    machine: str
    date: str


@dataclass(frozen=True)
class Measurement:
    """One number. ``target`` is None where none was set; ``holds`` then is None as well."""

    name: str
    target: str | None
    measured: float
    unit: str
    holds: bool | None
    command: str
    commit: str
    machine: str
    date: str


def measurement(
    name: str,
    measured: float,
    unit: str,
    *,
    command: str,
    origin: Origin,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Measurement:
    """A number, held against a bound if there is one."""
    digits = float(f"{measured:.3g}") if unit == P_UNIT else round(float(measured), 4)  # p is never rounded to 0
    measured, target, holds = digits + 0.0, None, None  # no -0.0
    if at_least is not None:
        target, holds = f">= {at_least:g}", measured >= at_least
    elif at_most is not None:
        target, holds = f"<= {at_most:g}", measured <= at_most
    return Measurement(name, target, measured, unit, holds, command, **asdict(origin))


def merge(name: str, measurements: Sequence[Measurement], *, complete: bool = False) -> None:
    """Write numbers into docs/results/NAME.json, each in place of what was measured before, and render the page.

    :param complete: they are all there are: others that stand there were measured in another way.
    """
    path = RESULTS / f"{name}.json"
    kept = json.loads(path.read_text()) if path.exists() and not complete else []
    new = {m.name: asdict(m) for m in measurements}
    merged = [new.pop(old["name"], old) for old in kept] + list(new.values())
    RESULTS.mkdir(parents=True, exist_ok=True)
    _write(path, json.dumps(merged, indent=1) + "\n")
    _write(PAGE, render())


def measure(
    name: str, measured: Mapping[str, Callable[[], list[Measurement]]], arguments: Sequence[str] | None = None
) -> int:
    """A benchmark's command: measure what is named, or all, and write docs/results/NAME.json after each."""
    parser = argparse.ArgumentParser(description=f"Measure and write docs/results/{name}.json.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(measured)} (default: all)")
    names = parser.parse_args(arguments).names or list(measured)
    unknown = set(names) - set(measured)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(measured)}")
    for one in names:
        found = measured[one]()
        for number in found:
            print(f"{number.name}: {number.measured:g} {number.unit}", flush=True)
        merge(name, found)
    return 0


def add_text(name: str, text: str) -> None:
    """Put what is no number below those of docs/results/NAME.json on the page, in Markdown."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    _write(RESULTS / f"{name}.md", text)


def render() -> str:
    """docs/RESULTS.md as text."""
    parts = [INTRODUCTION]
    for path in sorted(RESULTS.glob("*.json")):
        entries = [Measurement(**entry) for entry in json.loads(path.read_text())]
        parts.append(f"## {path.stem.replace('-', ' ').capitalize()}\n")
        parts.append(_targets([entry for entry in entries if entry.target is not None]))
        tables: dict[str, list[Measurement]] = {}
        for entry in entries:
            tables.setdefault(entry.name.split(SEPARATOR)[0], []).append(entry)
        for title, table in tables.items():
            shown = _beside_each_other(table)
            paired = [entry for entry in shown if entry.unit == P_UNIT]
            others = [entry for entry in shown if entry.unit != P_UNIT]
            parts += [_matrix(title, others)] if others else []
            parts += [_matrix(f"{title}, paired tests against the published system", paired)] if paired else []
        if path.with_suffix(".html").exists():
            parts.append(f"With plots: [results/{path.stem}.html](results/{path.stem}.html).\n")
        text = path.with_suffix(".md")
        parts += [text.read_text(encoding="utf-8")] if text.exists() else []
        parts.append(_origins(entries))
    return "\n".join(parts)


def here_and_now(device: torch.device | None = None) -> Origin:
    """The origin of what is measured by this process, on the CPU or on ``device``."""
    return Origin(commit(), machine(device), datetime.now(UTC).date().isoformat())


def commit() -> str:
    """The commit that is measured, with a + if files that count were changed since."""
    changed = _git("status", "--porcelain", "--", *COUNTED)
    return _git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")


@cache
def code() -> str:
    """The commit, and where files that count were changed since, a digest of the changes: equal only for equal code.

    Of the process's start, as far as it is known: what is changed while a benchmark runs makes no difference to it.
    """
    found = commit()
    if not found.endswith("+"):
        return found
    digest = hashlib.sha256(_git("diff", "HEAD", "--binary", "--", *COUNTED).encode())
    for name in _git("ls-files", "--others", "--exclude-standard", "--", *COUNTED).splitlines():
        digest.update(name.encode() + (REPOSITORY / name).read_bytes())
    return found + digest.hexdigest()[:12]


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.strip()


def machine(device: torch.device | None = None) -> str:
    """Processor and threads, and the GPU if it is measured; never the machine's name."""
    if device is not None and device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {platform.machine()}"
    bfloat16 = "bfloat16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"
    capability, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    return f"{platform.machine()} {capability} CPU, {threads} thread(s), {bfloat16}"


def p_text(p: float) -> str:
    """A p value for a reader."""
    return f"< {SMALLEST_P:g}" if p < SMALLEST_P else f"{p:.2g}"


def _targets(entries: Sequence[Measurement]) -> str:
    if not entries:
        return ""
    rows = [[e.name, e.target or "", f"{e.measured:g}", e.unit, "yes" if e.holds else "**no**"] for e in entries]
    return _table(["target", "asked", "measured", "unit", "holds"], rows)


def _beside_each_other(entries: Sequence[Measurement]) -> list[Measurement]:
    """What has no target, and what has one in a column of those: what only targets are about stands with them."""
    columns = {_column(entry) for entry in entries if entry.target is None}
    return [entry for entry in entries if _column(entry) in columns]


def _column(entry: Measurement) -> str:
    return SEPARATOR.join(entry.name.split(SEPARATOR)[2:])


def _matrix(title: str, entries: Sequence[Measurement]) -> str:
    cells: dict[str, dict[str, str]] = {}
    columns: dict[str, None] = {}
    bounds = {entry.name: entry.measured for entry in entries if entry.name.endswith((LOW, HIGH))}
    entries = [entry for entry in entries if entry.name not in bounds]
    for entry in entries:
        _, row, column = [*entry.name.split(SEPARATOR), "", ""][:3]
        cells.setdefault(row, {})[column] = _cell(entry, bounds)
        columns[column] = None
    rows = [[row, *(values.get(column, "") for column in columns)] for row, values in cells.items()]
    units = {entry.unit for entry in entries}
    if len(units) == 1:
        return f"### {title}\n\n" + _table([*units, *columns], rows)
    if set(columns) == {""}:
        values = [[entry.name.split(SEPARATOR)[-1], f"{entry.measured:.4g} {entry.unit}"] for entry in entries]
        return f"### {title}\n\n" + _table(["", ""], values)
    of_column = {entry.name.split(SEPARATOR)[-1]: entry.unit for entry in entries}
    named = [column if of_column[column] in column else f"{column} ({of_column[column]})" for column in columns]
    return f"### {title}\n\n" + _table(["", *named], rows)


def _cell(entry: Measurement, bounds: Mapping[str, float]) -> str:
    """A number, behind it its interval if it has one."""
    if entry.unit == P_UNIT:
        return p_text(entry.measured)
    low, high = bounds.get(entry.name + LOW), bounds.get(entry.name + HIGH)
    interval = "" if low is None or high is None else f" ({low:.4g} to {high:.4g})"
    return f"{entry.measured:.4g}{interval}"


def _origins(entries: Iterable[Measurement]) -> str:
    found: dict[tuple[str, str, str, str], None] = {(e.command, e.commit, e.machine, e.date): None for e in entries}
    lines = [f"- `{command}`, commit {commit}, {machine}, {date}" for command, commit, machine, date in found]
    return "Measured by:\n\n" + "\n".join(lines) + "\n"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)

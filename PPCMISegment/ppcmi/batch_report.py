"""report.html in a folder of results: every volume with its overlay, volumes of structures, bytes and seconds.

One page with pictures in files beside it, no script, nothing loaded from elsewhere. It names files and shows images of
patients, so it stays at the site, and says so.
"""

# mypy: allow-untyped-calls
# SimpleITK annotates only some of its functions.

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from html import escape
from pathlib import Path
from string import Template
from urllib.parse import quote

import numpy as np
import SimpleITK
import torch

from ppcmi import __version__
from ppcmi.batch_manifest import CaseRecord
from ppcmi.files import write_atomically
from ppcmi.result_files import ALL_ENDINGS, ENDINGS
from ppcmi.task import Label, Task
from ppcmi.wording import counted, megabytes

REPORT = "report.html"
PICTURES = "report"
"""Folder of the overlays, beside the page."""

NOTHING_FOUND = "No structure was found in it."

_PAGE = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --ink: #16202a; --paper: #ffffff; --quiet: #5b6874; --line: #d9e0e6; --band: #f3f6f8;
        --bad: #a8321c; --bad-band: #fdf0ed; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e9ee; --paper: #14181d; --quiet: #96a3b0; --line: #2d353e; --band: #1b2128;
          --bad: #ff9b85; --bad-band: #2b1a17; }
}
body { font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; color: var(--ink);
       background: var(--paper); max-width: 68rem; margin: 2.5rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; }
p { margin: .5rem 0; max-width: 60em; } a { color: inherit; } .quiet { color: var(--quiet); }
.notice { background: var(--band); border-left: 4px solid var(--quiet); padding: .6rem 1rem; margin: 1.25rem 0;
          max-width: none; }
.failed { background: var(--bad-band); border-left: 4px solid var(--bad); padding: .6rem 1rem; }
.warning { border-left: 4px solid var(--bad); padding-left: .6rem; }
.failed dt { font-weight: 600; overflow-wrap: anywhere; } .failed dd { margin: 0 0 .6rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-size: .85rem; font-weight: 600; color: var(--quiet); }
th, td { padding: .7rem .9rem .7rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.picture { width: 240px; } img { display: block; width: 240px; height: auto; background: #000; border-radius: 4px; }
td.case { overflow-wrap: anywhere; min-width: 11rem; } td.case b { font-size: 1.05rem; } .small { font-size: .85rem; }
table.volumes { width: auto; } table.volumes td { border: 0; padding: 0 .9rem .15rem 0; }
td.number { text-align: right; white-space: nowrap; }
.swatch { display: inline-block; width: .75em; height: .75em; border-radius: 2px; margin-right: .5em;
          border: 1px solid color-mix(in srgb, var(--ink) 25%, transparent); }
footer { margin: 2.5rem 0; }
@media (max-width: 45rem) { td, th { display: block; border: 0; padding: .2rem 0; } thead { display: none; }
  tbody tr { display: block; border-bottom: 1px solid var(--line); padding: .8rem 0; }
  table.volumes tr { display: table-row; } table.volumes td { display: table-cell; } }
@media print { body { margin: 0; max-width: none; } tr { break-inside: avoid; } }
</style>
</head>
<body>
<h1>$title</h1>
<p class="quiet">$made_with</p>
<p>$summary</p>
<p class="notice"><b>This page stays at the site.</b> It shows images and names files of patients. Research use only,
not a medical device: look at every segmentation before you use it.</p>
$failures
$cases
<footer class="quiet small">$versions</footer>
</body>
</html>
""")

_FAILURES = Template("""\
<h2>Not segmented</h2>
<dl class="failed">$rows</dl>
<p class="quiet small">Run the same command again once the cause is gone: what is done is skipped.</p>
""")

_CASES = Template("""\
<h2>Segmented</h2>
<p class="quiet small">The slice with the most of the structures, outlined. Volumes in millilitres.</p>
<table>
<thead><tr><th>Overlay</th><th>Scan</th><th>Structures, ml</th><th>Left the site</th><th>Time</th></tr></thead>
<tbody>
$rows
</tbody>
</table>
""")

_CASE = Template("""\
<tr id="$anchor"><td class="picture">$picture</td>
<td class="case"><b>$name</b><br><span class="small">$files</span><br><span class="quiet small">$made</span>
$warnings</td>
<td><table class="volumes">$volumes</table><span class="quiet small">$absent</span></td>
<td><span>$sent</span><br><span class="quiet small">$slices<br>$received came back</span></td>
<td>$seconds</td></tr>
""")


def write_report(folder: Path, task: Task, records: Iterable[CaseRecord], made_with: Mapping[str, str]) -> Path:
    """Write ``folder/report.html`` of the task's records whose results are there, and of those that failed; its path.

    Results of other tasks, or of another version of this one, are counted: their structures are others.

    :param made_with: provenance of the run, as :func:`ppcmi.pipeline.provenance_of` gives it.
    :raises WriteError: if it cannot be written.
    """
    every = list(records)
    known = [record for record in every if record.made_from.get("task", task.identity) == task.identity]
    failed = [record for record in known if record.outcome == "failed"]
    done = [record for record in known if record.outcome == "done" and _has_results(record, folder)]
    page = _PAGE.substitute(
        title=escape(task.title),
        made_with=escape(_made_with(task, made_with)),
        summary=escape(_summary(done, failed, others=len(every) - len(known))),
        failures=_FAILURES.substitute(rows="".join(_failure(record) for record in failed)) if failed else "",
        cases=_CASES.substitute(rows="".join(_case(record, task, folder) for record in done)) if done else "",
        versions=escape(_versions()),
    )
    write_atomically(folder / REPORT, page.encode())
    return folder / REPORT


def _has_results(record: CaseRecord, folder: Path) -> bool:
    return set(record.endings or ENDINGS) <= set(_files(record, folder))


def _files(record: CaseRecord, folder: Path) -> list[str]:
    """Endings of the results that are there."""
    return [ending for ending in ALL_ENDINGS if (folder / f"{record.name}{ending}").exists()]


def _made_with(task: Task, provenance: Mapping[str, str]) -> str:
    facts = [f"task {task.identity}", *(f"{key} {provenance[key]}" for key in ("model", "profile", "quantization"))]
    return " · ".join([*facts, f"codec {provenance['codec'][:8]}"])


def _summary(done: Sequence[CaseRecord], failed: Sequence[CaseRecord], others: int) -> str:
    volumes = counted(len(done), "volume")
    sent = sum(record.bytes_sent for record in done)
    beside = f" Of another task or version the folder has {counted(others, 'volume')} more." if others else ""
    if not done:
        return f"{volumes} segmented, {len(failed)} not.{beside}"
    empty = sum(record.found_nothing for record in done)
    found = f"In {empty} of them no structure was found. " if empty else ""
    left = (
        f"For them {megabytes(sent)} of protected latents left the site; no image and no mask did."
        if sent
        else "For them nothing left the site: its own network segmented them."
    )
    return f"{volumes} segmented, {len(failed)} not. {found}{left}{beside}"


def _failure(record: CaseRecord) -> str:
    return f"<dt>{escape(record.name)}</dt><dd>{escape(record.error)}</dd>"


def _case(record: CaseRecord, task: Task, folder: Path) -> str:
    files = (f'<a href="{quote(record.name + ending)}">{escape(ending)}</a>' for ending in _files(record, folder))
    found = [label for label in task.labels if record.volumes_ml.get(label.name)]
    absent = [label.name for label in task.labels if label not in found]
    warnings = [NOTHING_FOUND, *record.warnings] if record.found_nothing else record.warnings
    return _CASE.substitute(
        anchor=escape(record.name),
        picture=_picture(record) if record.picture and (folder / record.picture).exists() else "",
        name=escape(record.name),
        files=" ".join(files),
        made=escape(_when_and_by(record)),
        warnings="".join(f'<p class="warning small">{escape(warning)}</p>' for warning in warnings),
        volumes="".join(_volume(label, record.volumes_ml[label.name]) for label in found),
        absent=f"not found: {escape(', '.join(absent))}" if absent else "",
        sent=megabytes(record.bytes_sent),
        received=megabytes(record.bytes_received),
        slices=counted(record.slices, "slice"),
        seconds=f"{record.total_seconds:.1f} s",
    )


def _picture(record: CaseRecord) -> str:
    target = quote(record.picture)
    text = f"Overlay of {record.name}"
    return f'<a href="{target}"><img loading="lazy" src="{target}" alt="{escape(text)}"></a>'


def _volume(label: Label, volume_ml: float) -> str:
    color = "#{:02x}{:02x}{:02x}".format(*label.color)
    name = f'<td><span class="swatch" style="background: {color}"></span>{escape(label.name)}</td>'
    return f'<tr>{name}<td class="number">{volume_ml:.{0 if volume_ml >= 100 else 2}f}</td></tr>'


def _when_and_by(record: CaseRecord) -> str:
    facts = [f"model {record.made_from.get('model')}", str(record.made_from.get("profile"))]
    with suppress(ValueError):  # a manifest of another version
        facts.append(datetime.fromisoformat(record.finished).astimezone().strftime("%Y-%m-%d %H:%M"))
    return " · ".join(facts)


def _versions() -> str:
    found = {
        "ppcmi": __version__,
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "NumPy": np.__version__,
        "SimpleITK": SimpleITK.Version.VersionString(),
    }
    return "Written by " + ", ".join(f"{name} {version}" for name, version in found.items()) + "."

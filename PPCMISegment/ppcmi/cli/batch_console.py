"""What a batch shows: how far it is, what became of each volume, and at its end the table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from ppcmi.batch import BatchItem, Outcome
from ppcmi.batch_manifest import CaseRecord
from ppcmi.cli.console import Console
from ppcmi.cli.pace import Pace
from ppcmi.pipeline import Progress
from ppcmi.task import Task
from ppcmi.wording import about, counted, megabytes

NAMES: Mapping[Outcome | None, str] = {"done": "done", "skipped": "done before", "failed": "failed"}

STAGES: Mapping[str, str] = {
    "slice": "slicing",
    "encode": "encoding",
    "map": "waiting for the server",
    "decode": "decoding",
    "restore": "restoring the volume's grid",
}
"""What :attr:`ppcmi.pipeline.Progress.stage` names, in words."""

MOST_COLUMNS = 6
"""More structures than these have no columns in the table; the report has them all."""


def show_item(item: BatchItem, console: Console, pace: Pace) -> None:
    """An event of a batch: what became of a volume and what is to be known about it, or how far it is."""
    left = pace.seconds_left(item)
    place = f"{item.number}/{item.total} {item.name}"
    if item.record is None:
        ending = "" if left is None else f", {about(left)} left"
        console.progress(f"{place}: {_doing(item.progress)}{ending}")
    elif item.outcome == "failed":
        console.remark(f"ppcmi: {item.name}: {item.record.error}")
    else:
        found = "; no structure was found in it" if item.record.found_nothing else ""
        console.progress(f"{place}: {NAMES[item.outcome]}{found}", last=True)
        for warning in item.record.warnings:
            console.remark(f"ppcmi: {item.name}: {warning}")


def show_table(finished: Sequence[BatchItem], task: Task, console: Console) -> None:
    """A row for each volume that was taken up."""
    names = [label.name for label in task.labels] if len(task.labels) <= MOST_COLUMNS else []
    header = ["volume", "outcome", *(f"{name} ml" for name in names), "seconds", "sent"]
    console.table(header, [[item.name, _outcome(item), *_cells(item.record, names)] for item in finished])


def show_end(finished: Sequence[BatchItem], made_with: Mapping[str, str], place: Path, console: Console) -> None:
    """How many were done, by which model, and where to look.

    :param made_with: provenance of the run, as :func:`ppcmi.pipeline.provenance_of` gives it.
    """
    outcomes = Counter(item.outcome for item in finished)
    counts = ", ".join(f"{outcomes[outcome]} {name}" for outcome, name in NAMES.items() if outcomes[outcome])
    empty = sum(_found_nothing(item) for item in finished)
    found = [f"no structure was found in {counted(empty, 'volume')}"] if empty else []
    model = f"model {made_with['model']}, profile {made_with['profile']}"
    console.result("; ".join([counts, *found, model, f"see {place}"]))


def _doing(progress: Progress | None) -> str:
    if progress is None:
        return "reading"
    slices = f", {progress.done}/{progress.total} slices" if progress.total else ""
    return f"{STAGES[progress.stage]}{slices}"


def _outcome(item: BatchItem) -> str:
    return f"{NAMES[item.outcome]}, nothing found" if _found_nothing(item) else NAMES[item.outcome]


def _found_nothing(item: BatchItem) -> bool:
    return item.record is not None and item.record.found_nothing


def _cells(record: CaseRecord | None, names: Sequence[str]) -> list[str]:
    if record is None or record.outcome == "failed":
        return ["-"] * (len(names) + 2)
    volumes = [f"{record.volumes_ml[name]:.2f}" if name in record.volumes_ml else "-" for name in names]
    return [*volumes, f"{record.total_seconds:.1f}", megabytes(record.bytes_sent)]

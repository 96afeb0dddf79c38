"""Segment many volumes into a folder: what is done already is skipped, a failure goes on to the next.

A manifest, ``ppcmi-segment.jsonl`` in the folder, gets a line for every volume that was finished or failed; it stays at
the site, as it names files.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ppcmi.errors import CancelledError, ConnectionFailedError, PpcmiError, WriteError
from ppcmi.pipeline import PrivateLink, Progress, Segmentation, provenance_of, segment
from ppcmi.reading import image_stem, read_volume
from ppcmi.writing import write_segmentation

MANIFEST = "ppcmi-segment.jsonl"
ENDINGS = (".seg.nrrd", ".nii.gz")


@dataclass(frozen=True)
class BatchItem:
    """One volume on its way; ``outcome`` is None while it is being worked on.

    :param name: of its results, without ending.
    """

    source: Path
    name: str
    number: int
    total: int
    progress: Progress | None = None
    outcome: Literal["done", "skipped", "failed"] | None = None
    error: PpcmiError | None = None
    seconds: float = 0.0


def segment_files(
    images: Sequence[Path], link: PrivateLink, output: Path, cancelled: Callable[[], bool] = lambda: False
) -> Iterator[BatchItem]:
    """Segment every image to ``output/NAME.seg.nrrd`` and ``.nii.gz``; an event whenever something has happened.

    :raises WriteError: if the folder cannot be made, or a result would take an image's place.
    :raises ConnectionFailedError: if the server cannot be reached: the remaining volumes would fail as well.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"The output folder cannot be made: {error.strerror}.") from error
    finished = _finished(output / MANIFEST)
    names = result_names(images)
    _require_other_files(images, output, names)
    for number, (source, name) in enumerate(zip(images, names, strict=True), start=1):
        item = BatchItem(source, name, number, len(images))
        made_from = {**_identity(source), **provenance_of(link)}
        if finished.get(name) == made_from and all((output / f"{name}{ending}").exists() for ending in ENDINGS):
            yield _with(item, outcome="skipped")
            continue
        start = time.monotonic()
        try:
            last = yield from _segment_one(item, link, output, cancelled)
        except (CancelledError, ConnectionFailedError):
            raise
        except PpcmiError as error:
            _append(output / MANIFEST, {"name": name, "outcome": "failed", "made_from": made_from, "error": str(error)})
            yield _with(item, outcome="failed", error=error, seconds=time.monotonic() - start)
            continue
        record = {"name": name, "outcome": "done", "made_from": made_from, "bytes_sent": last.bytes_sent,
                  "bytes_received": last.bytes_received, "seconds": dict(last.seconds)}  # fmt: skip
        _append(output / MANIFEST, record)
        yield _with(item, outcome="done", progress=last, seconds=time.monotonic() - start)


def result_names(images: Sequence[Path]) -> list[str]:
    """A name for each image's results: its own without the ending, with its folder's where two are the same."""
    stems = [image_stem(image.resolve()) for image in images]
    names: list[str] = []
    for image, stem in zip(images, stems, strict=True):
        name = stem if stems.count(stem) == 1 else f"{image.resolve().parent.name}-{stem}"
        candidates = [name, *(f"{name}-{number}" for number in range(2, len(images) + 2))]
        names.append(next(candidate for candidate in candidates if candidate not in names))
    return names


def _require_other_files(images: Sequence[Path], output: Path, names: Sequence[str]) -> None:
    results = {(output / f"{name}{ending}").resolve() for name in names for ending in ENDINGS}
    if results & {image.resolve() for image in images}:
        raise WriteError("A result would take the place of an image; choose another folder for the results.")


def _segment_one(
    item: BatchItem, link: PrivateLink, output: Path, cancelled: Callable[[], bool]
) -> Generator[BatchItem, None, Progress]:
    steps = segment(read_volume(item.source), link, cancelled=cancelled)
    result = yield from _as_items(item, steps)
    for ending in ENDINGS:
        write_segmentation(result.labels, link.task, output / f"{item.name}{ending}", result.provenance)
    return result.progress


def _as_items(
    item: BatchItem, steps: Generator[Progress, None, Segmentation]
) -> Generator[BatchItem, None, Segmentation]:
    while True:
        try:
            yield _with(item, progress=next(steps))
        except StopIteration as end:
            result: Segmentation = end.value
            return result


def _with(item: BatchItem, **changes: Any) -> BatchItem:
    return BatchItem(**{**item.__dict__, **changes})


def _identity(source: Path) -> dict[str, Any]:
    """What tells one input from a changed one: its place, size and time."""
    files = sorted(p for p in source.iterdir() if p.is_file()) if source.is_dir() else [source]
    try:
        status = [file.stat() for file in files]
    except OSError:
        status = []
    newest = max((s.st_mtime_ns for s in status), default=0)
    return {"source": str(source.resolve()), "size": sum(s.st_size for s in status), "modified": newest}


def _finished(manifest: Path) -> dict[str, Mapping[str, Any]]:
    """What each finished result was made from; a line that was cut off counts for nothing."""
    found: dict[str, Mapping[str, Any]] = {}
    try:
        lines = manifest.read_text(encoding="utf-8").splitlines() if manifest.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise WriteError("The output folder's manifest cannot be read; choose another folder.") from error
    for line in lines:
        try:
            record = json.loads(line)
            if record["outcome"] == "done":
                found[record["name"]] = record["made_from"]
        except (ValueError, KeyError, TypeError):
            continue
    return found


def _append(manifest: Path, record: Mapping[str, Any]) -> None:
    try:
        with manifest.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")
    except OSError as error:
        raise WriteError(f"The output folder's manifest cannot be written: {error.strerror}.") from error

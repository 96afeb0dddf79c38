"""Segment many volumes into a folder: what is done already is skipped, a failure goes on to the next.

Each gives ``NAME.seg.nrrd`` and ``NAME.nii.gz`` or what else is asked for, see :mod:`ppcmi.result_files`, a line in the
manifest, and a picture for the report. What would make every other volume fail as well (no server, no space) ends the
run; a rerun goes on where it was.
"""

from __future__ import annotations

import errno
import hashlib
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from ppcmi.batch_images import BatchImage, result_names
from ppcmi.batch_manifest import CaseRecord, Manifest
from ppcmi.batch_places import is_there, require_free_places, require_no_label_folder
from ppcmi.batch_report import PICTURES
from ppcmi.codec.refinement import SiteDecoder
from ppcmi.confidence import volumes_ml
from ppcmi.errors import BundleError, GeometryError, PpcmiError, ReadError, ServerRefusedError, WriteError
from ppcmi.files import cause_of, write_atomically
from ppcmi.overlay import overlay_of
from ppcmi.pipeline import PrivateLink, Progress, Segmentation, provenance_of, segment
from ppcmi.png import encode_png
from ppcmi.reading import read_image
from ppcmi.result_files import ENDINGS, check_source, needs_probabilities, require_formats, write_result
from ppcmi.sources import ImageSource

REFUSED_FOR_ALL = (401, 403, 404, 409)
"""Statuses of a server that refuses the site, the task or the model, not the one volume."""


Outcome = Literal["done", "skipped", "failed"]


@dataclass(frozen=True)
class BatchItem:
    """One volume on its way; ``outcome`` is None while it is being worked on.

    :param source: of the volume, and ``number`` which of ``total`` it is.
    :param name: of its results, without ending.
    :param to_do_after: how many of those after it are not done yet.
    :param progress: while it is being worked on, None as long as it is being read.
    :param record: what the manifest says of it, once it is done, failed or skipped.
    """

    source: ImageSource
    name: str
    number: int
    total: int
    to_do_after: int = 0
    progress: Progress | None = None
    outcome: Outcome | None = None
    record: CaseRecord | None = None


def segment_files(
    images: Sequence[BatchImage],
    link: PrivateLink,
    output: Path,
    *,
    endings: Sequence[str] = ENDINGS,
    cancelled: Callable[[], bool] = lambda: False,
) -> Generator[BatchItem, None, None]:
    """Segment every image to ``output/NAME`` with ``endings``; an event whenever something has happened.

    :param endings: of the files that are written, of :data:`ppcmi.result_files.ALL_ENDINGS`.
    :raises UsageError: if DICOM results are asked for, and no image is DICOM.
    :raises SiteError: if a package for a format is missing.
    :raises WriteError: if the folder or a result cannot be written; before anything is, if a result would take the
        place of an image, of another task's result, or of a file that no run into ``output`` wrote.
    :raises ConnectionFailedError: if the server cannot be reached.
    :raises ServerRefusedError: if it refuses the site, the task or the model.
    :raises CancelledError: if ``cancelled()``; what was finished before is kept.
    """
    require_formats(endings, [image.source for image in images])
    require_no_label_folder(output)
    _make_folder(output)
    manifest = Manifest(output)
    names = result_names(images, manifest.sources)
    require_free_places(images, names, endings, output, manifest, link.task)
    made_with = {**provenance_of(link), "decoder": _fingerprint(link.decoder)}

    def made_from(image: BatchImage) -> dict[str, Any]:
        return {**_identity(image.source), **made_with}

    def is_done(image: BatchImage, name: str) -> bool:
        before = manifest.records.get(name)
        return before is not None and _is_done(before, made_from(image), output, endings)

    to_do = sum(not is_done(image, name) for image, name in zip(images, names, strict=True))
    for number, (image, name) in enumerate(zip(images, names, strict=True), start=1):
        if is_done(image, name):  # asked again: hours may have passed
            item = BatchItem(image.source, name, number, len(images), to_do)
            yield replace(item, outcome="skipped", record=manifest.records[name])
            continue
        to_do = max(0, to_do - 1)
        item = BatchItem(image.source, name, number, len(images), to_do)
        start = time.monotonic()
        made = CaseRecord(name, "done", made_from(image))
        try:
            record = yield from _segment_one(item, made, link, output, manifest, endings, cancelled)
        except Exception as error:
            failure = _of_this_case(error)
            if failure is None:
                raise
            record = replace(made, outcome="failed", error=failure)
        seconds, finished = round(time.monotonic() - start, 3), datetime.now(UTC).isoformat(timespec="seconds")
        record = replace(record, total_seconds=seconds, finished=finished)
        manifest.append(record)
        yield replace(item, outcome=record.outcome, record=record)


def _segment_one(
    item: BatchItem,
    record: CaseRecord,
    link: PrivateLink,
    output: Path,
    manifest: Manifest,
    endings: Sequence[str],
    cancelled: Callable[[], bool],
) -> Generator[BatchItem, None, CaseRecord]:
    yield item
    check_source(endings, item.source)
    image = read_image(item.source)
    link.task.require_modality(image.modality)
    volume = image.volume
    probable = needs_probabilities(endings, image)
    result = yield from _as_items(item, segment(volume, link, with_probabilities=probable, cancelled=cancelled))
    manifest.begin(item.name, record.made_from)
    for ending in endings:
        write_result(result, image, item.source, link.task, output, item.name, ending)
    picture = Path(PICTURES) / f"{item.name}.png"
    _make_folder(output / PICTURES)
    write_atomically(output / picture, encode_png(overlay_of(volume, result.labels, link.task)))
    last = result.progress
    return replace(
        record,
        slices=last.total,
        bytes_sent=last.bytes_sent,
        bytes_received=last.bytes_received,
        seconds=dict(last.seconds),
        volumes_ml=volumes_ml(result.labels, link.task),
        endings=list(endings),
        warnings=list(image.warnings),
        picture=picture.as_posix(),
    )


def _as_items(
    item: BatchItem, steps: Generator[Progress, None, Segmentation]
) -> Generator[BatchItem, None, Segmentation]:
    while True:
        try:
            yield replace(item, progress=next(steps))
        except StopIteration as end:
            result: Segmentation = end.value
            return result


def _of_this_case(error: Exception) -> str | None:
    """What went wrong with this volume, in one sentence, or None if the others would fail as well."""
    match error:
        case ReadError() | GeometryError() | BundleError():
            return str(error)
        case WriteError(__cause__=OSError(errno=errno.ENAMETOOLONG)):
            return "The names of the result's files are too long for this disk; give it a shorter one by a list."
        case PpcmiError():
            concerns_it = isinstance(error, ServerRefusedError) and error.status not in REFUSED_FOR_ALL
            return str(error) if concerns_it else None
        case OSError():
            return f"The image cannot be read: {error.strerror or 'unknown cause'}."
        case MemoryError():
            return "The image is too large for this machine's memory."
        case _:
            return f"The volume could not be segmented for an unforeseen reason ({type(error).__name__}); report it."


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"The output folder cannot be made: {cause_of(error)}.") from error


def _is_done(record: CaseRecord, made_from: dict[str, Any], output: Path, endings: Sequence[str]) -> bool:
    there = all(is_there(output / f"{record.name}{ending}") for ending in endings)
    return record.outcome == "done" and record.made_from == made_from and there


def _identity(source: ImageSource) -> dict[str, Any]:
    """What tells one input from a changed one: its place, and the size and time of its files."""
    try:
        status = [file.stat() for file in source.files]
    except OSError:
        status = []
    # Of all files, not the newest: one may have been replaced by an older one of its size.
    modified = sum(s.st_mtime_ns for s in status)
    return {"source": source.key, "size": sum(s.st_size for s in status), "modified": modified}


def _fingerprint(decoder: SiteDecoder | None) -> str:
    """Tells a refined decoder from the one before; 16 hex digits."""
    digest = hashlib.sha256()
    if decoder is not None:
        digest.update(repr(sorted(decoder.weights.items())).encode())
        for name, tensor in sorted(decoder.local.state_dict().items()):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]

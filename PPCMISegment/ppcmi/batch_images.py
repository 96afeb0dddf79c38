"""Which images a batch is of: files, DICOM folders, directories of such, and lists of images as CSV tables.

A list has a column ``image``, a path that is relative to the list's own folder or absolute, and if it likes a column
``name``, what the results are called. Other columns are left alone, so that a worklist from elsewhere will do.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from ppcmi.errors import ReadError
from ppcmi.sources import find_images_below, image_stem

LIST_ENDING = ".csv"
NOT_IN_A_NAME = frozenset('<>:"/\\|?*')
"""Characters that a file name cannot have on one of the systems."""


@dataclass(frozen=True)
class BatchImage:
    """An image and, where a list says so, what its results are called."""

    source: Path
    name: str | None = None


def find_batch_images(source: Path, without: Path) -> list[BatchImage]:
    """The images at ``source``: itself, those below it, or those in the list that it is.

    :param without: a folder that is left out, as results go there.
    :raises ReadError: if there is none, or the list is not such a table.
    """
    if source.suffix.lower() == LIST_ENDING and source.is_file():
        return _listed(source)
    return [BatchImage(image) for image in find_images_below(source, without)]


def without_repeats(images: Iterable[BatchImage]) -> list[BatchImage]:
    """The images, each place once: a file may have been given beside the folder that it is in."""
    by_place: dict[Path, BatchImage] = {}
    for image in images:
        known = by_place.setdefault(image.source.resolve(), image)
        if known.name is None and image.name is not None:
            by_place[image.source.resolve()] = image
    return list(by_place.values())


def result_names(images: Sequence[BatchImage], known: Mapping[str, Path] | None = None) -> list[str]:
    """A name for each image's results, no two the same, and no other image's that had results here before.

    It is the list's, else the one that the image had before, else its file's without the ending, with its folder's
    where two are the same.

    :param known: names that are in use, and by which image.
    :raises ReadError: if lists give a name twice.
    """
    used = {name.casefold(): place for name, place in (known or {}).items()}
    listed = [image.name.casefold() for image in images if image.name is not None]
    if len(set(listed)) != len(listed):
        raise ReadError("The lists give two images the same name; results would take each other's place.")
    before = {place: name for name, place in (known or {}).items() if name.casefold() not in listed}
    places = [image.source.resolve() for image in images]
    given = [image.name or before.get(place) for image, place in zip(images, places, strict=True)]
    taken = {*used, *listed}  # not told apart by case: not every file system does
    stems = [image_stem(place) for place in places]
    times = Counter(stems)
    names = []
    for place, stem, name in zip(places, stems, given, strict=True):
        candidates = _candidates(place, stem, alone=times[stem] == 1)
        names.append(name or next(candidate for candidate in candidates if candidate.casefold() not in taken))
        taken.add(names[-1].casefold())
    return names


def _candidates(place: Path, stem: str, *, alone: bool) -> Iterator[str]:
    with_folder = f"{place.parent.name}-{stem}"
    if alone:
        yield stem
    yield with_folder
    for number in count(2):
        yield f"{with_folder}-{number}"


def _listed(table: Path) -> list[BatchImage]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            heading = stream.readline()
            stream.seek(0)
            semicolons = ";" in heading and "," not in heading  # as spreadsheets write where commas are decimal
            reader = csv.DictReader(stream, delimiter=";" if semicolons else ",", skipinitialspace=True)
            if "image" not in (reader.fieldnames or ()):
                raise ReadError("The list has no column 'image'; its first line names the columns.")
            rows = [((row["image"] or "").strip(), (row.get("name") or "").strip()) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ReadError("The list is not a table of comma-separated UTF-8 text.") from error
    images = [BatchImage(table.parent / path, name or None) for path, name in rows if path]
    if not images:
        raise ReadError("The list names no image.")
    if not all(_is_name(image.name) for image in images if image.name is not None):
        raise ReadError("The list's column 'name' has a name that no file can have; use letters, digits, '-' and '_'.")
    return images


def _is_name(text: str) -> bool:
    return text.isprintable() and not text.startswith(".") and not NOT_IN_A_NAME.intersection(text) and len(text) <= 200

"""Which images a batch is of: files, DICOM folders, directories of such, and lists of images as CSV tables.

A list has a column ``image``, a path that is relative to the list's own folder or absolute, and if it likes a column
``name``, what the results are called. Other columns are left alone, so that a worklist from elsewhere will do.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from ppcmi.data_folders import open_table
from ppcmi.errors import ReadError
from ppcmi.sources import FoundSources, ImageSource, LeftOut, find_sources

LIST_ENDING = ".csv"
NOT_IN_A_NAME = frozenset('<>:"/\\|?*')
"""Characters that a file name cannot have on one of the systems."""

LONGEST_NAME = 200
"""Bytes; file systems have 255 for a name, and an ending and the one of a file that is being written come after it."""
DIGITS_OF_A_CUT_NAME = 16


@dataclass(frozen=True, eq=False)
class BatchImage:
    """An image and, where a list says so, what its results are called."""

    source: ImageSource
    name: str | None = None


def find_batch_images(place: Path, without: Path) -> tuple[list[BatchImage], tuple[LeftOut, ...]]:
    """The images at ``place``: itself, those below it, or those in the list that it is; and what else is there.

    :param without: a folder that is left out, as results go there.
    :raises ReadError: if there is none, or the list is not such a table.
    """
    if place.suffix.lower() == LIST_ENDING and place.is_file():
        return _listed(place)
    found = find_sources(place, without)
    return [BatchImage(image) for image in found.images], found.left_out


def without_repeats(images: Iterable[BatchImage]) -> list[BatchImage]:
    """The images, each place once: a file may have been given beside the folder that it is in."""
    by_key: dict[str, BatchImage] = {}
    for image in images:
        known = by_key.setdefault(image.source.key, image)
        if known.name is None and image.name is not None:
            by_key[image.source.key] = image
    return list(by_key.values())


def result_names(images: Sequence[BatchImage], known: Mapping[str, str] | None = None) -> list[str]:
    """A name for each image's results, no two the same, and no other image's that had results here before.

    It is the list's, else the one that the image had before, else its file's without the ending, with its folder's
    where two are the same. One that is too long for a file is cut, and ends in a digest of the whole.

    :param known: names that are in use, and the key of the image that has each.
    :raises ReadError: if lists give a name twice.
    """
    used = {name.casefold(): key for name, key in (known or {}).items()}
    wanted = [None if image.name is None else _fitting(image.name) for image in images]
    listed = [name.casefold() for name in wanted if name is not None]
    if len(set(listed)) != len(listed):
        raise ReadError("The lists give two images the same name; results would take each other's place.")
    before = {key: name for name, key in (known or {}).items() if name.casefold() not in listed}
    given = [name or before.get(image.source.key) for image, name in zip(images, wanted, strict=True)]
    taken = {*used, *listed}  # not told apart by case: not every file system does
    times = Counter(image.source.name for image in images)
    names = []
    for image, name in zip(images, given, strict=True):
        candidates = _candidates(image.source, alone=times[image.source.name] == 1)
        names.append(name or next(candidate for candidate in candidates if candidate.casefold() not in taken))
        taken.add(names[-1].casefold())
    return names


def _candidates(source: ImageSource, *, alone: bool) -> Iterator[str]:
    with_folder = f"{source.path.resolve().parent.name}-{source.name}"
    if alone:
        yield _fitting(source.name)
    yield _fitting(with_folder)
    for number in count(2):
        yield _fitting(f"{with_folder}-{number}")


def _fitting(name: str) -> str:
    whole = os.fsencode(name)
    if len(whole) <= LONGEST_NAME:
        return name
    beginning = whole[: LONGEST_NAME - DIGITS_OF_A_CUT_NAME - 1].decode("utf-8", "ignore")
    return f"{beginning}-{hashlib.sha256(whole).hexdigest()[:DIGITS_OF_A_CUT_NAME]}"


def _listed(table: Path) -> tuple[list[BatchImage], tuple[LeftOut, ...]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            reader = open_table(stream)
            if "image" not in (reader.fieldnames or ()):
                raise ReadError("The list has no column 'image'; its first line names the columns.")
            rows = [((row["image"] or "").strip(), (row.get("name") or "").strip()) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ReadError("The list is not a table of comma-separated UTF-8 text.") from error
    if not any(path for path, _ in rows):
        raise ReadError("The list names no image.")
    if not all(_is_name(name) for _, name in rows if name):
        raise ReadError("The list's column 'name' has a name that no file can have; use letters, digits, '-' and '_'.")
    images: list[BatchImage] = []
    left_out: list[LeftOut] = []
    for path, name in rows:
        if path:
            found = _found(table.parent / path)
            left_out += found.left_out
            several = len(found.images) > 1
            images += [BatchImage(s, f"{name}-{s.mark}" if name and several else name or None) for s in found.images]
    return images, tuple(left_out)


def _found(place: Path) -> FoundSources:
    """The images at a place of a list; where there is none the others go on."""
    try:
        return find_sources(place)
    except ReadError as error:
        return FoundSources((ImageSource(place, refusal=error),))


def _is_name(text: str) -> bool:
    return text.isprintable() and not text.startswith(".") and not NOT_IN_A_NAME.intersection(text)

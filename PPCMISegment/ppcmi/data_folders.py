"""The cases of a data folder: images, the labels of the same names, and the table that splits them."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from ppcmi.errors import ReadError
from ppcmi.formats.slicer_scene import SCENE_ENDING
from ppcmi.sources import IMAGES_FOLDER, LABEL_FOLDERS, find_images, image_stem, is_image

FOLDS = ("train", "val", "test")
KNOWN_COLUMNS = ("id", "fold", "site")


@dataclass(frozen=True)
class CaseFiles:
    """One case of a data folder. ``name`` stays at the site.

    :param fold: train, val or test where the folder's ``split.csv`` says so, and ``site`` likewise.
    :param attributes: every other column of ``split.csv``.
    """

    name: str
    image: Path
    label: Path | None
    fold: str | None = None
    site: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)


def find_cases(folder: Path) -> list[CaseFiles]:
    """Cases of a folder with ``images/`` and, as far as they exist, ``labels/`` and ``split.csv``, sorted by name.

    A label belongs to the image of the same name without ending; a scene of 3D Slicer (``.mrb``) has its own.
    ``split.csv`` has a column ``id``, the same names, and any of ``fold``, ``site`` and others.

    :raises ReadError: if there is no such folder, it has no images, two have the same name, or the table has no column
        ``id``, a case twice, an unknown fold, or none of the images.
    """
    if not folder.is_dir():
        raise ReadError("There is no such data folder; check its name.")
    images = _by_stem(find_images(folder / IMAGES_FOLDER)) if (folder / IMAGES_FOLDER).is_dir() else {}
    if not images:
        raise ReadError("The data folder has no folder 'images' with images in it.")
    label_folder = next((folder / name for name in LABEL_FOLDERS if (folder / name).is_dir()), None)
    labels = {} if label_folder is None else _by_stem([p for p in sorted(label_folder.iterdir()) if is_image(p)])
    rows = _split_rows(folder / "split.csv")
    if rows and not rows.keys() & images.keys():
        raise ReadError("The data folder's split.csv names none of its images; 'id' is an image's name without ending.")
    cases = []
    for name, image in sorted(images.items()):
        row = rows.get(name, {})
        others = {key: value for key, value in row.items() if key not in KNOWN_COLUMNS}
        label = labels.get(name, image if image.name.lower().endswith(SCENE_ENDING) else None)
        cases.append(CaseFiles(name, image, label, row.get("fold") or None, row.get("site") or None, others))
    return cases


def unmatched(folder: Path) -> tuple[list[str], list[str]]:
    """Names in ``split.csv`` without an image, and of images that it does not name; none of either without a table.

    :raises ReadError: as :func:`find_cases`.
    """
    rows, images = _split_rows(folder / "split.csv"), _by_stem(find_images(folder / IMAGES_FOLDER))
    return (sorted(rows.keys() - images.keys()), sorted(images.keys() - rows.keys())) if rows else ([], [])


def open_table(stream: TextIO) -> csv.DictReader[str]:
    """The rows of a table whose first line names the columns, separated by commas, or by semicolons."""
    heading = stream.readline()
    stream.seek(0)
    semicolons = ";" in heading and "," not in heading  # as spreadsheets write where commas are decimal
    return csv.DictReader(stream, delimiter=";" if semicolons else ",", skipinitialspace=True)


def of_fold(cases: Sequence[CaseFiles], fold: str) -> list[CaseFiles]:
    """The cases of a fold; all of them where none has a fold."""
    if all(case.fold is None for case in cases):
        return list(cases)
    return [case for case in cases if case.fold == fold]


def _by_stem(paths: list[Path]) -> dict[str, Path]:
    by_stem = {image_stem(path): path for path in paths}
    if len(by_stem) != len(paths):
        raise ReadError("Two files of the data folder have the same name but for their ending; remove one of them.")
    return by_stem


def _column(name: str) -> str:
    """A column's name as it is meant: blanks and capitals of the known ones would have folds ignored."""
    meant = name.strip()
    return meant.lower() if meant.lower() in KNOWN_COLUMNS else meant


def _split_rows(path: Path) -> dict[str, dict[str, str]]:
    """Rows of ``split.csv`` by ``id``; none if there is no such file."""
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            table = open_table(stream)
            table.fieldnames = [_column(name) for name in table.fieldnames or ()]
            if "id" not in table.fieldnames:
                raise ReadError("The data folder's split.csv has no column 'id'.")
            rows = [{key: (value or "").strip() for key, value in row.items() if key is not None} for row in table]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ReadError("The data folder's split.csv is not a table of comma-separated UTF-8 text.") from error
    for number, row in enumerate(rows, start=2):
        if row.get("fold", "") not in ("", *FOLDS):
            raise ReadError(
                f"The data folder's split.csv has another word in line {number} where 'fold' is train, val or test."
            )
    by_id = {row["id"]: row for row in rows}
    if len(by_id) != len(rows):
        raise ReadError("The data folder's split.csv names a case twice; leave one row of it.")
    return by_id

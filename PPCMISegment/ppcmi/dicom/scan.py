"""The DICOM images among many files, by their UIDs: the volumes of each series, and what is no image."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ppcmi.dicom.headers import FileHeader, read_header
from ppcmi.dicom.stacks import FoundVolume, volumes_of
from ppcmi.errors import ReadError

DICOM_ENDINGS = (".dcm", ".ima")

DAMAGED_BESIDE = "A DICOM file is damaged or cannot be opened, and may be part of the image; copy or export it again."
TWO_OF_ONE_UID = "Two different DICOM images have the same UID; export the series again."


@dataclass(frozen=True, eq=False)
class FoundSeries:
    """A series and its volumes, in a fixed order.

    :param no_images: of its files, those that are no images to segment, and :attr:`FileHeader.no_image` says why.
    :param copies: how many files are copies of others.
    """

    number: int | None
    uid: str
    volumes: tuple[FoundVolume, ...]
    no_images: tuple[FileHeader, ...] = ()
    copies: int = 0


@dataclass(frozen=True)
class Scan:
    """What was found among files.

    :param others: files that are no DICOM files.
    :param damaged: with what is wrong with them, in a sentence.
    """

    series: tuple[FoundSeries, ...]
    others: tuple[Path, ...] = ()
    damaged: Mapping[Path, str] | None = None


def scan(files: Iterable[Path]) -> Scan:
    """Read the files' headers and put their images together, by series and place, not by name or folder."""
    by_series: dict[str, list[FileHeader]] = {}
    others: list[Path] = []
    damaged: dict[Path, str] = {}
    for file in files:
        try:
            header = read_header(file)
        except ReadError as error:
            damaged[file] = str(error)
            continue
        if header is not None:
            by_series.setdefault(header.series_uid, []).append(header)
        elif file.suffix.lower() in DICOM_ENDINGS:
            damaged[file] = "The file has the name of a DICOM file but is none; copy or export it again."
        else:
            others.append(file)
    touched = {file.parent for file in damaged}
    series = [_series(uid, headers, touched) for uid, headers in by_series.items()]
    return Scan(tuple(sorted(series, key=_order)), tuple(others), damaged)


def place_of(volume: FoundVolume) -> Path:
    """The file of a single picture, else the folder below which all files of the volume are."""
    files = [header.file for header in volume.files]
    if volume.picture:
        return files[0]
    return Path(os.path.commonpath([file.parent for file in files]))


def _series(uid: str, headers: Sequence[FileHeader], touched: set[Path]) -> FoundSeries:
    images = [header for header in headers if not header.no_image]
    single, differ = _without_copies(images)
    refused = FoundVolume(tuple(single), refusal=ReadError(TWO_OF_ONE_UID))
    volumes = [refused] if differ else volumes_of(single)
    return FoundSeries(
        next((header.series_number for header in headers if header.series_number is not None), None),
        uid,
        tuple(_refused_beside(volume, touched) for volume in volumes),
        tuple(header for header in headers if header.no_image),
        len(images) - len(single),
    )


def _without_copies(headers: Sequence[FileHeader]) -> tuple[list[FileHeader], bool]:
    """Each instance once, and whether two that are said to be the same lie at different places."""
    by_instance: dict[str, FileHeader] = {}
    differ = False
    for header in headers:
        first = by_instance.setdefault(header.instance_uid, header)
        differ |= _places(first) != _places(header)
    return list(by_instance.values()), differ


def _places(header: FileHeader) -> list[object]:
    places = [frame.place for frame in header.frames]
    return [header.size, *(None if place is None else place.position.tolist() for place in places)]


def _refused_beside(volume: FoundVolume, touched: set[Path]) -> FoundVolume:
    """The volume, refused where a damaged file in its folder may have been one of its slices."""
    beside = any(header.file.parent in touched for header in volume.files)
    if volume.refusal is not None or volume.picture or not beside:
        return volume
    return FoundVolume(volume.files, refusal=ReadError(DAMAGED_BESIDE))


def _order(series: FoundSeries) -> tuple[bool, int, str]:
    return series.number is None, series.number or 0, series.uid

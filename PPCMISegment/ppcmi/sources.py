"""Where images lie: files of known formats and DICOM folders, found by name and by what is in them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ppcmi.dicom.frames import DicomVolume
from ppcmi.dicom_series import is_dicom_file, is_dicom_folder, series_volume
from ppcmi.errors import ReadError

PICTURE_ENDINGS = (".png", ".tif", ".tiff")
VOLUME_ENDINGS = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
IMAGE_ENDINGS = (".nii.gz", ".seg.nrrd", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".dcm", *PICTURE_ENDINGS)
"""Longest first, so that the first that fits is the whole ending."""


@dataclass(frozen=True, eq=False)
class ImageSource:
    """One image, wherever it lies.

    :param path: the file, or the folder below which the volume's DICOM files were found.
    :param dicom: which files or frames, if it is DICOM.
    :param mark: what tells it from the other volumes at ``path``, such as ``series5-2``; empty if there is no other.
    """

    path: Path
    dicom: DicomVolume | None = None
    mark: str = ""

    @property
    def name(self) -> str:
        """What results are called: the file's name without its ending, or the folder's, with the mark."""
        return "-".join(part for part in (image_stem(self.path.resolve()), self.mark) if part)

    @property
    def key(self) -> str:
        """Identifies it in a manifest: its place, and which of the volumes there it is."""
        place = str(self.path.resolve())
        if self.dicom is None or not self.mark:
            return place
        identity = f"{self.dicom.series_uid} {self.dicom.stack}"
        return f"{place}#{hashlib.sha256(identity.encode()).hexdigest()[:16]}"


@dataclass(frozen=True)
class LeftOut:
    """What was found beside images and is none: a localizer, a dose report. ``reason`` is one sentence."""

    name: str
    reason: str


@dataclass(frozen=True)
class FoundSources:
    """The images at a place, and what else is there."""

    images: tuple[ImageSource, ...]
    left_out: tuple[LeftOut, ...] = ()


def find_sources(path: Path, without: Path | None = None) -> FoundSources:
    """The images at ``path``: itself, or those in the folder and the folders within it.

    :param without: a folder that is left out, as results go there.
    :raises ReadError: if there is none, or ``path`` is the folder that is left out.
    """
    places = find_images(path) if without is None else find_images_below(path, without)
    return FoundSources(tuple(ImageSource(place, series_volume(place) if place.is_dir() else None) for place in places))


def find_images(path: Path) -> list[Path]:
    """The images at ``path``: the file or DICOM folder itself, or what lies in the folder, sorted by name.

    :raises ReadError: if there is none.
    """
    if path.is_file() or is_dicom_folder(path):
        return [path]
    if not path.is_dir():
        raise ReadError("There is no image at the place given; check its spelling.")
    found = [entry for entry in sorted(path.iterdir()) if not entry.name.startswith(".") and is_image(entry)]
    if not found:
        raise ReadError("The folder has no image of a known format (NIfTI, NRRD, MetaImage, DICOM, PNG, TIFF).")
    return found


def find_images_below(path: Path, without: Path) -> list[Path]:
    """As :func:`find_images`, also in the folders within a folder, such as a DICOM export's patients and studies.

    :param without: a folder that is left out, as results go there.
    :raises ReadError: if there is none, or ``path`` is the folder that is left out.
    """
    if not path.is_dir() or is_dicom_folder(path):
        return find_images(path)
    if path.resolve() == without.resolve():
        raise ReadError("Images and results are in the same folder; choose another one for the results.")
    found = list(_images_below(path, without.resolve()))
    if not found:
        raise ReadError("The folder has no image of a known format (NIfTI, NRRD, MetaImage, DICOM, PNG, TIFF).")
    return found


def image_stem(path: Path) -> str:
    """File name without its image ending, of one dot or two; a folder's name as it is."""
    lower = path.name.lower()
    ending = next((e for e in IMAGE_ENDINGS if lower.endswith(e) and len(lower) > len(e)), "")
    return path.name[: len(path.name) - len(ending)]


def is_image(path: Path) -> bool:
    """Whether there is an image of a known format, or a DICOM folder."""
    if path.is_dir():
        return is_dicom_folder(path)
    return path.name.lower().endswith(IMAGE_ENDINGS) or is_dicom_file(path)


def _images_below(folder: Path, without: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or entry.resolve() == without:
            continue
        if is_image(entry):
            yield entry
        elif entry.is_dir() and not entry.is_symlink():
            yield from _images_below(entry, without)

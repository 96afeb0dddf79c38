"""Where images lie: files of known formats and DICOM folders, found by name and by what is in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ppcmi.dicom_series import is_dicom_file, is_dicom_folder
from ppcmi.errors import ReadError

PICTURE_ENDINGS = (".png", ".tif", ".tiff")
VOLUME_ENDINGS = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
IMAGE_ENDINGS = (".nii.gz", ".seg.nrrd", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".dcm", *PICTURE_ENDINGS)
"""Longest first, so that the first that fits is the whole ending."""


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

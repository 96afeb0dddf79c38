"""Where images lie: files of known formats, and DICOM images, which are found by what their files say, not by names."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ppcmi.dicom.frames import DicomVolume
from ppcmi.dicom.headers import is_dicom_file
from ppcmi.dicom.kinds import QUIET
from ppcmi.dicom.scan import FoundSeries, Scan, place_of, scan
from ppcmi.errors import PpcmiError, ReadError
from ppcmi.formats.nifti import header_and_voxels_files
from ppcmi.formats.slicer_scene import SCENE_ENDING, scene_marks
from ppcmi.formats.text_headers import named_voxels_file
from ppcmi.wording import counted

PICTURE_ENDINGS = (".png", ".tif", ".tiff")
VOLUME_ENDINGS = (".nii", ".nii.gz", ".hdr", SCENE_ENDING, ".nrrd", ".nhdr", ".mha", ".mhd")
HEADER_ENDINGS = (".mhd", ".mha", ".nhdr", ".nrrd")
"""Of files that may name another one, which has the voxels."""
PAIR_ENDINGS = (".hdr", ".img")
OTHER_ENDINGS = (*VOLUME_ENDINGS, *PICTURE_ENDINGS)
"""Of images that are no DICOM."""

SEGMENTATION_ENDING = ".seg.nrrd"

IMAGE_ENDINGS = tuple(sorted((*OTHER_ENDINGS, SEGMENTATION_ENDING, ".dcm"), key=len, reverse=True))
"""Longest first, so that the first that fits is the whole ending."""

IMAGES_FOLDER, LABEL_FOLDERS = "images", ("labels", "label")
"""Of a data folder (:mod:`ppcmi.data_folders`)."""

NOTHING_THERE = "There is no image at the place given; check its spelling."
NO_IMAGES = "The folder has no DICOM images and no files of another known format (NIfTI, NRRD, MetaImage, PNG, TIFF)."

A_SEGMENTATION = "It is a segmentation, which belongs to an image."
LABELS = "It has the labels of the images in the folder beside it."
ONLY_OTHERS = "The folder has no DICOM images to segment but other objects alone, such as reports."


@dataclass(frozen=True, eq=False)
class ImageSource:
    """One image, wherever it lies.

    :param path: the file, or the folder below which the volume's DICOM files were found.
    :param dicom: which files or frames, if it is DICOM.
    :param mark: what tells it from the other volumes at ``path``, such as ``series5-2``; empty if there is no other.
    :param refusal: why it cannot be read, where that was seen while it was found; reading it raises this.
    """

    path: Path
    dicom: DicomVolume | None = None
    mark: str = ""
    refusal: PpcmiError | None = None

    @property
    def name(self) -> str:
        """What results are called: the file's name without its ending, or the folder's, with the mark."""
        return "-".join(part for part in (image_stem(self.path.resolve()), self.mark) if part)

    @property
    def key(self) -> str:
        """Identifies it in a manifest: its place, and which of the volumes there it is."""
        place = str(self.path.resolve())
        if not self.mark:
            return place
        identity = self.mark if self.dicom is None else f"{self.dicom.series_uid} {self.dicom.stack}"
        return f"{place}#{hashlib.sha256(identity.encode()).hexdigest()[:16]}"

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that it is read from, also the one with the voxels that a header beside it names."""
        if self.dicom is not None:
            return self.dicom.files
        return tuple(dict.fromkeys((self.path, *_voxels_files(self.path))))


@dataclass(frozen=True)
class LeftOut:
    """What was found beside images and is none: a localizer, a dose report. ``reason`` is one sentence."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class FoundSources:
    """The images at a place, and what else is there."""

    images: tuple[ImageSource, ...]
    left_out: tuple[LeftOut, ...] = ()


def find_sources(path: Path, without: Path | None = None) -> FoundSources:
    """The images at ``path``: itself, or those in the folder and the folders within it.

    DICOM files are put together by their UIDs wherever they lie. An image that cannot be read is among them, with why.
    Of a data folder, ``images/`` with ``labels/`` beside it, the labels are left out.

    :param without: a folder that is left out, as results go there.
    :raises ReadError: if there is none, or ``path`` is the folder that is left out.
    """
    if path.is_file():
        found = scan([path]) if not _has_ending(path, OTHER_ENDINGS) else Scan((), (path,))
        if path in (found.damaged or {}):
            raise ReadError((found.damaged or {})[path])
        return _sources(found, _file_sources(found.others), at=path)
    if not path.is_dir():
        raise ReadError(NOTHING_THERE)
    if without is not None and path.resolve() == without.resolve():
        raise ReadError("Images and results are in the same folder; choose another one for the results.")
    below = list(_files_below(path, None if without is None else without.resolve()))
    labels = [place for name in LABEL_FOLDERS if (place := path / name).is_dir() and (path / IMAGES_FOLDER).is_dir()]
    files = [file for file in below if not any(file.is_relative_to(place) for place in labels)]
    maybe_dicom = [file for file in files if not _has_ending(file, OTHER_ENDINGS)]
    others = [file for file in files if _has_ending(file, OTHER_ENDINGS)]
    images = _file_sources(file for file in others if not _has_ending(file, (SEGMENTATION_ENDING,)))
    sources = _sources(scan(maybe_dicom), images)
    segmentations = [LeftOut(file.name, A_SEGMENTATION) for file in others if _has_ending(file, (SEGMENTATION_ENDING,))]
    label_folders = [LeftOut(place.name, LABELS) for place in labels]
    return FoundSources(sources.images, (*sources.left_out, *segmentations, *label_folders))


def only_source(path: Path) -> ImageSource:
    """The one image at ``path``; of a folder with DICOM files the one of those, whatever else it has.

    :raises ReadError: if there is none, or more than one.
    """
    images = _direct(path).images if _is_dicom_folder(path) else find_sources(path).images
    if len(images) == 1:
        return images[0]
    series = {image.dicom.series_uid for image in images if image.dicom is not None}
    if len(series) == 1:
        raise ReadError(f"The DICOM series has {len(images)} images, such as echoes or phases; export the one to use.")
    if len(series) > 1:
        raise ReadError(f"The folder has {len(series)} DICOM series; put the one to use into a folder of its own.")
    raise ReadError(f"The folder has {len(images)} images; give the file of the one to use.")


def find_images(path: Path) -> list[Path]:
    """The images at ``path``: the file or DICOM folder itself, or what lies in the folder, sorted by name.

    :raises ReadError: if there is none.
    """
    if path.is_file() or _is_dicom_folder(path):
        return [path]
    if not path.is_dir():
        raise ReadError(NOTHING_THERE)
    found = [entry for entry in sorted(path.iterdir()) if not entry.name.startswith(".") and is_image(entry)]
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
        return _is_dicom_folder(path)
    return path.name.lower().endswith(IMAGE_ENDINGS) or is_dicom_file(path)


def _direct(folder: Path) -> FoundSources:
    """The DICOM images of the files directly in a folder."""
    files = sorted(entry for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith("."))
    return _sources(scan(file for file in files if not _has_ending(file, OTHER_ENDINGS)), [])


def _is_dicom_folder(path: Path) -> bool:
    """Whether a DICOM file lies directly in the folder."""
    return path.is_dir() and any(is_dicom_file(entry) for entry in path.iterdir() if entry.is_file())


def _sources(found: Scan, others: Sequence[ImageSource], at: Path | None = None) -> FoundSources:
    """Sources of DICOM volumes and of other files, sorted by place.

    :param at: the place of all of them, else each has its own.
    """
    images = [*others, *_dicom_sources(found.series, at)]
    left_out = list(_left_out(found.series))
    refused = {image.path for image in images if image.refusal is not None}
    for file, reason in (found.damaged or {}).items():
        if not any(file.is_relative_to(place) for place in refused):  # else the volume beside it says so
            images.append(ImageSource(file, refusal=ReadError(reason)))
    if not images:
        reasons = {left.reason for left in left_out}
        if len(reasons) == 1:
            raise ReadError(reasons.pop())
        raise ReadError(ONLY_OTHERS if reasons else NO_IMAGES)
    return FoundSources(tuple(sorted(images, key=lambda image: str(image.path))), tuple(left_out))


def _file_sources(files: Iterable[Path]) -> list[ImageSource]:
    """A source for each file, and for each volume of a scene."""
    sources = []
    for file in files:
        try:
            marks = scene_marks(file) if _has_ending(file, (SCENE_ENDING,)) else ("",)
        except ReadError as error:
            sources.append(ImageSource(file, refusal=error))
        else:
            sources += [ImageSource(file, mark=mark) for mark in marks]
    return sources


def _dicom_sources(found: Sequence[FoundSeries], at: Path | None) -> Iterator[ImageSource]:
    by_place = defaultdict(list)
    for series in found:
        for volume in series.volumes:
            by_place[at or place_of(volume)].append((series, volume))
    for place, volumes in by_place.items():
        marks = _marks([series.number for series, _ in volumes])
        for (_, volume), mark in zip(volumes, marks, strict=True):
            yield ImageSource(place, volume.volume, mark, volume.refusal)


def _marks(numbers: Sequence[int | None]) -> list[str]:
    """What tells volumes with these series numbers apart; empty for one alone."""
    if len(numbers) == 1:
        return [""]
    names = [f"series{'' if number is None else number}" for number in numbers]
    again = [names[: index + 1].count(name) for index, name in enumerate(names)]
    return [f"{name}-{n}" if names.count(name) > 1 else name for name, n in zip(names, again, strict=True)]


def _left_out(found: Sequence[FoundSeries]) -> Iterator[LeftOut]:
    for series in found:
        number = "" if series.number is None else str(series.number)
        told = [header for header in series.no_images if header.sop_class not in QUIET]
        for folder, reason in dict.fromkeys((header.file.parent, header.no_image) for header in told):
            yield LeftOut(f"{folder.resolve().name}-series{number}", reason)
        if series.copies:
            folder = series.volumes[0].files[0].file.parent
            sentence = f"{counted(series.copies, 'DICOM file')} are copies of others; each image is used once."
            yield LeftOut(f"{folder.resolve().name}-series{number}", sentence)


def _files_below(folder: Path, without: Path | None) -> Iterator[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise ReadError("A folder cannot be opened; check its permissions.") from error
    for entry in entries:
        if entry.name.startswith(".") or (without is not None and entry.resolve() == without):
            continue
        if entry.is_dir():
            if not entry.is_symlink():
                yield from _files_below(entry, without)
        elif entry.is_file():
            yield entry


def _voxels_files(path: Path) -> tuple[Path, ...]:
    """Files that belong to a header; none where the image cannot be read for want of them."""
    if _has_ending(path, PAIR_ENDINGS):
        try:
            return header_and_voxels_files(path)
        except ReadError:
            return ()
    named = named_voxels_file(path) if _has_ending(path, HEADER_ENDINGS) else None
    return () if named is None else (named,)


def _has_ending(path: Path, endings: tuple[str, ...]) -> bool:
    return path.name.lower().endswith(endings)

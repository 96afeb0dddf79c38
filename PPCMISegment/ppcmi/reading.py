"""Read images and label maps of any format.

Whatever the format, what comes out is a :class:`~ppcmi.volume.Volume` with the geometry that the file states, in RAS; a
file that does not state one is refused. DICOM is :mod:`ppcmi.dicom`'s, the others are :mod:`ppcmi.formats`'. Errors are
one sentence and name no file: who shows them knows which.
"""

# mypy: allow-untyped-calls
# SimpleITK annotates only some of its functions.

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppcmi.dicom.acquisition import Acquisition
from ppcmi.dicom.pixels import modality_of, read_dicom
from ppcmi.errors import ReadError
from ppcmi.formats.itk_files import ItkFile, read_itk_layers, read_itk_volume
from ppcmi.formats.nifti import NIFTI_ENDINGS, read_nifti
from ppcmi.formats.slicer_scene import SCENE_ENDING, read_member, scene_volume
from ppcmi.intensity import require_finite
from ppcmi.sources import ImageSource, only_source
from ppcmi.volume import Volume


@dataclass(frozen=True, eq=False)
class ReadImage:
    """An image as it was read.

    Without ``acquisition``, ``volume.voxels[k]`` of a DICOM image is frame ``k`` of its source, rows and columns as
    stored: ``j`` is the row, ``i`` the column.

    :param acquisition: of slices that are no regular grid (gantry tilt, uneven gaps): the volume is resampled, and this
        goes back to the slices.
    :param warnings: sentences that whoever uses the image should read.
    :param modality: that a DICOM image states, such as ``MR``; empty where nothing is stated.
    """

    volume: Volume
    acquisition: Acquisition | None = None
    warnings: tuple[str, ...] = ()
    modality: str = ""


def read_image(source: ImageSource) -> ReadImage:
    """The image at a source: NIfTI, NRRD, MetaImage, PNG or TIFF with spacing, or DICOM.

    A two-dimensional image becomes a volume of one slice.

    :raises ReadError: if there is no such image, or it is empty, in color, has a time axis, or is not finite.
    :raises GeometryError: if a file does not say how it lies in the patient or says two things, or slices of a DICOM
        series are missing.
    """
    if source.refusal is not None:
        raise source.refusal.with_traceback(None)
    if source.dicom is None:
        image = ReadImage(_read_source(source))
    else:
        image = ReadImage(*read_dicom(source.dicom), modality_of(source.dicom))
    require_finite(image.volume.voxels)
    return image


def read_volume(path: Path) -> Volume:
    """Exactly one image, at a file or in a folder, as :func:`read_image` reads it.

    :raises ReadError: as :func:`read_image`, and if there are several.
    :raises GeometryError: as :func:`read_image`.
    """
    return read_image(only_source(path)).volume


def read_labels(path: Path) -> Volume:
    """A label map, one whole number a voxel, as the smallest unsigned type that holds it.

    Of a ``.seg.nrrd`` only values that its header gives to a segment (``SegmentN_LabelValue``) count, others are 0.

    :raises ReadError: as :func:`read_volume`, and if values are not whole numbers from 0 or segments overlap.
    """
    if path.is_dir():
        raise ReadError("A segmentation is a single file; a folder was given.")
    require_file(path)
    if not is_nrrd(path):
        volume = read_volume(path)
        return Volume(label_values(volume.voxels), volume.geometry)
    file = read_itk_layers(path)
    if file.voxels.ndim > 3:
        raise ReadError("The segmentation has several layers as its segments overlap; save it as a single layer.")
    voxels = label_values(file.voxels)
    segments = _segment_values(file)
    if segments:
        voxels[~np.isin(voxels, sorted(segments))] = 0
    return Volume(voxels, file.geometry)


def is_nrrd(path: Path) -> bool:
    """Whether it is a NRRD file by its first bytes."""
    with path.open("rb") as stream:
        return stream.read(4) == b"NRRD"


def label_values(voxels: NDArray[Any]) -> NDArray[np.unsignedinteger[Any]]:
    """Voxels of a label map of any shape as uint8, or uint16 where values are larger.

    :raises ReadError: if values are not whole numbers from 0 to 65535.
    """
    require_finite(voxels)
    if voxels.min() < 0 or not (np.issubdtype(voxels.dtype, np.integer) or (voxels == np.rint(voxels)).all()):
        raise ReadError("The segmentation has values that are not whole numbers from 0; is it an image?")
    if voxels.max() > np.iinfo(np.uint16).max:
        raise ReadError("The segmentation has values above 65535; number its labels from 1.")
    return voxels.astype(np.uint8 if voxels.max() <= np.iinfo(np.uint8).max else np.uint16)


def _read_source(source: ImageSource) -> Volume:
    if not source.path.name.lower().endswith(SCENE_ENDING):
        return _read_file(source.path)
    require_file(source.path)
    item = scene_volume(source.path, source.mark)
    volume = read_member(source.path, item, _read_file)
    return Volume(volume.voxels, item.placed(volume.geometry))


def _read_file(path: Path) -> Volume:
    require_file(path)
    with path.open("rb"):  # a file that may not be opened says so here; readers call it damaged
        pass
    if path.name.lower().endswith(NIFTI_ENDINGS):
        return read_nifti(path)
    return read_itk_volume(path)


def require_file(path: Path) -> None:
    """Check that there is a file with something in it, and that it can be opened.

    :raises ReadError: if not.
    """
    if not path.is_file():
        raise ReadError("There is no image at the place given; check its spelling.")
    if path.stat().st_size == 0:
        raise ReadError("The image file is empty; copy or export it again.")
    try:
        path.open("rb").close()
    except OSError as error:
        raise ReadError("The image file cannot be opened; check its permissions.") from error


def _segment_values(file: ItkFile) -> set[int]:
    """Label values that the header of a ``.seg.nrrd`` gives to segments; none if it is no such file."""
    try:
        return {int(value) for key, value in file.fields.items() if re.fullmatch(r"Segment\d+_LabelValue", key)}
    except ValueError as error:
        raise ReadError("The segmentation's header is damaged: a label value in it is not a number.") from error

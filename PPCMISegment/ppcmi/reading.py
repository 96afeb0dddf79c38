"""Read images and label maps of any format.

Whatever the format, what comes out is a :class:`~ppcmi.volume.Volume` with the geometry that the file states, in RAS; a
file that does not state one is refused. NIfTI is :mod:`ppcmi.nifti`'s, other formats are :mod:`ppcmi.itk_files`', and
DICOM folders :mod:`ppcmi.dicom_series`'s. Errors are one sentence and name no file: who shows them knows which.
"""

# mypy: allow-untyped-calls
# SimpleITK annotates only some of its functions.

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from ppcmi.dicom.acquisition import Acquisition
from ppcmi.dicom_series import frame_positions, is_dicom_file, series_files
from ppcmi.errors import ReadError
from ppcmi.intensity import require_finite
from ppcmi.itk_files import ItkFile, read_itk_layers, read_itk_volume, volume_from_image
from ppcmi.nifti import NIFTI_ENDINGS, read_nifti
from ppcmi.sources import ImageSource
from ppcmi.volume import Volume


@dataclass(frozen=True, eq=False)
class ReadImage:
    """An image as it was read.

    Without ``acquisition``, ``volume.voxels[k]`` of a DICOM image is frame ``k`` of its source, rows and columns as
    stored: ``j`` is the row, ``i`` the column.

    :param acquisition: of slices that are no regular grid (gantry tilt, uneven gaps): the volume is resampled, and this
        goes back to the slices.
    :param warnings: sentences that whoever uses the image should read.
    """

    volume: Volume
    acquisition: Acquisition | None = None
    warnings: tuple[str, ...] = ()


def read_image(source: ImageSource) -> ReadImage:
    """The image at a source, as :func:`read_volume` reads it, with what must be known of it.

    :raises ReadError: as :func:`read_volume`.
    :raises GeometryError: as :func:`read_volume`.
    """
    return ReadImage(read_volume(source.path))


def read_volume(path: Path) -> Volume:
    """An image of one value a voxel: NIfTI, NRRD, MetaImage, PNG or TIFF with spacing, a DICOM file or series folder.

    A two-dimensional image becomes a volume of one slice.

    :raises ReadError: if there is no such image, or it is empty, in color, has a time axis, or is not finite.
    :raises GeometryError: if a file does not say how it lies in the patient or says two things, or a DICOM series is
        tilted or its slices are not evenly spaced.
    """
    volume = volume_from_image(_read_series(path)) if path.is_dir() else _read_file(path)
    require_finite(volume.voxels)
    return volume


def read_labels(path: Path) -> Volume:
    """A label map, one whole number a voxel, as the smallest unsigned type that holds it.

    Of a ``.seg.nrrd`` only values that its header gives to a segment (``SegmentN_LabelValue``) count, others are 0.

    :raises ReadError: as :func:`read_volume`, and if values are not whole numbers from 0 or segments overlap.
    """
    if path.is_dir():
        raise ReadError("A segmentation is a single file; a folder was given.")
    _require_file(path)
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


def _read_series(folder: Path) -> SimpleITK.Image:
    files = series_files(folder)
    if len(files) == 1:
        return _read_dicom_file(files[0])
    reader = SimpleITK.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileNames([str(file) for file in files])
    try:
        if len({_pixel_type(file) for file in files}) > 1:  # slices with scales of their own, as of PET
            reader.SetOutputPixelType(SimpleITK.sitkFloat32)
        image: SimpleITK.Image = reader.Execute()
    except RuntimeError as error:
        raise ReadError(
            "The DICOM series cannot be read: its images differ in size, are cut off, or their encoding is unknown."
        ) from error
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise ReadError("The DICOM series is in color; only images with one value a pixel can be segmented.")
    return image


def _pixel_type(file: Path) -> int:
    """SimpleITK's type of a DICOM file's rescaled values; the first file's would truncate the others'."""
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(file))
    reader.ReadImageInformation()
    return int(reader.GetPixelID())


def _read_file(path: Path) -> Volume:
    _require_file(path)
    if is_dicom_file(path):
        return volume_from_image(_read_dicom_file(path))
    if path.name.lower().endswith(NIFTI_ENDINGS):
        return read_nifti(path)
    return read_itk_volume(path)


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise ReadError("There is no image at the place given; check its spelling.")
    if path.stat().st_size == 0:
        raise ReadError("The image file is empty; copy or export it again.")


def _read_dicom_file(path: Path) -> SimpleITK.Image:
    positions = frame_positions(path)
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        if reader.GetNumberOfComponents() != 1:
            raise ReadError("The image has several values a voxel, such as color; save it with one (grayscale).")
        image: SimpleITK.Image = reader.Execute()
    except RuntimeError as error:
        raise ReadError("The image cannot be read: it is damaged, cut off, or of an unknown format.") from error
    if image.GetDimension() == 2:
        image = SimpleITK.JoinSeries(image)
    if positions is not None:
        _place_frames(image, positions)
    return image


def _place_frames(image: SimpleITK.Image, positions: NDArray[np.float64]) -> None:
    """Let the third axis go from frame to frame, up or down, as ITK does not."""
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    spacing = float(np.linalg.norm(step))
    direction = np.array(image.GetDirection()).reshape(3, 3)
    direction[:, 2] = step / spacing
    image.SetOrigin(positions[0].tolist())
    image.SetSpacing([*image.GetSpacing()[:2], spacing])
    image.SetDirection(direction.ravel().tolist())


def _segment_values(file: ItkFile) -> set[int]:
    """Label values that the header of a ``.seg.nrrd`` gives to segments; none if it is no such file."""
    try:
        return {int(value) for key, value in file.fields.items() if re.fullmatch(r"Segment\d+_LabelValue", key)}
    except ValueError as error:
        raise ReadError("The segmentation's header is damaged: a label value in it is not a number.") from error

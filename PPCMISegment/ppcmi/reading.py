"""Read images and segmentations with SimpleITK.

Whatever the format, what comes out is a :class:`~ppcmi.volume.Volume` with the geometry that the file states, in RAS.
DICOM folders are :mod:`ppcmi.dicom_series`'s. Errors are one sentence and name no file: who shows them knows which.
"""

# mypy: allow-untyped-calls
# SimpleITK annotates only some of its functions.

from __future__ import annotations

import gzip
import math
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from ppcmi.dicom.acquisition import Acquisition
from ppcmi.dicom_series import frame_positions, is_dicom_file, series_files
from ppcmi.errors import GeometryError, ReadError
from ppcmi.intensity import require_finite
from ppcmi.sources import PICTURE_ENDINGS, ImageSource
from ppcmi.volume import Geometry, Volume, lps_from_ras

COMPLEX = (SimpleITK.sitkComplexFloat32, SimpleITK.sitkComplexFloat64)

_NIFTI_SIZE = re.compile(r"dim\[[1-7]\]|bitpix|vox_offset")


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
    :raises GeometryError: if a DICOM series is tilted or its slices are not evenly spaced, or a NIfTI file's axes are
        not perpendicular, which SimpleITK does not read.
    """
    image = _read_series(path) if path.is_dir() else _read_file(path)
    volume = volume_from_image(image)
    require_finite(volume.voxels)
    return volume


def read_labels(path: Path) -> Volume:
    """A segmentation, one whole number a voxel, as the smallest unsigned type that holds it.

    Of a ``.seg.nrrd`` only values that its header gives to a segment (``SegmentN_LabelValue``) count, others are 0.

    :raises ReadError: as :func:`read_volume`, and if values are not whole numbers from 0 or segments overlap.
    """
    if path.is_dir():
        raise ReadError("A segmentation is a single file; a folder was given.")
    image = _read_file(path, "The segmentation has several layers as its segments overlap; save it as a single layer.")
    volume = volume_from_image(image)
    voxels = volume.voxels
    require_finite(voxels)
    if voxels.min() < 0 or not (np.issubdtype(voxels.dtype, np.integer) or (voxels == np.rint(voxels)).all()):
        raise ReadError("The segmentation has values that are not whole numbers from 0; is it an image?")
    if voxels.max() > np.iinfo(np.uint16).max:
        raise ReadError("The segmentation has values above 65535; number its labels from 1.")
    voxels = voxels.astype(np.uint8 if voxels.max() <= np.iinfo(np.uint8).max else np.uint16)
    segments = _segment_values(image)
    if segments:
        voxels[~np.isin(voxels, sorted(segments))] = 0
    return Volume(voxels, volume.geometry)


def volume_from_image(image: SimpleITK.Image) -> Volume:
    """A three-dimensional scalar SimpleITK image (LPS) as a volume (RAS)."""
    spacing, origin = np.array(image.GetSpacing()), image.GetOrigin()
    ijk_to_lps = np.eye(4)
    ijk_to_lps[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * spacing
    ijk_to_lps[:3, 3] = origin
    voxels = SimpleITK.GetArrayFromImage(image)
    return Volume(voxels, Geometry(voxels.shape, lps_from_ras @ ijk_to_lps))


def image_from_volume(volume: Volume) -> SimpleITK.Image:
    """The inverse of :func:`volume_from_image`."""
    ijk_to_lps = lps_from_ras @ volume.geometry.ijk_to_ras
    spacing = volume.geometry.spacing_mm
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(volume.voxels))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(ijk_to_lps[:3, 3].tolist())
    image.SetDirection((ijk_to_lps[:3, :3] / spacing).ravel().tolist())
    return image


def _read_series(folder: Path) -> SimpleITK.Image:
    files = series_files(folder)
    if len(files) == 1:
        return _read_file(files[0])
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


def _read_file(path: Path, several_components: str | None = None) -> SimpleITK.Image:
    if not path.is_file():
        raise ReadError("There is no image at the place given; check its spelling.")
    if path.stat().st_size == 0:
        raise ReadError("The image file is empty; copy or export it again.")
    positions = frame_positions(path) if is_dicom_file(path) else None
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        _check_header(reader, path, several_components)
        if path.name.lower().endswith((".nii", ".nii.gz")):
            _require_whole_nifti(reader, path)
        image: SimpleITK.Image = reader.Execute()
    except RuntimeError as error:
        if "orthonormal" in str(error):
            raise GeometryError("The image's axes are not perpendicular; resample it, or save it as NRRD.") from error
        raise ReadError("The image cannot be read: it is damaged, cut off, or of an unknown format.") from error
    if image.GetDimension() == 2:
        image = SimpleITK.JoinSeries(image)
    while image.GetDimension() > 3:
        image = image[..., 0]
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


def _check_header(reader: SimpleITK.ImageFileReader, path: Path, several_components: str | None) -> None:
    """Refuse what is no volume of one value a voxel before its voxels are read."""
    size = reader.GetSize()
    if len(size) < 2 or min(size) < 1:
        raise ReadError("The image has no voxels.")
    if len(size) > 3 and max(size[3:]) > 1:
        raise ReadError(several_components or "The image has a time axis; save the one volume to segment on its own.")
    if reader.GetNumberOfComponents() != 1 or reader.GetPixelID() in COMPLEX:
        raise ReadError(
            several_components or "The image has several values a voxel, such as color; save it with one (grayscale)."
        )
    if path.name.lower().endswith(PICTURE_ENDINGS) and set(reader.GetSpacing()) == {1.0}:
        raise ReadError("The picture does not say how large its pixels are; save it as NRRD or MetaImage with spacing.")


def _require_whole_nifti(reader: SimpleITK.ImageFileReader, path: Path) -> None:
    """Refuse a NIfTI file that ends before its voxels do, which ITK reads without a word.

    The last four bytes of a gzip file are its content's size (RFC 1952); only where they do not agree it is unpacked.
    """
    fields = {key: float(reader.GetMetaData(key)) for key in reader.GetMetaDataKeys() if _NIFTI_SIZE.fullmatch(key)}
    voxels = math.prod(max(1, int(size)) for key, size in fields.items() if key.startswith("dim["))
    expected = int(fields["vox_offset"]) + voxels * int(fields["bitpix"]) // 8
    with path.open("rb") as stream:
        zipped = stream.read(2) == b"\x1f\x8b"
        size = stream.seek(0, os.SEEK_END)
        if zipped:
            stream.seek(-4, os.SEEK_END)
            if int.from_bytes(stream.read(4), "little") == expected % (1 << 32):
                return
            stream.seek(0)
            try:
                with gzip.open(stream) as content:
                    size = sum(len(block) for block in iter(lambda: content.read(1 << 20), b""))
            except (EOFError, OSError, zlib.error):
                size = 0
    if size < expected:
        raise ReadError("The image is cut off: the file ends before its voxels do; copy or export it again.")


def _segment_values(image: SimpleITK.Image) -> set[int]:
    """Label values that the header of a ``.seg.nrrd`` gives to segments; none if it is no such file."""
    keys = [key for key in image.GetMetaDataKeys() if re.fullmatch(r"Segment\d+_LabelValue", key)]
    try:
        return {int(image.GetMetaData(key)) for key in keys}
    except ValueError as error:
        raise ReadError("The segmentation's header is damaged: a label value in it is not a number.") from error

"""Files that SimpleITK reads (NRRD, MetaImage, PNG, TIFF), and its images as volumes and back.

Only formats that are known here are let in, each by what is in the file, and only after its header was checked
(:mod:`ppcmi.formats.text_headers`, :mod:`ppcmi.formats.pictures`), so that nothing is put in place of what a file does
not say.
"""

# mypy: allow-untyped-calls
# SimpleITK annotates only some of its functions.

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from ppcmi.errors import ReadError
from ppcmi.formats.declared_size import require_plausible_size
from ppcmi.formats.pictures import PNG, TIFF, pixel_size_mm
from ppcmi.formats.text_headers import metaimage_voxels_file, nrrd_voxels_file
from ppcmi.volume import Geometry, Volume, lps_from_ras

COMPLEX = (SimpleITK.sitkComplexFloat32, SimpleITK.sitkComplexFloat64)
LONGEST_MAGIC = 8

DAMAGED = "The image cannot be read: it is damaged, cut off, or of an unknown format."
SEVERAL_VALUES = "The image has several values a voxel, such as color; save it with one (grayscale)."
TIME_AXIS = "The image has a time axis; save the one volume to segment on its own."


@dataclass(frozen=True, eq=False)
class ItkFile:
    """A file's voxels ``(k, j, i)``, or ``(k, j, i, layer)`` where it was asked for layers, and its text fields."""

    voxels: NDArray[Any]
    geometry: Geometry
    fields: dict[str, str]


def read_itk_volume(path: Path) -> Volume:
    """A volume, or a flat image as one slice, of one real value a voxel.

    :raises ReadError: if it is damaged, of no known format, in color, complex, or has a time axis.
    :raises GeometryError: if it does not say how it lies in the patient, or how large its voxels are.
    """
    file = _read(path, _require_one_value)
    return Volume(file.voxels, file.geometry)


def read_itk_layers(path: Path) -> ItkFile:
    """A segmentation of one or several layers, as 3D Slicer saves segments that overlap.

    :raises ReadError: as :func:`read_itk_volume`, except that several values a voxel are layers.
    :raises GeometryError: as :func:`read_itk_volume`.
    """
    return _read(path, _require_real_values)


def volume_from_image(image: SimpleITK.Image) -> Volume:
    """A three-dimensional scalar SimpleITK image (LPS) as a volume (RAS)."""
    voxels = SimpleITK.GetArrayFromImage(image)
    return Volume(voxels, _geometry(image, voxels.shape))


def image_from_volume(volume: Volume) -> SimpleITK.Image:
    """The inverse of :func:`volume_from_image`."""
    ijk_to_lps = lps_from_ras @ volume.geometry.ijk_to_ras
    spacing = volume.geometry.spacing_mm
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(volume.voxels))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(ijk_to_lps[:3, 3].tolist())
    image.SetDirection((ijk_to_lps[:3, :3] / spacing).ravel().tolist())
    return image


def _geometry(image: SimpleITK.Image, shape: tuple[int, int, int]) -> Geometry:
    ijk_to_lps = np.eye(4)
    ijk_to_lps[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    ijk_to_lps[:3, 3] = image.GetOrigin()
    return Geometry(shape, lps_from_ras @ ijk_to_lps)


def _read(path: Path, check_values: Callable[[SimpleITK.ImageFileReader], None]) -> ItkFile:
    reader_name, voxels_file, pixel_size = _checked(path)
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO(reader_name)
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        _require_three_axes(reader)
        check_values(reader)
        bytes_a_value = _bytes_of(reader.GetPixelID())
        count = math.prod(reader.GetSize()) * reader.GetNumberOfComponents()
        require_plausible_size(voxels_file.stat().st_size, count * bytes_a_value)
        image: SimpleITK.Image = reader.Execute()
    except RuntimeError as error:
        raise ReadError(DAMAGED) from error
    fields = {key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys() if key.isascii()}
    if pixel_size is not None:
        image.SetSpacing((*pixel_size, *[1.0] * (image.GetDimension() - 2)))
    if image.GetDimension() == 2:
        image = SimpleITK.JoinSeries(image)
    while image.GetDimension() > 3:
        image = image[..., 0]
    voxels = SimpleITK.GetArrayFromImage(image)
    return ItkFile(voxels, _geometry(image, voxels.shape[:3]), fields)


def _checked(path: Path) -> tuple[str, Path, tuple[float, float] | None]:
    """SimpleITK's reader for the file, the file that its voxels are in, and a picture's pixel size."""
    with path.open("rb") as stream:
        magic = stream.read(LONGEST_MAGIC)
    if magic.startswith(b"NRRD"):
        return "NrrdImageIO", nrrd_voxels_file(path), None
    if magic == PNG:
        return "PNGImageIO", path, pixel_size_mm(path)
    if magic.startswith(TIFF):
        return "TIFFImageIO", path, pixel_size_mm(path)
    if path.suffix.lower() in (".mha", ".mhd"):
        return "MetaImageIO", metaimage_voxels_file(path), None
    raise ReadError(DAMAGED)


def _require_three_axes(reader: SimpleITK.ImageFileReader) -> None:
    """Refuse what is no volume before its voxels are read."""
    size = reader.GetSize()
    if len(size) < 2 or min(size) < 1:
        raise ReadError("The image has no voxels.")
    if len(size) > 3 and max(size[3:]) > 1:
        raise ReadError(TIME_AXIS)


def _require_real_values(reader: SimpleITK.ImageFileReader) -> None:
    if reader.GetPixelID() in COMPLEX:
        raise ReadError(SEVERAL_VALUES)


def _require_one_value(reader: SimpleITK.ImageFileReader) -> None:
    _require_real_values(reader)
    if reader.GetNumberOfComponents() != 1:
        raise ReadError(SEVERAL_VALUES)


def _bytes_of(pixel_type: int) -> int:
    """Bytes of one value of a SimpleITK type, scalar or vector."""
    return int(SimpleITK.GetArrayViewFromImage(SimpleITK.Image([1, 1], pixel_type)).itemsize)

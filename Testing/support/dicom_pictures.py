"""Single DICOM pictures and slices with any pixels, made by pydicom: projections, ultrasound, odd bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, UltrasoundImageStorage, generate_uid


def a_picture(pixels: NDArray[Any], sop_class: str = CTImageStorage, **attributes: Any) -> FileDataset:
    """A data set with stored values ``(rows, columns)`` or ``(rows, columns, 3)``, all bits used; 1 mm pixels.

    :param attributes: further or other ones by keyword; None leaves one out.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    dataset.SeriesInstanceUID, dataset.StudyInstanceUID = generate_uid(), generate_uid()
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    if pixels.ndim == 3:
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    if sop_class == CTImageStorage:
        dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    if sop_class != UltrasoundImageStorage:
        dataset.PixelSpacing = [1, 1]
    content = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    dataset.PixelData = content + bytes(len(content) % 2)
    dataset["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    for keyword, value in attributes.items():
        if value is not None:
            setattr(dataset, keyword, value)
        elif keyword in dataset:
            del dataset[keyword]
    return dataset


def save(dataset: FileDataset, path: Path) -> Path:
    """Save it with its file meta information."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def a_region(
    bounds: tuple[int, int, int, int], spacing_mm: float, *, kind: int = 1, data: int = 1, units: int = 3
) -> Dataset:
    """A calibrated region of an ultrasound picture: first and last column and row, PS3.3 C.8.5.5."""
    region = Dataset()
    region.RegionLocationMinX0, region.RegionLocationMaxX1 = bounds[:2]
    region.RegionLocationMinY0, region.RegionLocationMaxY1 = bounds[2:]
    region.RegionSpatialFormat, region.RegionDataType = kind, data
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = units
    region.PhysicalDeltaX, region.PhysicalDeltaY = spacing_mm / 10, spacing_mm / 5  # rows are twice as far apart
    return region


def regions(*found: Dataset) -> Items:
    """The sequence of them."""
    return Items(found)

"""DICOM files made by pydicom, as scanners and archives make them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import CTImageStorage, EnhancedMRImageStorage, ExplicitVRLittleEndian, generate_uid

from ppcmi.volume import Geometry, Volume, lps_from_ras


def write_series(
    volume: Volume, folder: Path, *, names: Sequence[str] | None = None, series: str | None = None, **changes: Any
) -> list[Path]:
    """A file for every slice of ``volume``, whose voxels are stored values (int16 or uint16), in slice order.

    :param changes: attributes of every file by keyword; None leaves one out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    series = series or generate_uid()
    paths = [folder / name for name in names or [f"{index:03}.dcm" for index in range(len(volume.voxels))]]
    for index, path in enumerate(paths):
        dataset = _dataset(CTImageStorage, volume.voxels[index], series)
        dataset.ImagePositionPatient = _position(volume.geometry, index)
        dataset.ImageOrientationPatient = _orientation(volume.geometry)
        dataset.PixelSpacing = _pixel_spacing(volume.geometry)
        dataset.SliceThickness = float(volume.geometry.spacing_mm[2])
        dataset.InstanceNumber = index + 1
        _save(dataset, path, changes)
    return paths


def write_multi_frame(
    volume: Volume, path: Path, *, order: Sequence[int] | None = None, slopes: Sequence[float] = (1.0,), **changes: Any
) -> Path:
    """One enhanced file with the slices of ``volume`` as frames, in ``order`` of their indices."""
    order = range(len(volume.voxels)) if order is None else order
    dataset = _dataset(EnhancedMRImageStorage, volume.voxels[list(order)], generate_uid())
    dataset.NumberOfFrames = len(order)
    orientation, measures = Dataset(), Dataset()
    orientation.ImageOrientationPatient = _orientation(volume.geometry)
    measures.PixelSpacing = _pixel_spacing(volume.geometry)
    measures.SliceThickness = float(volume.geometry.spacing_mm[2])
    shared = Dataset()
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = Items([orientation]), Items([measures])
    dataset.SharedFunctionalGroupsSequence = Items([shared])
    frames = []
    for number, index in enumerate(order):
        frame, position, scale = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = _position(volume.geometry, index)
        scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = slopes[number % len(slopes)], 0.0, "US"
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = Items([position]), Items([scale])
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = Items(frames)
    _save(dataset, path, changes)
    return path


def _dataset(sop_class: str, pixels: NDArray[Any], series: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    dataset.SeriesInstanceUID, dataset.Modality = series, "CT" if sop_class == CTImageStorage else "MR"
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, int(pixels.dtype == np.int16)
    dataset.PixelData = pixels.tobytes()
    return dataset


def _save(dataset: FileDataset, path: Path, changes: dict[str, Any]) -> None:
    for keyword, value in changes.items():
        if value is None:
            del dataset[keyword]
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(path, enforce_file_format=True)


def _position(geometry: Geometry, index: int) -> list[float]:
    return _numbers((lps_from_ras @ geometry.ijk_to_ras @ (0, 0, index, 1))[:3])


def _orientation(geometry: Geometry) -> list[float]:
    directions = (lps_from_ras @ geometry.ijk_to_ras)[:3, :2] / geometry.spacing_mm[:2]
    return _numbers(directions.T.ravel())


def _pixel_spacing(geometry: Geometry) -> list[float]:
    return _numbers(geometry.spacing_mm[1::-1])


def _numbers(values: NDArray[np.float64]) -> list[float]:
    """As many digits as a DICOM decimal string has room for."""
    return [float(f"{value:.9g}") for value in values]

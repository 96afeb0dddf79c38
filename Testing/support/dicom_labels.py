"""DICOM Segmentations made by highdicom and structure sets made by pydicom, as other programs make them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from support.dicom import write_series

STUDY = {
    "StudyInstanceUID": generate_uid(), "FrameOfReferenceUID": generate_uid(), "PatientID": "4711",
    "PatientName": "", "PatientBirthDate": "", "PatientSex": "", "AccessionNumber": "", "StudyID": "", "StudyDate": "",
    "StudyTime": "", "ReferringPhysicianName": "",
}  # fmt: skip


def write_study(volume: Any, folder: Path, **changes: Any) -> list[Path]:
    """A series whose slices say of which study and space they are."""
    return write_series(volume, folder, **{**STUDY, **changes})


def write_dicom_segments(
    path: Path, images: Sequence[Path], masks: Mapping[str, NDArray[Any]], kind: str = "BINARY", **options: Any
) -> Path:
    """Masks ``(n, rows, columns)`` of segments by their labels, on the frames of single-frame ``images``.

    Floating values are fractions, of a FRACTIONAL segmentation.
    """
    descriptions = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Liver,
            algorithm_type="MANUAL",
        )
        for number, label in enumerate(masks, start=1)
    ]
    segmentation = highdicom.seg.Segmentation(
        source_images=[pydicom.dcmread(file) for file in images],
        pixel_array=np.stack(list(masks.values()), axis=-1),
        segmentation_type=kind,
        segment_descriptions=descriptions,
        series_instance_uid=generate_uid(),
        series_number=9,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="Test",
        manufacturer_model_name="Test",
        software_versions="1",
        device_serial_number="1",
        **options,
    )
    segmentation.save_as(path)
    return path


def write_structures(
    path: Path,
    contours: Mapping[str, Sequence[NDArray[np.float64]]],
    *,
    series: str = "",
    space: str = "",
    kind: str = "CLOSED_PLANAR",
) -> Path:
    """Contours ``(n, 3)`` LPS millimetres of structures by their names."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = RTStructureSetStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID, dataset.SOPInstanceUID = RTStructureSetStorage, meta.MediaStorageSOPInstanceUID
    dataset.Modality, dataset.SeriesInstanceUID = "RTSTRUCT", generate_uid()
    referenced, study, of_series = Dataset(), Dataset(), Dataset()
    of_series.SeriesInstanceUID = series or generate_uid()
    study.RTReferencedSeriesSequence = Items([of_series])
    referenced.FrameOfReferenceUID, referenced.RTReferencedStudySequence = space, Items([study])
    dataset.ReferencedFrameOfReferenceSequence = Items([referenced])
    structures, drawn = [], []
    for number, (name, shapes) in enumerate(contours.items(), start=1):
        structure, item = Dataset(), Dataset()
        structure.ROINumber, structure.ROIName, structure.ReferencedFrameOfReferenceUID = number, name, space
        item.ReferencedROINumber = number
        item.ContourSequence = Items([_contour(points, kind) for points in shapes])
        structures.append(structure)
        drawn.append(item)
    dataset.StructureSetROISequence, dataset.ROIContourSequence = Items(structures), Items(drawn)
    dataset.save_as(path, enforce_file_format=True)
    return path


def _contour(points: NDArray[np.float64], kind: str) -> Dataset:
    contour = Dataset()
    contour.ContourGeometricType, contour.NumberOfContourPoints = kind, len(points)
    contour.ContourData = [float(f"{value:.10g}") for value in points.ravel()]
    return contour

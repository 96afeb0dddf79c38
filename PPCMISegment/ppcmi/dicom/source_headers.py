"""What a DICOM result takes from the images that it was made from: patient and study, places, and references to them.

DICOM PS3.3 C.7.1 and C.7.2 (patient, study), C.7.4.1 (frame of reference), C.7.6.2 (image plane).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError
from pydicom.uid import ComputedRadiographyImageStorage, generate_uid

from ppcmi.dicom.frames import DicomFrame
from ppcmi.errors import ReadError

IDENTITY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID", "StudyDate",
    "StudyTime", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
"""What an archive files by; every object has it, though it may be empty (type 2)."""

LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")

REFERENCE_TAGS = ["SOPClassUID", "SOPInstanceUID", "NumberOfFrames", "FrameOfReferenceUID", "StudyInstanceUID"]


@dataclass(frozen=True)
class FrameReference:
    """The instance that a frame lies in; ``number`` of the frame from 1, None in an image of a single one."""

    sop_class: str
    sop_instance: str
    number: int | None


@dataclass(frozen=True, eq=False)
class SourceHeaders:
    """What the files of an image say of it.

    :param first: header of the first frame's file, its texts decoded.
    :param references: one for each frame, in their order.
    """

    first: pydicom.Dataset
    references: tuple[FrameReference, ...]


def read_source_headers(frames: Sequence[DicomFrame]) -> SourceHeaders:
    """Read the headers of an image's files again.

    :raises ReadError: if one cannot be read, or they do not say in which one study and space the frames lie.
    """
    files = dict.fromkeys(frame.file for frame in frames)
    try:
        first = pydicom.dcmread(frames[0].file, stop_before_pixels=True)
        first.decode()  # texts become characters, to be written in another encoding than the source's
        headers = {
            file: pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(REFERENCE_TAGS)) for file in files
        }
        references = tuple(_reference(headers[frame.file], frame) for frame in frames)
        studies = {str(header.get("StudyInstanceUID") or "") for header in headers.values()}
        spaces = {str(header.get("FrameOfReferenceUID") or "") for header in headers.values()}
    except (InvalidDicomError, OSError, ValueError, TypeError, AttributeError, EOFError) as error:
        raise ReadError("A DICOM file of the image is damaged or has changed; copy or export it again.") from error
    if len(studies) > 1 or "" in studies:
        raise ReadError("The DICOM images are not of one study, so no DICOM result can be filed with them.")
    if len(spaces) > 1 or ("" in spaces and len(frames) > 1):
        raise ReadError(
            "The DICOM images have no frame of reference in common, so no DICOM result can say where it lies; "
            "leave out the DICOM formats."
        )
    return SourceHeaders(first, references)


def single_frame_headers(header: pydicom.Dataset, frames: Sequence[DicomFrame]) -> list[pydicom.Dataset]:
    """A header for each frame as if it were an image of its own, with a UID of its own, which is no real one.

    A multi-frame file may hold other volumes as well, at the same places: this is only what belongs to the volume.
    """
    base = pydicom.Dataset()
    base.SOPClassUID = ComputedRadiographyImageStorage  # single frames, with a place or without
    base.StudyInstanceUID, base.SeriesInstanceUID = header.StudyInstanceUID, header.SeriesInstanceUID
    base.Modality, base.Rows, base.Columns = header.get("Modality", "OT"), header.Rows, header.Columns
    for keyword in LOSSY:
        if keyword in header:
            base[keyword] = header[keyword]
    placed = bool(header.get("FrameOfReferenceUID"))
    if placed:
        base.FrameOfReferenceUID = header.FrameOfReferenceUID
        base.PositionReferenceIndicator = header.get("PositionReferenceIndicator") or ""
        base.ImageOrientationPatient = decimals(frames[0].directions.ravel())
        base.PixelSpacing = decimals(np.array(frames[0].spacing_mm))
        base.SliceThickness = _thickness_mm(header, frames)
    for keyword in IDENTITY:
        if keyword not in base:
            setattr(base, keyword, "")  # some values of real files would be refused; copied later
    headers = []
    for frame in frames:
        single = pydicom.Dataset()
        single.update(base)
        single.SOPInstanceUID = generate_uid(prefix=None)
        if placed:
            single.ImagePositionPatient = decimals(frame.position)
        headers.append(single)
    return headers


def copy_patient_and_study(header: pydicom.Dataset, result: pydicom.Dataset) -> None:
    """Let ``result``, an object of highdicom, be filed with ``header``'s image: patient and study, word for word."""
    source = pydicom.Dataset()
    source.update(header)
    source.SOPClassUID = ComputedRadiographyImageStorage  # all images have the same modules of patient and study
    result.copy_patient_and_study_information(source)


def decimals(values: NDArray[np.float64]) -> list[pydicom.valuerep.DSfloat]:
    """Numbers in the 16 characters that a decimal string has (PS3.5 section 6.2)."""
    return [pydicom.valuerep.DSfloat(float(value), auto_format=True) for value in values]


def _reference(header: pydicom.Dataset, frame: DicomFrame) -> FrameReference:
    number = frame.index + 1 if "NumberOfFrames" in header else None
    return FrameReference(str(header.SOPClassUID), str(header.SOPInstanceUID), number)


def _thickness_mm(header: pydicom.Dataset, frames: Sequence[DicomFrame]) -> float | None:
    """As the source says, else the distance of the frames; None if neither is known."""
    groups = [
        next(iter(header.get(f"{scope}FunctionalGroupsSequence") or ()), pydicom.Dataset())
        for scope in ("Shared", "PerFrame")
    ]
    measures = [next(iter(group.get("PixelMeasuresSequence") or ()), pydicom.Dataset()) for group in groups]
    stated = [float(place.SliceThickness) for place in (header, *measures) if place.get("SliceThickness")]
    if stated and stated[0] > 0:
        return stated[0]
    if len(frames) < 2:
        return None
    heights = np.array([frame.position for frame in frames]) @ np.cross(*frames[0].directions)
    return float(np.median(np.abs(np.diff(heights))))

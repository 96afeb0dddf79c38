"""Write a result as a DICOM Segmentation, which files beside the images it was made from and lies on them to the pixel.

Its frames are the source's: same rows, columns, position and orientation, each with a reference to the instance (and
frame) that it lies on, also where slices are tilted or uneven. Patient and study are the source's, word for word.
Series and instance are new in each file: a result that was made again is another object. Planes without any structure
are left out, unless all are; every structure of the task is described, also one that was not found.

DICOM PS3.3 A.51 (Segmentation IOD), C.8.20.2 (segments), C.7.6.16.2.6 (derivation). highdicom encodes it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from ppcmi.dicom.frames import DicomVolume
from ppcmi.dicom.source_headers import (
    FrameReference,
    SourceHeaders,
    copy_patient_and_study,
    read_source_headers,
    single_frame_headers,
)
from ppcmi.errors import ReadError, SiteError
from ppcmi.files import write_atomically
from ppcmi.sources import ImageSource
from ppcmi.task import Code, Label, Task

ENDING = ".seg.dcm"
PROBABILITY_ENDING = ".probability.dcm"

PRODUCT = "PPCMI"

LONGEST_TEXT = 64
"""Characters of a long string (PS3.5 section 6.2)."""

FEWEST_PIXELS = 8
"""Of a frame: highdicom 0.28 packs the bits of smaller ones otherwise than PS3.5 section 8.1.1 has it."""

LARGEST_FRACTION = 255
"""What stands for a probability of 1."""


def require_dicom(source: ImageSource) -> DicomVolume:
    """The source's frames.

    :raises ReadError: if it is no DICOM image.
    """
    if source.dicom is None:
        raise ReadError("A DICOM result refers to DICOM images, which this is not; leave out the DICOM formats for it.")
    return source.dicom


def require_highdicom() -> None:
    """Say before anything is computed that a DICOM result could not be written.

    :raises SiteError: if highdicom is missing.
    """
    _highdicom()


def check_headers(source: ImageSource) -> None:
    """Raise what writing a result of ``source`` would raise, before it is computed.

    :raises ReadError: as :func:`write_dicom_segmentation`.
    """
    _headers(require_dicom(source))


def write_dicom_segmentation(
    labels: NDArray[np.uint8], source: ImageSource, task: Task, path: Path, provenance: Mapping[str, str]
) -> None:
    """A BINARY segmentation at ``path``, in one step: each pixel belongs to one structure or to none.

    :param labels: ``(n, rows, columns)``, values of ``task``, in the order of ``source.dicom.frames``.
    :param provenance: as :func:`ppcmi.pipeline.provenance_of` gives it.
    :raises ReadError: if ``source`` is no DICOM image, its headers cannot be read or do not say in which study or
        space it lies, or it is tiny.
    :raises SiteError: if highdicom is missing.
    :raises WriteError: if the file cannot be written.
    """
    if labels.ndim != 3 or labels.max() >= task.classes:
        raise ValueError(f"labels of task {task.identity} are (n, rows, columns) of 0 to {task.classes - 1}")
    _write(np.ascontiguousarray(labels, dtype=np.uint8), "BINARY", source, task, path, provenance)


def write_dicom_probabilities(
    probabilities: NDArray[np.float32], source: ImageSource, task: Task, path: Path, provenance: Mapping[str, str]
) -> None:
    """A FRACTIONAL segmentation at ``path``: how probable each structure is at every pixel, in steps of 1/255.

    :param probabilities: ``(K, n, rows, columns)``, class 0 the background; otherwise as
        :func:`write_dicom_segmentation`, also in what it raises.
    """
    if probabilities.ndim != 4 or len(probabilities) != task.classes:
        raise ValueError(f"probabilities of task {task.identity} are ({task.classes}, n, rows, columns)")
    fractions = np.moveaxis(np.clip(probabilities[1:], 0, 1), 0, -1)
    fractions[fractions < 0.5 / LARGEST_FRACTION] = 0  # else planes on which nothing can be seen would stay
    _write(fractions, "FRACTIONAL", source, task, path, provenance)


def _write(
    pixels: NDArray[Any], kind: str, source: ImageSource, task: Task, path: Path, provenance: Mapping[str, str]
) -> None:
    volume = require_dicom(source)
    frames, headers = volume.frames, _headers(volume)
    image = headers.first
    if len(frames) != len(pixels):
        raise ValueError(f"{len(pixels)} planes of labels for {len(frames)} frames of the image")
    if pixels.shape[1:3] != (image.Rows, image.Columns):
        raise ValueError(f"planes of {pixels.shape[1:3]} for frames of {(image.Rows, image.Columns)}")
    planes = single_frame_headers(image, frames)
    hd = _highdicom()
    segmentation = hd.seg.Segmentation(
        source_images=planes,
        pixel_array=pixels,
        segmentation_type=kind,
        segment_descriptions=[_segment(hd, label, task, provenance) for label in task.labels],
        series_instance_uid=generate_uid(prefix=None),
        series_number=_series_number(image),
        series_description=_text(f"{PRODUCT} {task.title}"),
        sop_instance_uid=generate_uid(prefix=None),
        instance_number=1,
        manufacturer=PRODUCT,
        manufacturer_model_name=PRODUCT,
        software_versions=_text(provenance["ppcmi"]),
        device_serial_number=_text(provenance["codec"]),
        max_fractional_value=LARGEST_FRACTION,
        omit_empty_frames=bool(pixels.any()),
        content_label="SEGMENTATION",
        content_description=_text(task.title),
        specific_character_set="ISO_IR 192",
    )
    copy_patient_and_study(image, segmentation)
    _refer(segmentation, {str(p.SOPInstanceUID): r for p, r in zip(planes, headers.references, strict=True)})
    stream = BytesIO()
    segmentation.save_as(stream, enforce_file_format=True)
    write_atomically(path, stream.getvalue())


def _headers(volume: DicomVolume) -> SourceHeaders:
    headers = read_source_headers(volume.frames)
    if headers.first.Rows * headers.first.Columns < FEWEST_PIXELS:
        raise ReadError("The image's slices have fewer than 8 pixels, which is too small for a DICOM segmentation.")
    return headers


def _segment(hd: Any, label: Label, task: Task, provenance: Mapping[str, str]) -> pydicom.Dataset:
    algorithm = hd.AlgorithmIdentificationSequence(
        name=_text(f"{PRODUCT} {task.name}"),
        family=codes.DCM.ArtificialIntelligence,
        version=_text(f"{provenance['ppcmi']} model {provenance['model']} task {task.version}"),
        source=PRODUCT,
        parameters=dict(sorted(provenance.items())),
    )
    segment: pydicom.Dataset = hd.seg.SegmentDescription(
        segment_number=label.value,
        segment_label=_text(label.name),
        segmented_property_category=_concept(hd, label.category),
        segmented_property_type=_concept(hd, label.type),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        anatomic_regions=None if label.region is None else [_concept(hd, label.region)],
        display_color=hd.color.CIELabColor.from_rgb(*label.color),
    )
    if label.modifier is not None:
        kind = segment.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [_concept(hd, label.modifier)]
    return segment


def _concept(hd: Any, code: Code) -> Any:
    return hd.sr.CodedConcept(code.value, code.scheme, _text(code.meaning))


def _refer(segmentation: pydicom.Dataset, references: Mapping[str, FrameReference]) -> None:
    """Refer to the source's instances and frames in place of the single frames that highdicom was given."""
    groups = segmentation.PerFrameFunctionalGroupsSequence
    items = [group.DerivationImageSequence[0].SourceImageSequence[0] for group in groups]
    for item in {id(item): item for item in items}.values():  # the segments of a plane share one
        found = references[str(item.ReferencedSOPInstanceUID)]
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = found.sop_class, found.sop_instance
        if found.number is not None:
            item.ReferencedFrameNumber = found.number
    instances = {(found.sop_class, found.sop_instance): pydicom.Dataset() for found in references.values()}
    for (sop_class, sop_instance), item in instances.items():
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop_instance
    segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence = list(instances.values())
    del segmentation.SourceImageSequence  # optional; each frame has its own


def _series_number(header: pydicom.Dataset) -> int:
    """Behind the source's series in a viewer's list; an integer string holds up to 2**31 - 1."""
    number = int(header.get("SeriesNumber") or 0)
    return 100 * number + 1 if 0 <= number < 10**7 else 1


def _text(text: str) -> str:
    """A long string; a backslash would part it in two."""
    return text.replace("\\", "/")[:LONGEST_TEXT].strip()


def _highdicom() -> Any:
    try:
        return importlib.import_module("highdicom")
    except ImportError as error:
        raise SiteError(
            "DICOM results need the Python package highdicom; install ppcmi with its extra 'dicom'."
        ) from error

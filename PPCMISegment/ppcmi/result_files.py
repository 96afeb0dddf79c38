"""The files of a result: which formats there are, what each needs, and writing them all.

``.seg.nrrd`` and ``.nii.gz`` lie on the grid of the volume that was segmented. DICOM results lie on the frames that
were acquired: where the volume was resampled (a tilted gantry, uneven gaps) they are brought back to them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ppcmi.confidence import ENDING as CONFIDENCE
from ppcmi.confidence import confidence_of, write_confidence
from ppcmi.dicom.segmentation_out import ENDING as DICOM_SEGMENTATION
from ppcmi.dicom.segmentation_out import PROBABILITY_ENDING as DICOM_PROBABILITIES
from ppcmi.dicom.segmentation_out import (
    check_headers,
    require_highdicom,
    write_dicom_probabilities,
    write_dicom_segmentation,
)
from ppcmi.errors import UsageError
from ppcmi.label_table import ENDING as LABEL_TABLE
from ppcmi.label_table import write_label_table
from ppcmi.pipeline import Segmentation
from ppcmi.reading import ReadImage
from ppcmi.sources import ImageSource
from ppcmi.task import Task
from ppcmi.writing import write_segmentation

FORMATS: Mapping[str, str] = {
    "seg.nrrd": ".seg.nrrd",
    "nii.gz": ".nii.gz",
    "dcm": DICOM_SEGMENTATION,
    "dcm-probability": DICOM_PROBABILITIES,
}
"""Endings of a result's file by what a user calls the format."""

ENDINGS = (".seg.nrrd", ".nii.gz")
"""What is written where nothing is said."""

ALL_ENDINGS = (*FORMATS.values(), CONFIDENCE)

DICOM_ENDINGS = (DICOM_SEGMENTATION, DICOM_PROBABILITIES)


def require_formats(endings: Sequence[str], sources: Sequence[ImageSource]) -> None:
    """Say before the first image is segmented that none could have a format; one that cannot fails alone.

    :raises UsageError: if a DICOM format is wanted, and no image is DICOM.
    :raises SiteError: if a package is missing for a format.
    """
    if not set(endings) & set(DICOM_ENDINGS):
        return
    require_highdicom()
    if sources and all(source.dicom is None and source.refusal is None for source in sources):
        raise UsageError("A DICOM result refers to DICOM images, and none of these is one; choose other formats.")


def check_source(endings: Sequence[str], source: ImageSource) -> None:
    """Say before an image is segmented that its result could not be written.

    :raises ReadError: if a DICOM result is wanted, and it is no DICOM or its headers do not say what that needs.
    """
    if source.refusal is None and set(endings) & set(DICOM_ENDINGS):
        check_headers(source)


def needs_probabilities(endings: Sequence[str], image: ReadImage) -> bool:
    """Whether :func:`write_result` asks for the probabilities of ``image``'s result."""
    wanted = {CONFIDENCE, DICOM_PROBABILITIES}
    if image.acquisition is not None:
        wanted.add(DICOM_SEGMENTATION)
    return bool(wanted & set(endings))


def write_result(
    result: Segmentation, image: ReadImage, source: ImageSource, task: Task, folder: Path, name: str, ending: str
) -> None:
    """Write ``folder/NAME.ENDING``, in one step; with ``.nii.gz`` also ``NAME.labels.json``.

    :param image: as it was read from ``source``.
    :raises WriteError: if a file cannot be written.
    :raises GeometryError: if NIfTI cannot hold a volume this large.
    :raises ReadError: if DICOM headers of the source do not say what a DICOM result needs.
    """
    path = folder / f"{name}{ending}"
    if ending == DICOM_SEGMENTATION:
        write_dicom_segmentation(_labels_on_frames(result, image), source, task, path, result.provenance)
    elif ending == DICOM_PROBABILITIES:
        write_dicom_probabilities(_probabilities_on_frames(result, image), source, task, path, result.provenance)
    elif ending == CONFIDENCE:
        write_confidence(confidence_of(_probabilities(result)), image.volume.geometry, path)
    else:
        if ending == ".nii.gz":
            write_label_table(task, folder / f"{name}{LABEL_TABLE}")
        write_segmentation(result.labels, task, path, result.provenance)


def _labels_on_frames(result: Segmentation, image: ReadImage) -> NDArray[np.uint8]:
    if image.acquisition is None:
        return np.asarray(result.labels.voxels, dtype=np.uint8)
    return image.acquisition.labels_on_slices(_probabilities(result))


def _probabilities_on_frames(result: Segmentation, image: ReadImage) -> NDArray[np.float32]:
    probabilities = _probabilities(result)
    return probabilities if image.acquisition is None else image.acquisition.probabilities_on_slices(probabilities)


def _probabilities(result: Segmentation) -> NDArray[np.float32]:
    if result.probabilities is None:
        raise ValueError("this result has no probabilities; see needs_probabilities")
    return result.probabilities

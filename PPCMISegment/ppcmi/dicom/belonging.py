"""Whether a DICOM segmentation or structure set belongs to an image: by what it refers to (PS3.3 C.7.4.1, C.7.6.16)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pydicom
from numpy.typing import NDArray

from ppcmi.dicom.headers import damage_is_a_read_error
from ppcmi.errors import GeometryError
from ppcmi.label_grid import require_inside
from ppcmi.sources import ImageSource
from ppcmi.volume import Geometry


@dataclass(frozen=True)
class References:
    """Frames of reference and series that an object names."""

    spaces: frozenset[str]
    series: frozenset[str]


def require_belonging(
    references: References, source: ImageSource | None, labelled: NDArray[np.float64], grid: Geometry
) -> None:
    """Refuse labels of another patient, study or part of the body.

    The image's series or frame of reference is proof; without one of them what is labelled must lie in the image.

    :param labelled: ``(n, 3)`` RAS millimetres of what is labelled.
    :raises GeometryError: if they do not belong together.
    """
    series, space = _identity(source)
    if series in references.series - {""}:
        return
    if space and references.spaces - {""} and space not in references.spaces:
        raise GeometryError("The segmentation was made in another frame of reference; it is another image's.")
    require_inside(labelled, grid)


def _identity(source: ImageSource | None) -> tuple[str, str]:
    """Series and frame of reference of an image, empty where they are unknown."""
    if source is None or source.dicom is None:
        return "", ""
    with damage_is_a_read_error():
        header = pydicom.dcmread(
            source.dicom.frames[0].file, stop_before_pixels=True, specific_tags=["FrameOfReferenceUID"]
        )
        return source.dicom.series_uid, str(header.get("FrameOfReferenceUID") or "")

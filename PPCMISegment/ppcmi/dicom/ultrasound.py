"""How large an ultrasound picture's pixels are, and which part of it is tissue (PS3.3 C.8.5.5, US Region Calibration).

A region is a rectangle of the picture with a calibration of its own: the B-mode picture, a spectrum beside it, a color
box within it. Only the B-mode picture of a single region says how large the anatomy is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppcmi.errors import GeometryError, ReadError

TWO_DIMENSIONAL, TISSUE, CENTIMETRES = 1, 1, 3
"""Region Spatial Format, Region Data Type and Physical Units as the standard enumerates them."""

SAME = 0.01
"""Relative difference of two statements about the spacing that counts as rounding."""

GRAY = 3
"""Largest difference between a gray pixel's colors, of 255; lossy compression moves them."""

LUMINANCE = (0.299, 0.587, 0.114)
"""Of red, green and blue (ITU-R BT.601)."""


def calibrated_spacing(dataset: Any) -> tuple[float, float]:
    """Millimetres between rows and between columns.

    :raises GeometryError: if the picture has no calibration, or two that differ.
    :raises ReadError: if it shows several pictures of tissue.
    """
    region = tissue_region(dataset)
    stated = [abs(float(value)) for value in dataset.get("PixelSpacing") or ()]
    if region is None:
        if len(stated) != 2 or min(stated) <= 0:
            raise GeometryError("The ultrasound image is not calibrated: how large its pixels are is not known.")
        return stated[0], stated[1]
    units = (region.get("PhysicalUnitsXDirection"), region.get("PhysicalUnitsYDirection"))
    spacing = [10 * abs(float(region.get(f"PhysicalDelta{axis}") or 0)) for axis in "YX"]
    if units != (CENTIMETRES, CENTIMETRES) or min(spacing) <= 0 or not max(spacing) < float("inf"):
        raise GeometryError("The ultrasound image is not calibrated in centimetres: its pixels' size is not known.")
    if len(stated) == 2 and any(abs(a - b) > SAME * b for a, b in zip(stated, spacing, strict=True)):
        raise GeometryError("The ultrasound image says two different things of its pixels' size; export it again.")
    return spacing[0], spacing[1]


def tissue_region(dataset: Any) -> Any | None:
    """The one two-dimensional region of tissue, None if the picture has no regions.

    :raises ReadError: if there are several such, or regions without tissue.
    """
    regions = list(dataset.get("SequenceOfUltrasoundRegions") or ())
    if not regions:
        return None
    found = [
        region
        for region in regions
        if (region.get("RegionSpatialFormat"), region.get("RegionDataType")) == (TWO_DIMENSIONAL, TISSUE)
    ]
    if not found:
        raise ReadError("The ultrasound image shows no two-dimensional picture of tissue, such as a Doppler spectrum.")
    if len(found) > 1:
        raise ReadError("The ultrasound image shows several pictures beside each other; export the one to segment.")
    return found[0]


def tissue_rectangle(dataset: Any, size: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of the region of tissue; the whole picture of ``size`` where there are no regions."""
    region = tissue_region(dataset)
    if region is None:
        return slice(0, size[0]), slice(0, size[1])
    bounds = [int(region.get(f"RegionLocation{name}") or 0) for name in ("MinY0", "MaxY1", "MinX0", "MaxX1")]
    return slice(max(0, bounds[0]), bounds[1] + 1), slice(max(0, bounds[2]), bounds[3] + 1)


def gray_of(colors: NDArray[Any], dataset: Any) -> NDArray[np.uint8]:
    """The luminance ``(rows, columns)`` of a picture ``(rows, columns, 3)`` that is gray where it shows tissue.

    Around it may be colored marks, which are no part of the anatomy.

    :raises ReadError: if there is color in the region of tissue, such as of a Doppler image or a mark.
    """
    tissue = colors[tissue_rectangle(dataset, colors.shape[:2])].astype(np.int16)
    if colors.dtype != np.uint8 or tissue.size == 0 or int(np.ptp(tissue, axis=2).max()) > GRAY:
        raise ReadError("The ultrasound image is in color; only images with one value a pixel can be segmented.")
    gray: NDArray[np.uint8] = np.rint(colors @ np.array(LUMINANCE)).astype(np.uint8)
    return gray

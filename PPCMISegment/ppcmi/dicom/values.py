"""How stored values become real ones (PS3.3 C.7.6.3, C.11.1), and where they are in a file that is not compressed."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from ppcmi.dicom.kinds import VALUES_WITH_UNITS, Kind, kind_of
from ppcmi.errors import ReadError

LARGEST_FRAME = 1 << 26
"""Most pixels of a frame (8192 x 8192); what is larger is no image of a patient but a damaged header."""

TYPES = {(8, 0): "u1", (8, 1): "i1", (16, 0): "u2", (16, 1): "i2", (32, 0): "u4", (32, 1): "i4"}
"""NumPy's types by Bits Allocated and Pixel Representation."""

TAGS = (
    "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope",
    "RescaleIntercept", "ModalityLUTSequence", "PixelSpacing", "BurnedInAnnotation",
)  # fmt: skip

WRITING = "The image's header says that text is burnt into it, which may name the patient; look at it before it leaves."
PERHAPS_WRITING = "The ultrasound image does not say whether text is burnt into it; look at it before it leaves."
AT_THE_DETECTOR = "The size of the image's pixels is known at the detector, not in the patient; lengths are too large."

_PIXEL_DATA = b"\xe0\x7f\x10\x00"


@dataclass(frozen=True, slots=True)
class PixelForm:
    """In which form a file has its pixels.

    :param dtype: of a stored value, little endian as all here.
    :param bits: how many of a value's bits count, ``high`` the highest of them (PS3.5 section 8.1.1).
    :param padding: the range of stored values that are no measurements (PS3.3 C.7.5.1.1.2).
    """

    rows: int
    columns: int
    dtype: np.dtype[Any]
    bits: int
    high: int
    padding: tuple[int, int] | None

    @classmethod
    def of(cls, dataset: Any) -> PixelForm:
        """What the header says.

        :raises ReadError: if it contradicts itself, or says what cannot be.
        """
        rows, columns, allocated = int(dataset.Rows), int(dataset.Columns), int(dataset.BitsAllocated)
        stored, high, signed = int(dataset.BitsStored), int(dataset.HighBit), int(dataset.PixelRepresentation)
        if rows * columns > LARGEST_FRAME or min(rows, columns) < 1:
            raise ReadError(f"The DICOM image says that it has {rows} x {columns} pixels; export it again.")
        if (allocated, signed) not in TYPES:
            raise ReadError(f"The DICOM image stores {allocated} bits a pixel; only 8, 16 and 32 can be read.")
        if not 1 <= stored <= high + 1 <= allocated:
            raise ReadError("The DICOM image contradicts itself in how many bits a pixel has; export it again.")
        return cls(
            rows, columns, np.dtype(TYPES[allocated, signed]), stored, high, _padding(dataset, allocated, signed)
        )

    @property
    def values(self) -> tuple[int, int]:
        """The smallest and the largest value that can be stored."""
        if self.dtype.kind == "i":
            return -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1
        return 0, (1 << self.bits) - 1

    def without_other_bits(self, words: NDArray[Any]) -> NDArray[Any]:
        """The bits that count alone: overlays may be in the others (PS3.5 section 8.1.1)."""
        allocated = 8 * self.dtype.itemsize
        if self.bits == allocated:
            return words
        moved: NDArray[Any] = np.left_shift(words.astype(self.dtype, copy=False), allocated - 1 - self.high)
        found: NDArray[Any] = np.right_shift(moved, allocated - self.bits)  # signs are carried along
        return found

    def is_padding(self, values: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Which stored values are padding, None if the header knows of none."""
        if self.padding is None:
            return None
        low, high = self.padding
        padded: NDArray[np.bool_] = values == low if low == high else (values >= low) & (values <= high)
        return padded


@dataclass(frozen=True, slots=True)
class NativePixels:
    """Where the pixels of a file's one frame are, as its header said while the file was as it is described here.

    :param scale: slope and intercept.
    """

    form: PixelForm
    scale: tuple[float, float]
    warnings: tuple[str, ...]
    offset: int
    file_size: int
    modified_ns: int

    def read_into(self, stream: BufferedReader, target: NDArray[Any]) -> bool:
        """Read stored values, other bits and all, to ``target``; whether the file is still the same, and did."""
        status = os.fstat(stream.fileno())
        if (status.st_size, status.st_mtime_ns) != (self.file_size, self.modified_ns):
            return False
        stream.seek(self.offset)
        return stream.readinto(target.data) == target.nbytes


def native_pixels(dataset: Any, stream: BufferedReader) -> NativePixels | None:
    """Of a header that was just read from ``stream`` up to its pixels; None where it takes more to read them.

    That is so if they are compressed or in color, in several frames, or by a lookup table, or anything is wrong.
    """
    syntax = UID(dataset.file_meta.get("TransferSyntaxUID") or "")
    if syntax not in (ExplicitVRLittleEndian, ImplicitVRLittleEndian) or syntax == DeflatedExplicitVRLittleEndian:
        return None
    if int(dataset.get("SamplesPerPixel") or 1) != 1 or int(dataset.get("NumberOfFrames") or 1) != 1:
        return None
    head = stream.read(12)
    if head[:4] != _PIXEL_DATA or dataset.get("ModalityLUTSequence"):
        return None
    explicit = syntax == ExplicitVRLittleEndian
    length = int.from_bytes(head[8:12] if explicit else head[4:8], "little")
    try:
        form = PixelForm.of(dataset)
        scale = scale_of(dataset, dataset, form.values)
    except (ReadError, AttributeError, TypeError, ValueError):
        return None  # reading it says what is wrong
    expected = form.rows * form.columns * form.dtype.itemsize
    status = os.fstat(stream.fileno())
    offset = stream.tell() - (0 if explicit else 4)
    if length not in (expected, expected + expected % 2) or offset + expected > status.st_size:
        return None
    warnings = tuple(warnings_of(dataset))
    return NativePixels(form, scale, warnings, offset, status.st_size, status.st_mtime_ns)


def scale_of(dataset: Any, transformation: Any, values: tuple[int, int]) -> tuple[float, float]:
    """Slope and intercept from stored values within ``values`` to real ones, inverted where bright is stored low.

    :param transformation: what has the rescale slope and intercept: the data set, or a frame's functional group.
    :raises ReadError: if the values have no scale.
    """
    stated = transformation.get("RescaleSlope")
    slope = 1.0 if stated is None or stated == "" else float(stated)
    intercept = float(transformation.get("RescaleIntercept") or 0)
    if not (math.isfinite(slope) and math.isfinite(intercept)) or slope == 0:
        raise ReadError("The DICOM image's values have no scale: its rescale slope is 0 or no number; export it again.")
    inverted = dataset.get("PhotometricInterpretation") == "MONOCHROME1"
    if inverted and str(dataset.get("SOPClassUID")) not in VALUES_WITH_UNITS:
        return -slope, slope * sum(values) + intercept
    return slope, intercept


def warnings_of(dataset: Any) -> Iterator[str]:
    """Sentences that whoever uses the image should read."""
    kind = kind_of(str(dataset.get("SOPClassUID") or ""))
    burnt_in = str(dataset.get("BurnedInAnnotation") or "").upper()
    if burnt_in == "YES":
        yield WRITING
    elif not burnt_in and kind is Kind.ULTRASOUND:
        yield PERHAPS_WRITING
    if kind is Kind.PROJECTION and not dataset.get("PixelSpacing"):
        yield AT_THE_DETECTOR


def _padding(dataset: pydicom.Dataset, allocated: int, signed: int) -> tuple[int, int] | None:
    value, limit = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    if value is None or value == "":
        return None
    ends = [int(value), int(value if limit is None or limit == "" else limit)]
    modulus = 1 << allocated
    ends = [end % modulus for end in ends]  # many files have its bits written with the other sign
    low, high = sorted(end - modulus if signed and end >= modulus // 2 else end for end in ends)
    return low, high

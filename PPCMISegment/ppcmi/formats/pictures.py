"""How large the pixels of a PNG or TIFF picture are, from its own header, in millimetres.

ITK reads no resolution that other programs write into PNG files, takes a picture without one to have pixels of 1 mm,
and ignores that a TIFF file counts white as zero. A resolution of screens or printers says nothing about a patient.

PNG: https://www.w3.org/TR/png-3/ (``pHYs`` in 11.3.4.3). TIFF: Adobe TIFF 6.0, sections 2, 4 and 8; BigTIFF's design.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import BinaryIO

from ppcmi.errors import GeometryError, ReadError

PNG = b"\x89PNG\r\n\x1a\n"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

PRINTED = (72, 75, 90, 96, 100, 120, 144, 150, 180, 200, 240, 300, 360, 400, 600, 720, 800, 1200, 2400)
"""Dots an inch that programs write unasked."""

_PHOTOMETRIC, _ORIENTATION, _X_RESOLUTION, _Y_RESOLUTION, _UNIT = 262, 274, 282, 283, 296
_INCH_MM = {2: 25.4, 3: 10.0}
"""TIFF's ResolutionUnit: inch and centimetre; 1 is no unit."""

_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_RATIONAL = 5
MOST_CHUNKS = 10_000

DAMAGED = "The picture cannot be read: it is damaged or cut off."
NO_SIZE = "The picture does not say how large its pixels are; save it as NRRD or MetaImage with spacing."


def pixel_size_mm(path: Path) -> tuple[float, float]:
    """Distance of neighboring pixels along columns (x) and rows (y).

    :raises ReadError: if the picture is damaged, has several pages, or counts white as zero.
    :raises GeometryError: if it does not say how large its pixels are in the patient.
    """
    try:
        with path.open("rb") as stream:
            magic = stream.read(8)
            size = _png(stream) if magic == PNG else _tiff(stream, magic)
    except (struct.error, ZeroDivisionError, OverflowError) as error:
        raise ReadError(DAMAGED) from error
    if size is None or not all(1e-6 < mm < 1e3 for mm in size):
        raise GeometryError(NO_SIZE)
    if all(any(abs(25.4 / mm - dots) < 0.02 for dots in PRINTED) for mm in size):
        raise GeometryError(
            f"The picture says how large a screen or printer shows it ({25.4 / size[0]:.0f} dots an inch), not how "
            "large its pixels are in the patient; save it as NRRD or MetaImage with spacing."
        )
    return size


def _png(stream: BinaryIO) -> tuple[float, float] | None:
    """From the chunk ``pHYs``, which comes before the pixels."""
    for _ in range(MOST_CHUNKS):
        length, kind = struct.unpack(">I4s", stream.read(8))
        if kind == b"pHYs":
            content = stream.read(length) if length == 9 else b""
            if stream.read(4) != zlib.crc32(kind + content).to_bytes(4, "big"):
                raise ReadError(DAMAGED)
            x, y, unit = struct.unpack(">IIB", content)
            return (1000 / x, 1000 / y) if unit == 1 else None  # without a unit it is only a ratio
        if kind in (b"IDAT", b"IEND"):
            return None
        stream.seek(length + 4, 1)
    raise ReadError(DAMAGED)


def _tiff(stream: BinaryIO, magic: bytes) -> tuple[float, float] | None:
    order, big = "<" if magic[:2] == b"II" else ">", magic[2:4] in (b"+\0", b"\0+")
    stream.seek(8 if big else 4)
    pointer, count, entry = ("Q", "Q", "HHQ8s") if big else ("I", "H", "HHI4s")
    stream.seek(_one(stream, order + pointer))
    tags = {}
    for _ in range(min(_one(stream, order + count), MOST_CHUNKS)):
        tag, kind, _, value = struct.unpack(order + entry, stream.read(struct.calcsize(order + entry)))
        tags[tag] = kind, value
    if _one(stream, order + pointer):
        raise ReadError("The picture has several pages, whose distance it does not say; save it as NRRD or MetaImage.")

    def integer(tag: int, default: int) -> int:
        kind, value = tags.get(tag, (0, b""))
        form = order + _INTEGERS.get(kind, "")
        return struct.unpack(form, value[: struct.calcsize(form)])[0] if kind in _INTEGERS else default

    def rational(tag: int) -> float | None:
        kind, value = tags.get(tag, (0, b""))
        if kind != _RATIONAL:
            return None
        if not big:
            stream.seek(struct.unpack(order + "I", value)[0])
            value = stream.read(8)
        numerator, denominator = struct.unpack(order + "II", value)
        return float(numerator / denominator)

    if integer(_PHOTOMETRIC, 1) == 0:
        raise ReadError("The picture counts white as zero, so that it would be read inverted; save it with black as 0.")
    if integer(_ORIENTATION, 1) != 1:
        raise ReadError("The picture is stored turned or mirrored (TIFF's Orientation); save it upright.")
    x, y, unit = rational(_X_RESOLUTION), rational(_Y_RESOLUTION), _INCH_MM.get(integer(_UNIT, 2))
    return (unit / x, unit / y) if x and y and unit else None


def _one(stream: BinaryIO, form: str) -> int:
    return int(struct.unpack(form, stream.read(struct.calcsize(form)))[0])

"""PNG files of pictures, without an imaging library: 8 bits, gray or RGB (https://www.w3.org/TR/png-3/)."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GRAY, RGB = 0, 2
FILTER_UP = 2
COMPRESSION = 9


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """``(h, w)`` gray or ``(h, w, 3)`` RGB, both from 0 to 255, as the bytes of a PNG file.

    Every row is stored as its difference to the one above, which is what makes smooth pictures small.
    """
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels, dtype=np.uint8).reshape(height, -1)
    above = np.concatenate([np.zeros_like(rows[:1]), rows[:-1]])
    lines = np.concatenate([np.full((height, 1), FILTER_UP, np.uint8), rows - above], axis=1)
    color = RGB if pixels.ndim == 3 else GRAY
    header = struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), COMPRESSION)), (b"IEND", b""))
    return SIGNATURE + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

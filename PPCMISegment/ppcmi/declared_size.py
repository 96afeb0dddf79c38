"""Whether a file can hold the voxels that its header declares, before memory is taken for them."""

from __future__ import annotations

from pathlib import Path

from ppcmi.errors import ReadError

MOST_INFLATION = 1032
"""Deflate makes at most this many bytes of one (zlib's technical details); other lossless encodings of images less."""

HEADERS = 1 << 16
"""Bytes granted to headers, and to files so small that nothing can be said of them."""


def require_plausible_size(path: Path, declared: int) -> None:
    """Refuse more voxels than the file can hold, however well it is compressed.

    :param declared: bytes of all voxels, unpacked.
    :raises ReadError: if the file is far too small for them.
    """
    if declared > path.stat().st_size * MOST_INFLATION + HEADERS:
        raise ReadError(
            "The image is damaged: it says it has far more voxels than the file can hold; copy or export it again."
        )

"""Whether a file can hold the voxels that its header declares, before memory is taken for them."""

from __future__ import annotations

from ppcmi.errors import ReadError

MOST_INFLATION = 1032
"""Deflate makes at most this many bytes of one (zlib's technical details); other lossless encodings of images less."""

HEADERS = 1 << 16
"""Bytes granted to headers, and to files so small that nothing can be said of them."""


def require_plausible_size(there: int, declared: int) -> None:
    """Refuse more voxels than a file can hold, however well it is compressed.

    :param there: bytes of the file, or of the part with the voxels.
    :param declared: bytes of all voxels, unpacked.
    :raises ReadError: if there is far too little for them.
    """
    if declared > there * MOST_INFLATION + HEADERS:
        raise ReadError(
            "The image is damaged: it says it has far more voxels than the file can hold; copy or export it again."
        )

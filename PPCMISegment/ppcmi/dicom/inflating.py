"""A deflated DICOM file (PS3.5 A.5) is inflated in memory as a whole: how large it becomes is looked at before."""

from __future__ import annotations

import zlib
from typing import BinaryIO

from ppcmi.errors import ReadError

LARGEST = 1 << 30
"""Most bytes that a deflated file may hold."""

_DEFLATED = b"1.2.840.10008.1.2.1.99"
_GROUP_LENGTH = b"\x02\x00\x00\x00UL\x04\x00"
_META_BEGINS, _LENGTH_ENDS = 132, 144
"""Where the meta information begins, after preamble and prefix, and where its length has been said (PS3.10 7.1)."""

_BLOCK = 1 << 20


def require_bounded_inflation(stream: BinaryIO) -> None:
    """Look at an open file; it stands at its beginning before and after. Files that are not deflated are fine.

    :raises ReadError: if the file would become larger than :data:`LARGEST`, or is damaged.
    """
    head = stream.read(1024)
    stream.seek(0)
    if _DEFLATED not in head:
        return
    if head[_META_BEGINS:_LENGTH_ENDS][:8] != _GROUP_LENGTH:
        raise ReadError("A DICOM file is damaged; copy or export it again.")
    stream.seek(_LENGTH_ENDS + int.from_bytes(head[_LENGTH_ENDS - 4 : _LENGTH_ENDS], "little"))
    inflater, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    try:
        while not inflater.eof:
            deflated = inflater.unconsumed_tail or stream.read(_BLOCK)
            if not deflated:
                break
            size += len(inflater.decompress(deflated, _BLOCK))
            if size > LARGEST:
                raise ReadError("A deflated DICOM file becomes far too large to be an image; export it uncompressed.")
    except zlib.error as error:
        raise ReadError("A DICOM file is damaged; copy or export it again.") from error
    finally:
        stream.seek(0)

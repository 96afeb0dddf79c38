"""What the headers of NRRD and MetaImage files say, where ITK would put something in place of what is missing.

ITK reads a volume without an orientation as if its axes were the patient's, takes an axis without a direction to be
perpendicular, ignores units, and follows a header to any file on the disk. Such files are refused here, first.

NRRD: https://teem.sourceforge.net/nrrd/format.html. MetaImage: https://itk.org/Wiki/ITK/MetaIO/Documentation.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath

from ppcmi.errors import GeometryError, ReadError

AT_ONCE = 1 << 20
LARGEST_HEADER = 1 << 24
"""Bytes; a segmentation's header holds a few hundred for each segment."""

PATIENT_SPACES = {
    "left-posterior-superior", "lps", "right-anterior-superior", "ras", "left-anterior-superior", "las",
}  # fmt: skip

DAMAGED = "The image's header is damaged; copy or export the image again."
NO_ORIENTATION = (
    "The image does not say how it lies in the patient, so left and right would be a guess; save it again with its "
    "position."
)
NO_SIZE = "The image does not say how large its voxels are; save it again with its spacing."
OTHER_UNITS = "The image's lengths are not in millimetres; save it in millimetres."
SEVERAL_FILES = "The image's voxels lie in several files; save it as one."


def nrrd_voxels_file(path: Path) -> Path:
    """Check a NRRD file's header; the file that its voxels are in, which is the same if they are attached.

    :raises ReadError: if the header is damaged, or its voxels lie in several files, in another folder, or are missing.
    :raises GeometryError: if it does not say how it lies in the patient, how large its voxels are, or in other units.
    """
    fields = _nrrd_fields(path)
    try:
        axes = int(fields["dimension"])
    except (KeyError, ValueError) as error:
        raise ReadError(DAMAGED) from error
    vectors = re.findall(r"\([^)]*\)|\bnone\b", fields.get("space directions", ""), re.IGNORECASE)
    directions = [vector for vector in vectors if vector.lower() != "none"]
    units = re.findall(r'"([^"]*)"', fields.get("space units", "") + fields.get("units", ""))
    if any(unit.strip().lower() not in ("", "mm", "millimeter", "millimetre") for unit in units[:3]):
        raise GeometryError(OTHER_UNITS)
    if axes <= 2:
        if not directions and not _are_sizes(fields.get("spacings", "")):
            raise GeometryError(NO_SIZE)
    elif fields.get("space", "").lower() not in PATIENT_SPACES or len(directions) != 3 or "space origin" not in fields:
        raise GeometryError(NO_ORIENTATION)
    where = fields.get("data file", fields.get("datafile"))
    return path if where is None else _beside(path, where)


def metaimage_voxels_file(path: Path) -> Path:
    """As :func:`nrrd_voxels_file`, for a MetaImage file."""
    fields, end = _metaimage_fields(path)
    try:
        axes = int(fields["NDims"])
        where = fields["ElementDataFile"]
    except (KeyError, ValueError) as error:
        raise ReadError(DAMAGED) from error
    if fields.get("DistanceUnits", "mm").lower() not in ("mm", ""):
        raise GeometryError(OTHER_UNITS)
    if not {"ElementSpacing", "ElementSize"} & fields.keys():
        raise GeometryError(NO_SIZE)
    if axes > 2 and not {"TransformMatrix", "Rotation", "Orientation"} & fields.keys():
        raise GeometryError(NO_ORIENTATION)
    attached = where.upper() == "LOCAL"
    if attached and fields.get("HeaderSize", "0") not in ("0", "-1"):
        raise ReadError(DAMAGED)  # ITK would read the header as voxels
    voxels = path if attached else _beside(path, where)
    if fields.get("CompressedData", "False").lower() == "true":
        _require_intact(voxels, end if attached else 0)
    return voxels


def named_voxels_file(path: Path) -> Path | None:
    """The other file that a NRRD or MetaImage header names for its voxels, as :func:`nrrd_voxels_file` finds it.

    None if they are attached, or the header is none that would be followed; that is seen when the image is read.
    """
    try:
        if path.suffix.lower() in (".mhd", ".mha"):
            where = _metaimage_fields(path)[0].get("ElementDataFile", "LOCAL")
            return None if where.upper() == "LOCAL" else _beside(path, where)
        fields = _nrrd_fields(path)
        where = fields.get("data file", fields.get("datafile", ""))
        return _beside(path, where) if where else None
    except (OSError, ReadError):
        return None


def _are_sizes(text: str) -> bool:
    """Whether a list of spacings gives a number for each of two axes; ITK takes 1 for those without."""
    try:
        sizes = [float(word) for word in text.split()]
    except ValueError:
        return False
    return len(sizes) == 2 and all(math.isfinite(size) and size != 0 for size in sizes)


def _nrrd_fields(path: Path) -> dict[str, str]:
    """Fields, not key/value pairs, by their names in small letters."""
    fields = {}
    with path.open("rb") as stream:
        if not re.match(rb"NRRD000\d", stream.readline(80)):
            raise ReadError(DAMAGED)
        for line in stream.read(LARGEST_HEADER).split(b"\n"):
            text = line.decode("utf-8", "replace").rstrip("\r")
            if not text:
                break
            name, colon, value = text.partition(": ")
            if colon and not text.startswith("#"):
                fields[name.strip().lower()] = value.strip()
    return fields


def _metaimage_fields(path: Path) -> tuple[Mapping[str, str], int]:
    """Fields up to and with ``ElementDataFile``, which is the last, and where they end."""
    fields: dict[str, str] = {}
    with path.open("rb") as stream:
        while "ElementDataFile" not in fields and stream.tell() < LARGEST_HEADER:
            line = stream.readline(1 << 16)
            name, sign, value = line.decode("utf-8", "replace").partition("=")
            if not line or not sign:
                break
            fields[name.strip()] = value.strip()
        return fields, stream.tell()


def _require_intact(path: Path, start: int) -> None:
    """Refuse packed voxels whose checksum is wrong, which ITK does not look at in MetaImage files."""
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)  # zlib's own header, or gzip's
    with path.open("rb") as stream:
        stream.seek(start)
        try:
            while not unpacker.eof and (block := stream.read(AT_ONCE)):
                while block and not unpacker.eof:
                    unpacker.decompress(block, AT_ONCE)
                    block = unpacker.unconsumed_tail
        except zlib.error as error:
            raise ReadError(DAMAGED) from error
    if not unpacker.eof:
        raise ReadError(DAMAGED)


def _beside(header: Path, where: str) -> Path:
    """The file that a header names, which must lie in the header's own folder or below.

    A header from elsewhere could name any file of this machine, whose content would be taken for voxels.
    """
    if where.upper().split()[:1] == ["LIST"] or "%" in where:
        raise ReadError(SEVERAL_FILES)
    parts = {*PurePosixPath(where).parts, *PureWindowsPath(where).parts}
    if ".." in parts or PurePosixPath(where).is_absolute() or PureWindowsPath(where).anchor:
        raise ReadError("The image's voxels lie in another folder; put them beside its header, or save it as one file.")
    voxels = header.parent / where
    if not voxels.is_file():
        raise ReadError("The image's voxels are missing: the file that its header names is not beside it.")
    return voxels

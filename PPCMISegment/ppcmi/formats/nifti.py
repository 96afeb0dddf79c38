"""Read NIfTI-1 and NIfTI-2: ``.nii``, ``.nii.gz`` and pairs of ``.hdr`` and ``.img``.

A file may say up to three times how large its voxels are and where they lie: ``sform``, ``qform`` and ``pixdim``.
Where they agree, or differ by less than half a voxel anywhere (both are rounded), the ``sform`` counts, sheared or not,
else the ``qform``. Where they do not agree programs show the image in different places: nibabel takes the ``sform``;
ITK, and so 3D Slicer, the ``qform`` where ``sform_code`` is above 1, and its voxel sizes from ``pixdim`` always. Such a
file is refused, and so is one that says nothing (both codes 0, or ANALYZE 7.5): left and right would be a guess. Units
other than millimetres are refused as well: ITK scales by them and nibabel does not.

Format: https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h and nifti2.h.
"""

# mypy: allow-untyped-calls
# nibabel annotates only some of its functions.

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from ppcmi.errors import GeometryError, ReadError
from ppcmi.formats.declared_size import require_plausible_size
from ppcmi.volume import Geometry, Matrix, Volume

NIFTI_ENDINGS = (".nii", ".nii.gz", ".hdr", ".img")

HEADER_SIZES = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}
"""``sizeof_hdr`` of each version, which is also how its byte order is told."""

LARGEST_DIMENSIONS = 7
MOST_BYTES = 1 << 48
KNOWN_CODES = range(6)
"""NIFTI_XFORM_UNKNOWN to NIFTI_XFORM_TEMPLATE_OTHER."""

UNITS_OF_SPACE, UNKNOWN_UNIT, MILLIMETRES = 0x07, 0, 2
REAL_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
"""NumPy's names of the codes ``datatype`` of one real value a voxel."""
SEVERAL_VALUES = (32, 128, 1792, 2048, 2304)
"""Codes of complex numbers and colors."""

DAMAGED = "The image cannot be read: it is damaged, cut off, or of an unknown format."


def read_nifti(path: Path) -> Volume:
    """The one volume in a NIfTI file, with real values (``scl_slope`` and ``scl_inter`` applied).

    :raises ReadError: if it is damaged, cut off, in color, complex, has a time axis, or its voxels are missing.
    :raises GeometryError: if it does not say where it lies, or says two things.
    """
    header_file, voxels_file = header_and_voxels_files(path)
    header = _header(header_file)
    shape = _shape(header)
    dtype = _dtype(header)
    geometry = Geometry(shape[::-1], _ijk_to_ras(header, shape))
    offset = _offset(header, voxels_file == header_file)
    count = math.prod(shape)
    _require_whole(voxels_file, offset, count * dtype.itemsize)
    return Volume(_voxels(voxels_file, header, shape, dtype, offset), geometry)


def header_and_voxels_files(path: Path) -> tuple[Path, Path]:
    """The file with the header and the one with the voxels, which is the same but for pairs.

    :raises ReadError: if half of a pair is missing.
    """
    if path.suffix.lower() not in (".hdr", ".img"):
        return path, path
    upper = path.suffix.isupper()
    header, voxels = (path.with_suffix(ending.upper() if upper else ending) for ending in (".hdr", ".img"))
    if not header.is_file() or not voxels.is_file():
        raise ReadError("Half of the image is missing; put the files .hdr and .img of one name beside each other.")
    return header, voxels


def _header(path: Path) -> Any:
    """The header as it is stored, in native byte order, nothing corrected."""
    try:
        with path.open("rb") as stream:
            zipped = stream.read(2) == b"\x1f\x8b"
            stream.seek(0)
            with gzip.open(stream) if zipped else stream as content:
                block = content.read(max(HEADER_SIZES))
    except (OSError, EOFError, zlib.error) as error:
        raise ReadError(DAMAGED) from error
    for order in ("<", ">"):
        size = int(np.frombuffer(block[:4].ljust(4, b"\0"), dtype=f"{order}i4")[0])
        if size in HEADER_SIZES and len(block) >= size:
            kind = HEADER_SIZES[size]
            header = kind(block[:size], endianness=order, check=False)
            if header["magic"].item().rstrip(b"\0")[:3] in (kind.single_magic[:3], kind.pair_magic[:3]):
                return header
            raise GeometryError(
                "The image does not say which side is left, as its format is ANALYZE, not NIfTI; save it as NIfTI."
            )
    raise ReadError(DAMAGED)


def _offset(header: Any, in_one_file: bool) -> int:
    """Where the voxels begin in their file."""
    offset, magic = float(header["vox_offset"]), header["magic"].item().rstrip(b"\0")
    single = magic[:3] == type(header).single_magic[:3]
    least = int(header["sizeof_hdr"]) if in_one_file else 0
    if single != in_one_file or not least <= offset < MOST_BYTES:
        raise ReadError(DAMAGED)
    return int(offset)


def _shape(header: Any) -> tuple[int, int, int]:
    """Voxels ``(i, j, k)``."""
    axes = int(header["dim"][0])
    if not 1 <= axes <= LARGEST_DIMENSIONS:
        raise ReadError(DAMAGED)
    sizes = [int(size) for size in header["dim"][1 : axes + 1]]
    if axes < 2 or min(sizes) < 1:
        raise ReadError("The image has no voxels.")
    if max(sizes[3:], default=1) > 1:
        raise ReadError("The image has a time axis; save the one volume to segment on its own.")
    i, j, k = [*sizes, 1][:3]
    return i, j, k


def _dtype(header: Any) -> np.dtype[Any]:
    """Of the voxels as they are stored."""
    code = int(header["datatype"])
    if code in SEVERAL_VALUES:
        raise ReadError("The image has several values a voxel, such as color; save it with one (grayscale).")
    if code not in REAL_TYPES:
        raise ReadError("The image's voxels are of a type that is not read; save it with 8 to 64 bits a voxel.")
    dtype = np.dtype(REAL_TYPES[code]).newbyteorder(header.endianness)
    if int(header["bitpix"]) != dtype.itemsize * 8:
        raise ReadError("The image's header is damaged: it gives its voxels two sizes; export it again.")
    return dtype


def _ijk_to_ras(header: Any, shape: tuple[int, int, int]) -> Matrix:
    sform_code, qform_code = int(header["sform_code"]), int(header["qform_code"])
    if sform_code not in KNOWN_CODES or qform_code not in KNOWN_CODES:
        raise ReadError(DAMAGED)
    if sform_code == qform_code == 0:
        raise GeometryError(
            "The image does not say how it lies in the patient (its sform and qform codes are 0), so left and right "
            "would be a guess; save it again with its position."
        )
    if int(header["xyzt_units"]) & UNITS_OF_SPACE not in (UNKNOWN_UNIT, MILLIMETRES):
        raise GeometryError("The image's lengths are not in millimetres; save it in millimetres.")
    sizes = _pixdim(header)
    qform = _qform(header, sizes) if qform_code else None
    if not sform_code:
        return np.eye(4) if qform is None else qform
    sform = np.eye(4)
    sform[:3] = [header[f"srow_{axis}"] for axis in "xyz"]
    if not np.isfinite(sform).all():
        raise GeometryError("The image's position in space is not a finite affine; export it again.")
    if qform is not None and not _agree(sform, qform, shape):
        raise GeometryError(
            "The image says two things about where it lies: its sform and its qform differ. Save it again with the "
            "right one alone."
        )
    norms = np.linalg.norm(sform[:3, :3], axis=0)
    by_pixdim = sform.copy()
    by_pixdim[:3, :3] *= sizes / np.where(norms > 0, norms, 1.0)
    if not _agree(sform, by_pixdim, shape):
        raise GeometryError(
            "The image says two things about how large its voxels are: its sform and its pixdim differ. Save it again "
            "with the right ones."
        )
    return sform


def _pixdim(header: Any) -> NDArray[np.float64]:
    """Voxel sizes along ``i, j, k``; 1 along a third axis that a flat image has no size for."""
    sizes = np.array(header["pixdim"][1:4], dtype=np.float64)
    if int(header["dim"][0]) == 2 and sizes[2] == 0:
        sizes[2] = 1.0
    if not np.isfinite(sizes).all() or (sizes <= 0).any():
        raise GeometryError("The image's voxels have no size (pixdim is not above 0); export it again.")
    return sizes


def _qform(header: Any, sizes: NDArray[np.float64]) -> Matrix:
    """Method 2 of nifti1.h: a unit quaternion, whose first part is left out, and ``qfac`` for the third axis."""
    vector = np.array([header[f"quatern_{part}"] for part in "bcd"], dtype=np.float64)
    offset = np.array([header[f"qoffset_{axis}"] for axis in "xyz"], dtype=np.float64)
    length = float(vector @ vector)
    if not np.isfinite(vector).all() or not np.isfinite(offset).all() or length > 1 + 1e-3:
        raise GeometryError("The image's position in space (qform) is not a rotation; export it again.")
    qfac = float(header["pixdim"][0])
    if qfac not in (-1.0, 0.0, 1.0):
        raise GeometryError("The image's position in space (qform) is damaged; export it again.")
    quaternion = np.array([*vector, math.sqrt(max(0.0, 1 - length))])
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_quat(quaternion).as_matrix() * sizes * (1, 1, qfac or 1.0)
    matrix[:3, 3] = offset
    return matrix


def _agree(one: Matrix, other: Matrix, shape: tuple[int, int, int]) -> bool:
    """Whether no corner voxel is half a voxel away from where the other matrix puts it."""
    corners = np.array(
        [(i, j, k, 1) for i in (0, shape[0] - 1) for j in (0, shape[1] - 1) for k in (0, shape[2] - 1)], dtype=float
    ).T
    apart = np.linalg.norm(((one - other) @ corners)[:3], axis=0).max()
    return bool(apart <= 0.5 * np.linalg.norm(one[:3, :3], axis=0).min())


def _require_whole(path: Path, offset: int, size: int) -> None:
    """Refuse a file that ends before its voxels do.

    The last four bytes of a gzip file are its content's size (RFC 1952); only where they do not agree it is unpacked.
    """
    require_plausible_size(path.stat().st_size, offset + size)
    expected = offset + size
    with path.open("rb") as stream:
        zipped = stream.read(2) == b"\x1f\x8b"
        found = stream.seek(0, os.SEEK_END)
        if zipped:
            stream.seek(-4, os.SEEK_END)
            if int.from_bytes(stream.read(4), "little") == expected % (1 << 32):
                return
            stream.seek(0)
            try:
                with gzip.open(stream) as content:
                    found = sum(len(block) for block in iter(lambda: content.read(1 << 20), b""))
            except (EOFError, OSError, zlib.error):
                found = 0
    if found < expected:
        raise ReadError("The image is cut off: the file ends before its voxels do; copy or export it again.")


def _voxels(path: Path, header: Any, shape: tuple[int, int, int], dtype: np.dtype[Any], offset: int) -> NDArray[Any]:
    """``(k, j, i)`` in native byte order."""
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    unscaled = slope == 0 or math.isnan(slope) or (slope, inter) == (1.0, 0.0)  # nibabel writes NaN where there is none
    if not unscaled and not (math.isfinite(slope) and math.isfinite(inter)):
        raise ReadError("The image's scale (scl_slope, scl_inter) is not a number; export it again.")
    try:
        with path.open("rb") as stream:
            zipped = stream.read(2) == b"\x1f\x8b"
            stream.seek(0)
            with gzip.open(stream) if zipped else stream as content:
                stored = ArrayProxy(content, (shape, dtype, offset), mmap=False).get_unscaled()
                while zipped and content.read(1 << 20):  # a checksum at the end tells damage
                    pass
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ReadError(DAMAGED) from error
    voxels = np.ascontiguousarray(np.asarray(stored).T, dtype=dtype.newbyteorder("="))
    if unscaled:
        return voxels
    precision = np.result_type(dtype, np.float32)  # float32 holds int16 exactly, int32 needs float64
    with np.errstate(over="ignore", invalid="ignore"):  # values that are not finite are refused by whoever reads
        scaled: NDArray[Any] = np.multiply(voxels, precision.type(slope), dtype=precision)
        scaled += precision.type(inter)
    return scaled

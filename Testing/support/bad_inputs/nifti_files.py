"""NIfTI files."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from ppcmi.volume import Geometry, Volume
from support.bad_inputs.kinds import BadInput, small_volume
from support.volumes import a_geometry

VOLUME = small_volume()


def nifti(path: Path, volume: Volume = VOLUME, **fields: Any) -> Path:
    """A file of nibabel's with ``fields`` of its header as they are given."""
    image = nibabel.Nifti1Image(volume.voxels.T, volume.geometry.ijk_to_ras)
    image.set_qform(volume.geometry.ijk_to_ras, 1)
    image.set_sform(volume.geometry.ijk_to_ras, 1)
    header = nibabel.Nifti1Header(image.header.binaryblock, check=False)
    for name, value in fields.items():
        header[name] = value
    content = header.binaryblock + bytes(4) + image.get_fdata().astype(volume.voxels.dtype).tobytes(order="F")
    content = bytearray(content)
    content[108:112] = np.float32(fields.get("vox_offset", 352)).tobytes()
    if "magic" not in fields:
        content[344:348] = b"n+1\0"
    zipped = path.name.lower().endswith(".gz")
    path.write_bytes(gzip.compress(bytes(content)) if zipped else bytes(content))
    return path


def _with(name: str = "x.nii", **fields: Any) -> Callable[[Path], Path]:
    return lambda folder: nifti(folder / name, **fields)


def _of(volume: Volume, name: str = "x.nii") -> Callable[[Path], Path]:
    return lambda folder: nifti(folder / name, volume)


def _cut(name: str, part: float) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = nifti(folder / name, small_volume(shape=(20, 30, 30)))
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
        return path

    return make


def _with_value(value: float) -> Volume:
    volume = small_volume(np.float32)
    volume.voxels[1, 2, 3] = value
    return volume


def _gzip_in_gzip(folder: Path) -> Path:
    path = nifti(folder / "x.nii.gz")
    path.write_bytes(gzip.compress(path.read_bytes()))
    return path


def _flipped_bit(folder: Path) -> Path:
    path = nifti(folder / "x.nii.gz", small_volume(shape=(20, 30, 30)))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    return path


def _bomb(folder: Path) -> Path:
    """A few bytes that say they are 60 GB, with a gzip trailer that agrees."""
    header = bytearray(nifti(folder / "y.nii").read_bytes()[:352])
    header[40:56] = np.array([3, 32000, 32000, 30, 1, 1, 1, 1], dtype="<i2").tobytes()
    geometry = np.array([1, 0.7, 0.9, 2.5], dtype="<f4").tobytes()
    header[76:92] = geometry
    content = bytearray(gzip.compress(bytes(header) + bytes(1 << 16)))
    content[-4:] = ((352 + 32000 * 32000 * 30 * 2) % (1 << 32)).to_bytes(4, "little")
    (folder / "y.nii").unlink()
    (folder / "x.nii.gz").write_bytes(content)
    return folder / "x.nii.gz"


def _two_volumes(folder: Path) -> Path:
    image = nibabel.Nifti1Image(np.stack([VOLUME.voxels.T] * 2, axis=-1), VOLUME.geometry.ijk_to_ras)
    nibabel.save(image, folder / "x.nii")
    return folder / "x.nii"


def _pair_without_voxels(folder: Path) -> Path:
    nibabel.save(nibabel.Nifti1Pair(VOLUME.voxels.T, VOLUME.geometry.ijk_to_ras), folder / "x.img")
    (folder / "x.img").unlink()
    return folder / "x.hdr"


def _analyze(folder: Path) -> Path:
    nibabel.save(nibabel.AnalyzeImage(VOLUME.voxels.T, None), folder / "x.img")
    return folder / "x.hdr"


def _big_endian(folder: Path) -> Path:
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    nibabel.save(
        nibabel.Nifti1Image(VOLUME.voxels.T.astype(">i2"), VOLUME.geometry.ijk_to_ras, header), folder / "x.nii"
    )
    return folder / "x.nii"


def _half_swapped(folder: Path) -> Path:
    content = bytearray(nifti(folder / "x.nii").read_bytes())
    content[:4] = content[:4][::-1]
    (folder / "x.nii").write_bytes(content)
    return folder / "x.nii"


def _spaced(*spacing: float) -> Volume:
    return Volume(VOLUME.voxels, a_geometry((4, 5, 6), spacing))


def _sheared() -> Volume:
    matrix = np.array(VOLUME.geometry.ijk_to_ras)
    matrix[1, 2] = 0.9
    return Volume(VOLUME.voxels, Geometry((4, 5, 6), matrix))


def _sheared_file(folder: Path) -> Path:
    volume = _sheared()
    image = nibabel.Nifti1Image(volume.voxels.T, volume.geometry.ijk_to_ras)
    nibabel.save(image, folder / "x.nii")
    return folder / "x.nii"


NIFTI = (
    BadInput("NIfTI cut off in its header", _cut("x.nii", 0.005), "damaged"),
    BadInput("NIfTI cut off in its voxels", _cut("x.nii", 0.7), "cut off"),
    BadInput("zipped NIfTI cut off", _cut("x.nii.gz", 0.7), "cut off|damaged"),
    BadInput("zipped NIfTI with a flipped bit", _flipped_bit, "damaged|cut off"),
    BadInput("gzip within gzip", _gzip_in_gzip, "damaged"),
    BadInput("a few bytes that declare 60 GB", _bomb, "far more voxels"),
    BadInput("NIfTI with a wrong magic", _with(magic=b"abc\0"), "ANALYZE|damaged"),
    BadInput("NIfTI of zero slices", _with(dim=(3, 6, 5, 0, 1, 1, 1, 1)), "no voxels"),
    BadInput("NIfTI with a negative dimension", _with(dim=(3, 6, -5, 4, 1, 1, 1, 1)), "no voxels"),
    BadInput("NIfTI of nine axes", _with(dim=(9, 6, 5, 4, 1, 1, 1, 1)), "damaged"),
    BadInput("NIfTI of two volumes in time", _two_volumes, "time axis"),
    BadInput("NIfTI that says float and holds integers", _with(datatype=16), "two sizes"),
    BadInput("NIfTI that says it has twice the bits", _with(datatype=16, bitpix=32), "cut off"),
    BadInput("NIfTI in color", _with(datatype=128, bitpix=24), "several values"),
    BadInput("NIfTI of complex numbers", _with(datatype=32, bitpix=64), "several values"),
    BadInput("NIfTI of an unknown type", _with(datatype=4711), "type that is not read"),
    BadInput("NIfTI without a position (both codes 0)", _with(sform_code=0, qform_code=0), "guess"),
    BadInput("NIfTI whose sform and qform differ", _with(srow_x=(1, 0, 0, 40)), "two things"),
    BadInput("NIfTI whose sform and voxel size differ", _with(qform_code=0, pixdim=(1, 3, 3, 3, 0, 0, 0, 0)), "two"),
    BadInput("NIfTI with an sform of zeros", _with(qform_code=0, srow_x=0, srow_y=0, srow_z=0), "independent|two"),
    BadInput("NIfTI with NaN in its position", _with(srow_x=(np.nan, 0, 0, 0)), "finite"),
    BadInput("NIfTI with infinity in its position", _with(qform_code=0, srow_z=(0, 0, np.inf, 0)), "finite"),
    BadInput("NIfTI of spacing 0", _with(pixdim=(1, 0.7, 0, 2.5, 0, 0, 0, 0)), "no size"),
    BadInput("NIfTI of negative spacing", _with(pixdim=(1, 0.7, -0.9, 2.5, 0, 0, 0, 0)), "no size"),
    BadInput("NIfTI in metres", _with(xyzt_units=1), "millimetres"),
    BadInput("NIfTI with an infinite scale", _with(scl_slope=np.inf), "scale"),
    BadInput("NIfTI with a huge scale", _with(scl_slope=3e38, scl_inter=1), "NaN or infinite"),
    BadInput("NIfTI whose voxels begin in its header", _with(vox_offset=16), "damaged"),
    BadInput("NIfTI with NaN in its voxels", _of(_with_value(np.nan)), "NaN or infinite"),
    BadInput("NIfTI with infinity in its voxels", _of(_with_value(np.inf), "x.nii.gz"), "NaN or infinite"),
    BadInput("half of a pair", _pair_without_voxels, "Half of the image"),
    BadInput("ANALYZE 7.5", _analyze, "ANALYZE"),
    BadInput("NIfTI with the first number in another byte order", _half_swapped, "damaged|no voxels|not read"),
    BadInput("NIfTI in the other byte order", _big_endian, VOLUME),
    BadInput("NIfTI with sheared axes", _sheared_file, _sheared()),
    BadInput("NIfTI of one voxel", _of(small_volume(shape=(1, 1, 1))), small_volume(shape=(1, 1, 1))),
    BadInput("NIfTI of equal voxels", _of(Volume(np.full((4, 5, 6), 7.5, np.float32), VOLUME.geometry)),
             Volume(np.full((4, 5, 6), 7.5, np.float32), VOLUME.geometry)),
    BadInput("NIfTI of huge spacing", _of(_spaced(900.0, 900.0, 900.0)), _spaced(900.0, 900.0, 900.0)),
    BadInput("NIfTI of tiny spacing", _of(_spaced(0.001, 0.001, 0.002)), _spaced(0.001, 0.001, 0.002)),
)  # fmt: skip

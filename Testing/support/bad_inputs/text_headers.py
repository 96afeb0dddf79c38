"""NRRD, MetaImage, PNG and TIFF files."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from ppcmi.volume import Geometry, Volume, lps_from_ras
from support.bad_inputs.kinds import BadInput, small_volume

VOXELS = small_volume().voxels
VOLUME = Volume(VOXELS, Geometry(VOXELS.shape, lps_from_ras @ np.diag([0.7, 0.9, 2.5, 1.0])))
NRRD = """\
NRRD0004
type: short
dimension: 3
space: left-posterior-superior
sizes: 6 5 4
space directions: (0.7,0,0) (0,0.9,0) (0,0,2.5)
kinds: domain domain domain
endian: little
encoding: raw
space origin: (0,0,0)
"""
META = """\
ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = False
CompressedData = False
TransformMatrix = 1 0 0 0 1 0 0 0 1
Offset = 0 0 0
ElementSpacing = 0.7 0.9 2.5
DimSize = 6 5 4
ElementType = MET_SHORT
ElementDataFile = LOCAL
"""


def _edited(text: str, changes: dict[str, str | None], separator: str) -> bytes:
    """Fields changed, left out (None) or added before the last line."""
    lines = text.splitlines()
    for name, value in changes.items():
        pattern = re.compile(rf"{re.escape(name)}\s*{separator}")
        place = next((index for index, line in enumerate(lines) if pattern.match(line)), None)
        new = [] if value is None else [f"{name}{' = ' if separator == '=' else ': '}{value}"]
        if place is None:
            lines[len(lines) - 1 : len(lines) - 1] = new
        else:
            lines[place : place + 1] = new
    return "".join(f"{line}\n" for line in lines).encode()


def _nrrd(
    changes: dict[str, str | None] | None = None, content: bytes = VOXELS.tobytes(), name: str = "x.nrrd"
) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(_edited(NRRD, changes or {}, ":") + b"\n" + content)
        return folder / name

    return make


def _meta(
    changes: dict[str, str | None] | None = None, content: bytes = VOXELS.tobytes(), name: str = "x.mha"
) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(_edited(META, changes or {}, "=") + content)
        return folder / name

    return make


def _bytes_inserted(make: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """With a field whose name is not text."""

    def insert(folder: Path) -> Path:
        path = make(folder)
        path.write_bytes(path.read_bytes().replace(b"ElementType", b"\xff\xfe\x80 = 1\nElementType"))
        return path

    return insert


def _flipped(make: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """With a bit flipped in its voxels."""

    def flip(folder: Path) -> Path:
        path = make(folder)
        content = bytearray(path.read_bytes())
        content[-60] ^= 0x10
        path.write_bytes(content)
        return path

    return flip


def _climbing(make: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """A header in a folder beside which a file lies that it must not reach."""

    def climb(folder: Path) -> Path:
        (folder / "secret.raw").write_bytes(VOXELS.tobytes())
        (folder / "study").mkdir()
        return make(folder / "study")

    return climb


def _picture(name: str, mode: str = "L", **options: object) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        Image.fromarray(np.arange(30, dtype=np.uint8).reshape(5, 6)).convert(mode).save(folder / name, **options)
        return folder / name

    return make


def _cut_picture(folder: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 255, (60, 60), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "x.png", dpi=(254, 254))
    (folder / "x.png").write_bytes((folder / "x.png").read_bytes()[:2000])
    return folder / "x.png"


_NOISE = np.random.default_rng(0).integers(0, 3, 120, dtype=np.int16).tobytes()
_PICTURE = Volume(
    np.arange(30, dtype=np.uint8).reshape(1, 5, 6), Geometry((1, 5, 6), lps_from_ras @ np.diag([0.1, 0.1, 1.0, 1.0]))
)
_SHEARED = np.diag([0.7, 0.9, 2.5, 1.0])
_SHEARED[1, 2] = 0.5
_LEFT_HANDED = np.diag([0.7, 0.9, -2.5, 1.0])

TEXT_HEADERS = (
    BadInput("NRRD cut off", _nrrd(content=VOXELS.tobytes()[:100]), "damaged"),
    BadInput("NRRD without a space", _nrrd({"space": None}), "guess|damaged"),
    BadInput("NRRD of a scanner's axes", _nrrd({"space": "scanner-xyz"}), "guess"),
    BadInput("NRRD without directions", _nrrd({"space directions": None}), "guess"),
    BadInput("NRRD without an origin", _nrrd({"space origin": None}), "guess"),
    BadInput("NRRD with an axis of no direction", _nrrd({"space directions": "(0.7,0,0) (0,0.9,0) none"}), "guess"),
    BadInput("NRRD with two equal axes", _nrrd({"space directions": "(1,0,0) (1,0,0) (0,0,1)"}), "damaged|independent"),
    BadInput("NRRD with NaN in a direction", _nrrd({"space directions": "(1,0,0) (0,nan,0) (0,0,1)"}), "damaged"),
    BadInput("NRRD in centimetres", _nrrd({"space units": '"cm" "cm" "cm"'}), "millimetres"),
    BadInput("NRRD of a dimension that is no number", _nrrd({"dimension": "three"}), "damaged"),
    BadInput("NRRD of 120 GB that is not there", _nrrd({"sizes": "50000 50000 24"}), "far more voxels|damaged"),
    BadInput("NRRD of zero slices", _nrrd({"sizes": "6 5 0"}), "no voxels|damaged"),
    BadInput("flat NRRD with NaN for a spacing", _nrrd(
        {"dimension": "2", "sizes": "6 20", "space": None, "space directions": None, "space origin": None,
         "kinds": None, "spacings": "nan 0.7"}), "how large"),
    BadInput("MetaImage whose header is said to be shorter", _meta({"HeaderSize": "10"}), "damaged"),
    BadInput("NRRD of vectors", _nrrd(
        {"dimension": "4", "sizes": "3 6 5 4", "kinds": "vector domain domain domain",
         "space directions": "none (0.7,0,0) (0,0.9,0) (0,0,2.5)"}, np.repeat(VOXELS, 3).tobytes()), "several values"),
    BadInput("NRRD whose voxels are /etc/passwd", _nrrd({"data file": "/etc/passwd"}), "another folder"),
    BadInput("NRRD whose voxels are in the folder above", _climbing(_nrrd({"data file": "../secret.raw"})), "another"),
    BadInput("NRRD whose voxels are missing", _nrrd({"data file": "gone.raw"}, name="x.nhdr"), "missing"),
    BadInput("NRRD of a list of files", _nrrd({"data file": "LIST"}), "several files"),
    BadInput("NRRD of numbered files", _nrrd({"data file": "x%03d.raw 1 4 1"}), "several files"),
    BadInput("NRRD of an unknown encoding", _nrrd({"encoding": "secret"}), "damaged"),
    BadInput("NRRD zipped, cut off", _nrrd({"encoding": "gzip"}, gzip.compress(VOXELS.tobytes())[:60]), "damaged"),
    BadInput("NRRD zipped, with a flipped bit",
             _flipped(_nrrd({"encoding": "gzip"}, gzip.compress(_NOISE))), "damaged"),
    BadInput("MetaImage zipped, with a flipped bit", _flipped(
        _meta({"CompressedData": "True\nCompressedDataSize = 70"}, zlib.compress(_NOISE))), "damaged"),
    BadInput("NRRD with sheared axes", _nrrd({"space directions": "(0.7,0,0) (0,0.9,0) (0,0.5,2.5)"}),
             Volume(VOXELS, Geometry(VOXELS.shape, lps_from_ras @ _SHEARED))),
    BadInput("left-handed NRRD", _nrrd({"space directions": "(0.7,0,0) (0,0.9,0) (0,0,-2.5)"}),
             Volume(VOXELS, Geometry(VOXELS.shape, lps_from_ras @ _LEFT_HANDED))),
    BadInput("NRRD in RAS", _nrrd({"space": "right-anterior-superior"}),
             Volume(VOXELS, Geometry(VOXELS.shape, np.diag([0.7, 0.9, 2.5, 1.0])))),
    BadInput("NRRD in the other byte order", _nrrd({"endian": "big"}, VOXELS.astype(">i2").tobytes()), VOLUME),
    BadInput("MetaImage cut off", _meta(content=VOXELS.tobytes()[:100]), "damaged"),
    BadInput("MetaImage without an orientation", _meta({"TransformMatrix": None}), "guess"),
    BadInput("MetaImage without spacing", _meta({"ElementSpacing": None}), "how large"),
    BadInput("MetaImage of spacing 0", _meta({"ElementSpacing": "0.7 0 2.5"}), "damaged"),
    BadInput("MetaImage with two equal axes", _meta({"TransformMatrix": "1 0 0 1 0 0 0 0 1"}), "damaged|independent"),
    BadInput("MetaImage in metres", _meta({"DistanceUnits": "m"}), "millimetres"),
    BadInput("MetaImage of 2 TB that is not there", _meta({"DimSize": "50000 50000 400"}), "far more voxels"),
    BadInput("MetaImage of colors", _meta({"ElementNumberOfChannels": "3"}, np.repeat(VOXELS, 3).tobytes()), "several"),
    BadInput("MetaImage of time", _meta(
        {"NDims": "4", "DimSize": "6 5 2 2", "ElementSpacing": "1 1 1 1", "Offset": "0 0 0 0",
         "TransformMatrix": "1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1"}), "time axis"),
    BadInput("MetaImage whose voxels are /etc/passwd", _meta({"ElementDataFile": "/etc/passwd"}), "another folder"),
    BadInput("MetaImage whose voxels are in the folder above",
             _climbing(_meta({"ElementDataFile": "../secret.raw"}, name="x.mhd")), "another folder"),
    BadInput("MetaImage whose voxels are missing", _meta({"ElementDataFile": "x.raw"}, name="x.mhd"), "missing"),
    BadInput("MetaImage of a list of files", _meta({"ElementDataFile": "LIST"}, name="x.mhd"), "several files"),
    BadInput("MetaImage of numbered files", _meta({"ElementDataFile": "x%d.raw 1 4 1"}, name="x.mhd"), "several files"),
    BadInput("MetaImage with a field in no encoding", _bytes_inserted(_meta()), VOLUME),
    BadInput("MetaImage of an unknown type", _meta({"ElementType": "MET_SECRET"}), "damaged"),
    BadInput("MetaImage with a center of rotation", _meta({"Offset": "0 0 0\nCenterOfRotation = 5 5 5"}), VOLUME),
    BadInput("MetaImage in the other byte order",
             _meta({"BinaryDataByteOrderMSB": "True"}, VOXELS.astype(">i2").tobytes()), VOLUME),
    BadInput("a picture without a size", _picture("x.png"), "how large its pixels are"),
    BadInput("a picture with a printer's resolution", _picture("x.tif", dpi=(300, 300)), "300 dots an inch"),
    BadInput("a picture in color", _picture("x.png", "RGB", dpi=(254, 254)), "several values"),
    BadInput("a picture cut off", _cut_picture, "damaged"),
    BadInput("a JPEG called .png", _picture("x.png", format="JPEG"), "damaged|unknown"),
    BadInput("a picture that says its size", _picture("x.png", dpi=(254, 254)), _PICTURE),
)  # fmt: skip

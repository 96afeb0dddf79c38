"""Write a segmentation where the path's ending says how: ``.seg.nrrd`` as 3D Slicer saves it, or ``.nii.gz``.

Both are uint8 label maps on the image's own grid, affine and all, sheared or not; equal labels give equal bytes. A
``.seg.nrrd`` also has names, colors and terminology of its segments, and where it came from as fields ``PPCMI_*``. A
NIfTI file has none of that, and no text. They are written here, not by ITK, which refuses sheared axes and adds text.

NRRD: https://teem.sourceforge.net/nrrd/format.html. Segment fields: 3D Slicer's developer guide, "Segmentations".
NIfTI-1: https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects
from scipy.spatial.transform import Rotation

from ppcmi.errors import GeometryError, UsageError
from ppcmi.files import write_atomically
from ppcmi.task import Code, Label, Task
from ppcmi.volume import Geometry, Volume, lps_from_ras

COMPRESSION = 6

SHEARED = 1e-5
"""Largest cosine between two axes that counts as perpendicular; float32 affines are rounded."""

LARGEST_NIFTI_DIMENSION = 32767

_NIFTI_HEADER = np.dtype(
    {
        "names": ["sizeof_hdr", "dim", "datatype", "bitpix", "pixdim", "vox_offset", "scl_slope", "xyzt_units",
                  "qform_code", "sform_code", "quatern", "qoffset", "srow", "magic"],
        "formats": ["<i4", ("<i2", 8), "<i2", "<i2", ("<f4", 8), "<f4", "<f4", "u1",
                    "<i2", "<i2", ("<f4", 3), ("<f4", 3), ("<f4", (3, 4)), "S4"],
        "offsets": [0, 40, 70, 72, 76, 108, 112, 123, 252, 254, 256, 268, 280, 344],
        "itemsize": 352,
    }
)  # fmt: skip
"""The fields of a NIfTI-1 header that are not zero here; its last 4 bytes say that no extension follows."""

_NIFTI_TYPES = {"|u1": (2, 8), "<f4": (16, 32)}
"""DT_UINT8 and DT_FLOAT32 with their bits, by NumPy's name."""


def write_segmentation(labels: Volume, task: Task, path: Path, provenance: Mapping[str, str]) -> None:
    """Put ``labels``, values of ``task`` on the image's grid, at ``path`` in one step.

    :param provenance: what made it; nothing secret or identifying, as it stays in the file.
    :raises WriteError: if the folder cannot be written or the disk is full; an older file is untouched.
    :raises UsageError: if the path ends otherwise.
    :raises GeometryError: if NIfTI cannot hold a volume this large.
    """
    if labels.voxels.min() < 0 or labels.voxels.max() >= task.classes:
        raise ValueError(f"labels of task {task.identity} are 0 to {task.classes - 1}")
    voxels = np.ascontiguousarray(labels.voxels, dtype=np.uint8)
    name = path.name.lower()
    if name.endswith(".seg.nrrd"):
        lines = _nrrd_header(voxels, labels.geometry, task, provenance)
        content = "".join(f"{line}\n" for line in (*lines, "")).encode()
        content += gzip.compress(voxels.tobytes(), COMPRESSION, mtime=0)
    elif name.endswith(".nii.gz"):
        content = _nifti(Volume(voxels, labels.geometry))
    else:
        raise UsageError("A segmentation is written as .seg.nrrd or .nii.gz; give its file one of these endings.")
    write_atomically(path, content)


def write_nifti(volume: Volume, path: Path) -> None:
    """Put a uint8 or float32 volume at ``path``, ``NAME.nii.gz``, in one step.

    :raises WriteError: as :func:`write_segmentation`.
    :raises GeometryError: if NIfTI cannot hold a volume this large.
    """
    write_atomically(path, _nifti(volume))


def _nifti(volume: Volume) -> bytes:
    kind, bits = _NIFTI_TYPES[volume.voxels.dtype.str]
    header = _nifti_header(volume.geometry)
    header["datatype"], header["bitpix"] = kind, bits
    return gzip.compress(header.tobytes() + np.ascontiguousarray(volume.voxels).tobytes(), COMPRESSION, mtime=0)


def _nrrd_header(
    voxels: NDArray[np.uint8], geometry: Geometry, task: Task, provenance: Mapping[str, str]
) -> Iterator[str]:
    ijk_to_lps = lps_from_ras @ geometry.ijk_to_ras + 0.0  # no -0.0
    yield "NRRD0004"
    yield "# Complete NRRD file format specification at:"
    yield "# http://teem.sourceforge.net/nrrd/format.html"
    yield "type: unsigned char"
    yield "dimension: 3"
    yield "space: left-posterior-superior"
    yield f"sizes: {_joined(geometry.shape[::-1])}"
    yield f"space directions: {' '.join(_vector(ijk_to_lps[:3, axis]) for axis in range(3))}"
    yield "kinds: domain domain domain"
    yield "encoding: gzip"
    yield f"space origin: {_vector(ijk_to_lps[:3, 3])}"
    found = find_objects(voxels, max_label=len(task.labels))
    for index, (label, box) in enumerate(zip(task.labels, found, strict=True)):
        for key, value in _segment_fields(label, box).items():
            yield f"Segment{index}_{key}:={_escaped(value)}"
    for key, value in _segmentation_fields(geometry).items():
        yield f"Segmentation_{key}:={_escaped(value)}"
    for key, value in sorted(provenance.items()):
        yield f"PPCMI_{key}:={_escaped(value)}"


def _segment_fields(label: Label, box: tuple[slice, ...] | None) -> dict[str, str]:
    """What 3D Slicer keeps of a segment; ``box`` is where it lies in ``(k, j, i)``, None if it is empty."""
    extent = [(part.start, part.stop - 1) for part in box[::-1]] if box else [(0, -1)] * 3
    return {
        "Color": _joined(f"{channel / 255:.6g}" for channel in label.color),
        "ColorAutoGenerated": "0",
        "Extent": _joined(bound for bounds in extent for bound in bounds),
        "ID": f"Segment_{label.value}",
        "LabelValue": str(label.value),
        "Layer": "0",
        "Name": label.name,
        "NameAutoGenerated": "0",
        "Tags": f"DICOM.SegmentAlgorithmName:PPCMI|DICOM.SegmentAlgorithmType:AUTOMATIC|"
        f"TerminologyEntry:{terminology_entry(label)}|",
    }


def terminology_entry(label: Label) -> str:
    """A label's codes as 3D Slicer's terminology entry: contexts and ``scheme^value^meaning``, between ``~``.

    The format has no escapes: its own separators become spaces in what the task says.
    """
    kind = [_triplet(code) for code in (label.category, label.type, label.modifier)]
    region = ["Anatomic codes - DICOM master list", _triplet(label.region), _triplet(None)]
    return "~".join(["Segmentation category and type - DICOM master list", *kind, *region])


def _triplet(code: Code | None) -> str:
    parts = ("", "", "") if code is None else (code.scheme, code.value, code.meaning)
    return "^".join(part.translate(dict.fromkeys(map(ord, "~^|&"), " ")) for part in parts)


def _segmentation_fields(geometry: Geometry) -> dict[str, str]:
    extent = [bound for size in geometry.shape[::-1] for bound in (0, size - 1)]
    numbers = [*geometry.ijk_to_ras.ravel().tolist(), *extent]
    return {
        "ContainedRepresentationNames": "Binary labelmap|",
        "ConversionParameters": f"Reference image geometry|{''.join(f'{number!r};' for number in numbers)}|"
        "Image geometry description string determining the geometry of the labelmap that is created in course of "
        "conversion. Can be copied from a volume, using the button.&",
        "MasterRepresentation": "Binary labelmap",
        "ReferenceImageExtentOffset": "0 0 0",
    }


def _escaped(value: str) -> str:
    """A value of a NRRD key/value pair, which is one line."""
    return value.replace("\\", "\\\\").replace("\n", "\\n")


def _vector(values: NDArray[np.float64]) -> str:
    return f"({','.join(repr(value) for value in values.tolist())})"


def _joined(values: Iterable[Any]) -> str:
    return " ".join(str(value) for value in values)


def _nifti_header(geometry: Geometry) -> NDArray[np.void]:
    """A header without the type of the values."""
    if max(geometry.shape) > LARGEST_NIFTI_DIMENSION:
        raise GeometryError(f"NIfTI holds at most {LARGEST_NIFTI_DIMENSION} voxels along an axis; write .seg.nrrd.")
    spacing = geometry.spacing_mm
    header = np.zeros((), dtype=_NIFTI_HEADER)
    header["sizeof_hdr"] = 348
    header["dim"] = (3, *geometry.shape[::-1], 1, 1, 1, 1)
    header["pixdim"][:4] = (1.0, *spacing)
    header["vox_offset"] = _NIFTI_HEADER.itemsize
    header["scl_slope"] = 1.0
    header["xyzt_units"] = 2  # millimetres
    header["sform_code"] = 1  # scanner coordinates
    header["srow"] = geometry.ijk_to_ras[:3]
    header["magic"] = b"n+1"
    directions = geometry.ijk_to_ras[:3, :3] / spacing
    if np.abs(directions.T @ directions - np.eye(3)).max() <= SHEARED:  # else only the sform can say it
        header["qform_code"] = 1
        handedness = np.sign(np.linalg.det(directions))
        header["pixdim"][0] = handedness
        header["quatern"] = Rotation.from_matrix(directions * (1, 1, handedness)).as_quat(canonical=True)[:3]
        header["qoffset"] = geometry.ijk_to_ras[:3, 3]
    return header

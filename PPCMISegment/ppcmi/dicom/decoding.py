"""Stored values of a DICOM image's frames, whatever the transfer syntax (PS3.5 section 8 and annex A).

Native pixels are what is in the file. Compressed frames are decoded by GDCM, which comes with SimpleITK: it is given
each as a file of its own that has nothing else in it, so that rescaling, places and other frames are not its concern.
What GDCM does not know (such as high-throughput JPEG 2000) pydicom's decoders do where they are installed.
"""

# mypy: allow-untyped-calls
# SimpleITK annotates only some of its functions.

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK
from numpy.typing import NDArray
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from ppcmi.dicom.values import PixelForm
from ppcmi.errors import PpcmiError, ReadError

_CUT_OFF = "The DICOM file is cut off: it has fewer pixels than it says; copy or export it again."
_UNKNOWN = "The DICOM image's encoding is damaged or not known here; export it without compression."


def stored_frames(dataset: Any, indices: Sequence[int]) -> Iterator[NDArray[Any]]:
    """Stored values ``(rows, columns)`` of the frames with these numbers, or ``(rows, columns, 3)`` of color.

    Nothing is as large as the header says before it was compared with what the file has.

    :param dataset: with its pixels.
    :raises ReadError: if pixels are missing, damaged, or encoded in a way that is not known.
    """
    form = PixelForm.of(dataset)
    if "PixelData" not in dataset:
        raise ReadError("The DICOM file has no pixels, or not as whole numbers; export the image again.")
    syntax = UID(dataset.file_meta.get("TransferSyntaxUID") or ImplicitVRLittleEndian)
    count = int(dataset.get("NumberOfFrames") or 1)
    if max(indices) >= count:
        raise ReadError(_CUT_OFF)
    if syntax.is_encapsulated:
        frames = _decoded(dataset, syntax, indices, count)
    else:
        frames = _native(dataset, form, syntax, indices, count)
    samples = int(dataset.get("SamplesPerPixel") or 1)
    shape = (form.rows, form.columns, samples)[: 2 if samples == 1 else 3]
    for frame in frames:
        if frame.shape != shape:
            raise ReadError(_UNKNOWN)
        compressed = syntax.is_encapsulated and syntax != RLELossless
        yield _within_range(frame, form) if compressed else form.without_other_bits(frame)


def _native(dataset: Any, form: PixelForm, syntax: UID, indices: Sequence[int], count: int) -> Iterator[NDArray[Any]]:
    rows, columns, dtype = form.rows, form.columns, form.dtype
    samples = int(dataset.get("SamplesPerPixel") or 1)
    values = rows * columns * samples
    pixels = dataset.PixelData
    if len(pixels) < count * values * dtype.itemsize:
        raise ReadError(_CUT_OFF)
    if len(pixels) >= (count + 1) * values * dtype.itemsize:
        raise ReadError("The DICOM file has more pixels than it says; export it again.")
    if samples != 1:
        yield from _by_pydicom(dataset, indices)
        return
    big_endian = syntax == ExplicitVRBigEndian
    order = dtype.newbyteorder(">" if big_endian else "<")
    words = big_endian and dtype.itemsize == 1 and dataset["PixelData"].VR == "OW"  # bytes are swapped in pairs
    if words:
        pixels = np.frombuffer(pixels, ">u2").astype("<u2").tobytes()
    for index in indices:
        frame = np.frombuffer(pixels, order, values, index * values * dtype.itemsize)
        yield frame.reshape(rows, columns).astype(dtype, copy=False)


def _decoded(dataset: Any, syntax: UID, indices: Sequence[int], count: int) -> Iterator[NDArray[Any]]:
    wanted, last = set(indices), max(indices)
    found: dict[int, NDArray[Any]] = {}
    try:
        encoded = generate_frames(dataset.PixelData, number_of_frames=count)
        for index, frame in enumerate(islice(encoded, last + 1)):
            if index in wanted:
                if syntax == RLELossless:
                    _require_segments(dataset, frame)
                found[index] = _by_gdcm(dataset, syntax, frame)
            while indices and indices[0] in found:
                yield found.pop(indices[0])
                indices = indices[1:]
    except (ValueError, EOFError, AttributeError, struct.error) as error:
        raise ReadError(_UNKNOWN) from error
    if indices:
        raise ReadError(_CUT_OFF)


def _require_segments(dataset: Any, encoded: bytes) -> None:
    """Refuse run lengths without their segments (PS3.5 annex G.5), on which GDCM divides by zero and ends the program.

    :raises ReadError: if there are not as many as a pixel has bytes, or they begin beyond the frame.
    """
    count, *offsets = struct.unpack("<16I", encoded[:64])
    expected = int(dataset.BitsAllocated) // 8 * int(dataset.get("SamplesPerPixel") or 1)
    offsets = offsets[:count]
    if count != expected or offsets != sorted(set(offsets)) or not 64 <= offsets[0] <= offsets[-1] < len(encoded):
        raise ReadError(_UNKNOWN)


def _by_gdcm(dataset: Any, syntax: UID, encoded: bytes) -> NDArray[Any]:
    """One compressed frame."""
    alone = pydicom.Dataset()
    alone.file_meta = pydicom.dataset.FileMetaDataset()
    alone.file_meta.TransferSyntaxUID = syntax
    alone.file_meta.MediaStorageSOPClassUID = alone.SOPClassUID = SecondaryCaptureImageStorage
    alone.file_meta.MediaStorageSOPInstanceUID = alone.SOPInstanceUID = UID("2.25.1")
    for name in ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"):
        setattr(alone, name, dataset.get(name))
    alone.SamplesPerPixel = int(dataset.get("SamplesPerPixel") or 1)
    alone.PhotometricInterpretation = "MONOCHROME2"
    if alone.SamplesPerPixel != 1:
        alone.PhotometricInterpretation = dataset.PhotometricInterpretation
        alone.PlanarConfiguration = int(dataset.get("PlanarConfiguration") or 0)
    alone.PixelData = encapsulate([encoded], has_bot=False)
    alone["PixelData"].is_undefined_length = True
    with tempfile.TemporaryDirectory(prefix="ppcmi-") as folder:
        path = Path(folder) / "frame.dcm"
        alone.save_as(path, enforce_file_format=True)
        reader = SimpleITK.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(path))
        try:
            frame = SimpleITK.GetArrayFromImage(reader.Execute())
        except RuntimeError:
            frame = next(iter(_by_pydicom(alone, [0])))
    return np.asarray(frame[0] if frame.ndim > 2 and len(frame) == 1 else frame)


def _by_pydicom(dataset: Any, indices: Sequence[int]) -> Iterator[NDArray[Any]]:
    from pydicom.pixels.utils import pixel_array  # noqa: PLC0415 - its plugins are only looked for where one is needed

    for index in indices:
        try:
            frame = pixel_array(dataset, index=index, raw=False)
        except PpcmiError:
            raise
        except (RuntimeError, ValueError, AttributeError, NotImplementedError, TypeError, IndexError) as error:
            raise ReadError(_UNKNOWN) from error
        yield frame


def _within_range(frame: NDArray[Any], form: PixelForm) -> NDArray[Any]:
    """:raises ReadError: if a decoder found values that the header excludes, and so one of the two is wrong."""
    low, high = form.values
    if frame.min() < low or frame.max() > high:
        raise ReadError("The DICOM image's compressed pixels and its header disagree; export it without compression.")
    return frame

"""Segmentations given as labels of an image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK

from ppcmi.formats.itk_files import image_from_volume
from ppcmi.sources import only_source
from ppcmi.task_labels import read_task_labels
from ppcmi.volume import Volume
from support.bad_inputs.dicom_files import VOLUME as SCAN
from support.bad_inputs.kinds import BadInput, small_volume
from support.dicom_labels import write_dicom_segments, write_structures, write_study
from support.volumes import a_geometry, a_task

IMAGE = small_volume()
TASK = a_task(labels=2)


def _labels(values: np.ndarray, geometry: object = None, **fields: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        image = image_from_volume(Volume(values, geometry or IMAGE.geometry))
        for key, value in fields.items():
            image.SetMetaData(key, value)
        SimpleITK.WriteImage(image, str(folder / "labels.seg.nrrd"))
        return folder / "labels.seg.nrrd"

    return make


def _read(path: Path) -> Volume:
    return read_task_labels(path, TASK, IMAGE)


def _read_with_dicom(path: Path) -> Volume:
    source = only_source(path.parent / "image")
    return read_task_labels(path, TASK, SCAN, source)


def _dicom(name: str, change: int) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        files = write_study(SCAN, folder / "image")
        mask = np.zeros(SCAN.voxels.shape, bool)
        mask[1:3, 1:3, 1:3] = True
        path = write_dicom_segments(folder / "labels.dcm", files, {name: mask})
        content = path.read_bytes()
        path.write_bytes(content[: len(content) - change])
        return path

    return make


_ONE = (np.arange(120).reshape(4, 5, 6) % 3).astype(np.uint8)
_ELSEWHERE = a_geometry((4, 5, 6), (0.7, 0.9, 2.5), origin=(-10, 20.5, 400))
_NAMED = {"Segment0_ID": "a", "Segment0_LabelValue": "1", "Segment0_Name": "Jane-Doe"}

LABELS = (
    BadInput("labels that are the labels", _labels(_ONE), Volume(_ONE, IMAGE.geometry), _read),
    BadInput("an image in place of labels", _labels(IMAGE.voxels.astype(np.float32) + 0.5), "whole numbers", _read),
    BadInput("labels below 0", _labels(_ONE.astype(np.int16) - 1), "whole numbers", _read),
    BadInput("labels above 65535", _labels(_ONE.astype(np.int32) * 70000), "65535", _read),
    BadInput("labels with NaN", _labels(np.where(_ONE == 1, np.nan, 0).astype(np.float32)), "NaN", _read),
    BadInput("labels that lie elsewhere", _labels(_ONE, _ELSEWHERE), "does not lie on the image's voxels", _read),
    BadInput("labels of another part of the body", _labels(
        _ONE[:3], a_geometry((3, 5, 6), (0.7, 0.9, 2.5), origin=(-10, 20.5, 400))), "outside the image", _read),
    BadInput("labels of unknown names", _labels(_ONE, **_NAMED), "do not fit the task", _read),
    BadInput("a label value that is no number", _labels(_ONE, Segment0_LabelValue="one"), "not a number", _read),
    BadInput("a segment in a layer that is not there", _labels(
        _ONE, Segment0_LabelValue="1", Segment0_Layer="7"), "layer", _read),
    BadInput("two segments of one identity", _labels(
        _ONE, Segment0_LabelValue="1", Segment0_ID="a", Segment1_LabelValue="2", Segment1_ID="a"), "identity", _read),
    BadInput("a structure set of no structures", lambda folder: write_structures(folder / "x.dcm", {}), "no segments",
             _read),
    BadInput("a folder in place of labels", lambda folder: folder, "single file", _read),
    BadInput("an empty file in place of labels", lambda folder: ((folder / "x.nrrd").touch(), folder / "x.nrrd")[1],
             "empty", _read),
    BadInput("a DICOM segmentation cut off", _dicom("Label 1", 25), "damaged", _read_with_dicom),
    BadInput("a DICOM segmentation without its image", _dicom("Label 1", 0), "with the image", lambda path:
             read_task_labels(path, TASK)),
    BadInput("a DICOM segmentation of unknown names", _dicom("Jane-Doe", 0), "do not fit the task", _read_with_dicom),
)  # fmt: skip

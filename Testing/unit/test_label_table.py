"""NAME.labels.json: what the values of a NIfTI label map mean, in the form that dcmqi takes."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import generate_uid

from ppcmi.label_table import write_label_table
from ppcmi.task import load_task
from ppcmi.volume import Volume
from ppcmi.writing import write_segmentation
from support.dicom import write_series
from support.dicom_results import dcmqi_program, in_order, places_on, planes_of, source_of
from support.volumes import a_geometry, a_task

TASK = load_task(Path(__file__).parents[2] / "Resources" / "Tasks" / "hippocampus-mr.json")


def test_every_label_has_its_value_name_color_and_codes(tmp_path):
    write_label_table(TASK, tmp_path / "x.labels.json")
    document = json.loads((tmp_path / "x.labels.json").read_text(encoding="utf-8"))
    (front, back) = document["segmentAttributes"][0]
    assert (front["labelID"], front["SegmentLabel"]) == (1, "Anterior hippocampus")
    assert front["recommendedDisplayRGBValue"] == [220, 110, 60]
    assert front["SegmentedPropertyTypeCodeSequence"] == {
        "CodingSchemeDesignator": "SCT", "CodeValue": "5366008", "CodeMeaning": "Hippocampus",
    }  # fmt: skip
    assert back["SegmentedPropertyTypeModifierCodeSequence"]["CodeMeaning"] == "Posterior"


def test_a_label_without_modifier_has_none_and_names_keep_their_letters(tmp_path):
    task = a_task(labels=1)
    write_label_table(replace(task, labels=(replace(task.labels[0], name="Größe" * 40),)), tmp_path / "x.labels.json")
    document = json.loads((tmp_path / "x.labels.json").read_text(encoding="utf-8"))
    (label,) = document["segmentAttributes"][0]
    assert "SegmentedPropertyTypeModifierCodeSequence" not in label
    assert label["SegmentLabel"] == ("Größe" * 40)[:64]


def test_dcmqi_makes_dicom_of_a_label_map_with_its_table_and_the_source(tmp_path):
    geometry = a_geometry((4, 6, 9), (0.7, 1.1, 2.5), origin=(10.0, -20.0, 30.0))
    files = write_series(
        Volume(np.zeros(geometry.shape, np.int16), geometry),
        tmp_path / "series",
        StudyInstanceUID=generate_uid(),
        FrameOfReferenceUID=generate_uid(),
        PatientID="4711",
    )
    labels = np.random.default_rng(0).integers(0, 3, geometry.shape, np.uint8)
    write_segmentation(Volume(labels, geometry), TASK, tmp_path / "x.nii.gz", {})
    write_label_table(TASK, tmp_path / "x.labels.json")
    command = [
        dcmqi_program("itkimage2segimage"),
        *("--inputImageList", tmp_path / "x.nii.gz", "--inputMetadata", tmp_path / "x.labels.json"),
        *("--inputDICOMDirectory", tmp_path / "series", "--outputDICOM", tmp_path / "x.dcm"),
    ]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, timeout=60)
    assert (tmp_path / "x.dcm").exists(), done.stdout + done.stderr
    made = pydicom.dcmread(tmp_path / "x.dcm")
    assert [segment.SegmentLabel for segment in made.SegmentSequence] == [label.name for label in TASK.labels]
    source, _ = source_of(*files)
    for segment in made.SegmentSequence:
        places = [
            np.array(plane.position)
            + row * plane.spacing[0] * _down(plane)
            + column * plane.spacing[1] * _across(plane)
            for plane in planes_of(tmp_path / "x.dcm")
            if plane.segment == segment.SegmentNumber
            for row, column in np.argwhere(plane.pixels)
        ]
        value = next(label.value for label in TASK.labels if label.name == segment.SegmentLabel)
        np.testing.assert_allclose(in_order(np.array(places)), places_on(source, labels == value), atol=1e-3)


def _across(plane):
    return np.array(plane.orientation[:3])


def _down(plane):
    return np.array(plane.orientation[3:])

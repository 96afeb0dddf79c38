"""``NAME.labels.json`` beside ``NAME.nii.gz``: what its values mean, as a NIfTI file itself cannot say.

The JSON is dcmqi's meta-information of a segmentation, so that its program ``itkimage2segimage`` turns the pair into
DICOM: in ``segmentAttributes``, a list with one list of objects, one for each label::

    {"labelID": 1, "SegmentLabel": "Liver", "SegmentAlgorithmType": "AUTOMATIC", "SegmentAlgorithmName": "PPCMI",
     "SegmentedPropertyCategoryCodeSequence": {"CodingSchemeDesignator": ..., "CodeValue": ..., "CodeMeaning": ...},
     "SegmentedPropertyTypeCodeSequence": {...}, "SegmentedPropertyTypeModifierCodeSequence": {...},
     "recommendedDisplayRGBValue": [220, 110, 60]}

Schema: https://raw.githubusercontent.com/qiicr/dcmqi/master/doc/schemas/seg-schema.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ppcmi.files import write_atomically
from ppcmi.task import Code, Label, Task

ENDING = ".labels.json"
SCHEMA = "https://raw.githubusercontent.com/qiicr/dcmqi/master/doc/schemas/seg-schema.json#"

_LONGEST_TEXT = 64
"""Characters of what becomes a DICOM long string."""


def write_label_table(task: Task, path: Path) -> None:
    """Put the task's labels at ``path``, named ``NAME.labels.json``, in one step.

    :raises WriteError: if it cannot be written.
    """
    document = {
        "@schema": SCHEMA,
        "ContentCreatorName": "PPCMI",
        "SeriesDescription": task.title[:_LONGEST_TEXT],
        "SeriesNumber": "1",
        "InstanceNumber": "1",
        "segmentAttributes": [[_attributes(label) for label in task.labels]],
    }
    write_atomically(path, (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode())


def _attributes(label: Label) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "labelID": label.value,
        "SegmentLabel": label.name[:_LONGEST_TEXT],
        "SegmentDescription": label.name[:_LONGEST_TEXT],
        "SegmentAlgorithmType": "AUTOMATIC",
        "SegmentAlgorithmName": "PPCMI",
        "SegmentedPropertyCategoryCodeSequence": _code(label.category),
        "SegmentedPropertyTypeCodeSequence": _code(label.type),
        "recommendedDisplayRGBValue": list(label.color),
    }
    if label.modifier is not None:
        attributes["SegmentedPropertyTypeModifierCodeSequence"] = _code(label.modifier)
    if label.region is not None:
        attributes["AnatomicRegionSequence"] = _code(label.region)
    return attributes


def _code(code: Code) -> dict[str, str]:
    return {"CodingSchemeDesignator": code.scheme, "CodeValue": code.value, "CodeMeaning": code.meaning[:_LONGEST_TEXT]}

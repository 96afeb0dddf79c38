"""Task: what is segmented. A JSON file with labels, slice geometry and intensity rule, identified by name and version.

The file is data from outside: every field is checked, unknown fields are refused, and the error names the field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from ppcmi.errors import ReadError, TaskError
from ppcmi.files import cause_of

FORMAT = "ppcmi-task/1"
MAXIMUM_FILE_BYTES = 1 << 20

Axis = Literal["sagittal", "coronal", "axial"]

Method = Literal["ppcmi", "privacy-sf", "mixup"]
"""How the server helps to segment: this product's method, or one that it is compared with (PAPER)."""


USUAL_PATCH = 32
"""Voxels a side of a patch, for methods that send patches (PAPER: 32 or 64)."""


@dataclass(frozen=True)
class Code:
    """A coded concept (DICOM PS3.3 section 8.8): ``value`` in the coding ``scheme``, with its ``meaning``."""

    scheme: str
    value: str
    meaning: str


@dataclass(frozen=True)
class Label:
    """One structure. ``value`` is its voxel value, ``color`` its RGB in 0..255, the codes are what DICOM SEG asks for.

    :param category: segmented property category (CID 7150), e.g. SCT 123037004 Anatomical Structure.
    :param type: segmented property type (CID 7151 and its kin), e.g. SCT 12738006 Brain.
    :param modifier: type modifier such as laterality, or None.
    :param region: anatomic region (CID 4 and its kin) that the structure is in, such as a tumor's organ, or None.
    """

    value: int
    name: str
    color: tuple[int, int, int]
    category: Code
    type: Code
    modifier: Code | None = None
    region: Code | None = None


@dataclass(frozen=True)
class Slicing:
    """How a volume becomes slices.

    :param axis: patient axis that slices are perpendicular to: axial slices lie across the superior-inferior axis.
    :param size: rows and columns of a slice, multiples of 32.
    :param spacing_mm: pixel spacing (rows, columns) to resample to, or None: scale the field of view to ``size``.
    :param neighbors: how many slices on either side go along as further channels.
    """

    axis: Axis
    size: tuple[int, int]
    spacing_mm: tuple[float, float] | None = None
    neighbors: int = 0

    @property
    def channels(self) -> int:
        """Channels of one slice: itself and its neighbors."""
        return 1 + 2 * self.neighbors


@dataclass(frozen=True)
class Window:
    """Linear from ``lower`` to ``upper`` (Hounsfield units for CT) to 0..1, clipped."""

    lower: float
    upper: float


@dataclass(frozen=True)
class Percentiles:
    """Linear from one percentile of the volume's intensities to another, to 0..1, clipped (MR, ultrasound)."""

    lower: float
    upper: float


@dataclass(frozen=True)
class Task:
    """What is segmented, see the module. ``labels`` are in ascending order of their values 1, 2, ...

    :param patch: voxels a side of a patch, where the method is ``mixup``.
    """

    name: str
    version: str
    title: str
    modality: str
    labels: tuple[Label, ...]
    slicing: Slicing
    intensity: Window | Percentiles
    method: Method = "ppcmi"
    patch: int = USUAL_PATCH

    @property
    def identity(self) -> str:
        """Name and version, as keys and bundles are bound to it."""
        return f"{self.name}@{self.version}"

    @property
    def classes(self) -> int:
        """Number of classes with the background."""
        return len(self.labels) + 1

    def require_modality(self, modality: str | None) -> None:
        """That an image is of the task's kind, as far as it says of what kind it is.

        :raises ReadError: if it says another one: a network answers anything with something.
        """
        if modality and modality != self.modality:
            raise ReadError(
                f"The volume is of modality {modality}, the task is for {self.modality}; choose another task."
            )


def load_task(path: Path) -> Task:
    """Read and check a task file.

    :raises TaskError: if it cannot be read, or a field is wrong.
    """
    try:
        if path.stat().st_size > MAXIMUM_FILE_BYTES:
            raise TaskError("The task file is larger than 1 MiB; is it a task file?")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise TaskError("There is no such task file; name one, such as Resources/Tasks/hippocampus-mr.json.") from error
    except OSError as error:
        raise TaskError(f"The task file cannot be read: {cause_of(error)}.") from error
    except UnicodeDecodeError as error:
        raise TaskError("The task file is not UTF-8 text; is it a task file?") from error
    return parse_task(text)


def parse_task(text: str) -> Task:
    """A task from its JSON text.

    :raises TaskError: naming the field that is wrong.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise TaskError("The task file is not valid JSON.") from error
    return _task(document)


def task_to_json(task: Task) -> str:
    """The task as canonical JSON text; :func:`parse_task` reads it back to an equal task."""
    document = asdict(task)
    for label in document["labels"]:
        if label["region"] is None:
            del label["region"]  # as before there was this field: the same task is the same text
    if task.method == "ppcmi":
        del document["method"]  # likewise
    if task.method != "mixup":
        del document["patch"]
    rule = "window" if isinstance(task.intensity, Window) else "percentiles"
    document["intensity"] = {"rule": rule, **document["intensity"]}
    return json.dumps({"format": FORMAT, **document}, indent=2, sort_keys=True)


def _task(document: Any) -> Task:
    fields = _object(
        document,
        "task",
        {"format", "name", "version", "title", "modality", "labels", "slicing", "intensity"},
        {"method", "patch"},
    )
    if fields["format"] != FORMAT:
        raise TaskError(f"The task file's format is not {FORMAT!r}; this version cannot use it.")
    name, version = _text(fields, "name"), _text(fields, "version")
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", name):
        raise TaskError("A task's name has lower-case letters, digits and hyphens, at most 63.")
    if not re.fullmatch(r"[0-9A-Za-z.]{1,16}", version):
        raise TaskError("A task's version has letters, digits and dots, at most 16.")
    return Task(
        name=name,
        version=version,
        title=_text(fields, "title"),
        modality=_text(fields, "modality"),
        labels=_labels(fields["labels"]),
        slicing=_slicing(fields["slicing"]),
        intensity=_intensity(fields["intensity"]),
        method=_method(fields.get("method", "ppcmi")),
        patch=_patch(fields),
    )


def _patch(fields: Mapping[str, Any]) -> int:
    value = fields.get("patch", USUAL_PATCH)
    if "patch" in fields and fields.get("method") != "mixup":
        raise TaskError("patch is for tasks of the method 'mixup' only.")
    if not _is_whole(value) or not 16 <= value <= 64 or value % 8:
        raise TaskError("patch is a number of voxels from 16 to 64, a multiple of 8.")
    return int(value)


def _method(value: Any) -> Method:
    for method in get_args(Method):
        if value == method:
            return cast(Method, method)
    raise TaskError(f"method is one of {', '.join(get_args(Method))}; without it the task is of the first.")


def _labels(value: Any) -> tuple[Label, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= 63:
        raise TaskError("A task has between 1 and 63 labels.")
    labels = tuple(_label(item, f"labels[{index}]") for index, item in enumerate(value))
    if [label.value for label in labels] != list(range(1, len(labels) + 1)):
        raise TaskError("The labels' values are 1, 2, 3, ... in order; 0 is the background.")
    if len({label.name for label in labels}) != len(labels):
        raise TaskError("Two labels have the same name.")
    return labels


def _label(value: Any, where: str) -> Label:
    fields = _object(value, where, {"value", "name", "color", "category", "type"}, {"modifier", "region"})
    color = fields["color"]
    if not isinstance(color, list) or len(color) != 3 or not all(_is_whole(c) and 0 <= c <= 255 for c in color):
        raise TaskError(f"{where}.color is three whole numbers from 0 to 255.")
    if not _is_whole(fields["value"]):
        raise TaskError(f"{where}.value is a whole number.")
    modifier, region = fields.get("modifier"), fields.get("region")
    return Label(
        value=fields["value"],
        name=_text(fields, "name", where),
        color=cast(tuple[int, int, int], tuple(color)),
        category=_code(fields["category"], f"{where}.category"),
        type=_code(fields["type"], f"{where}.type"),
        modifier=None if modifier is None else _code(modifier, f"{where}.modifier"),
        region=None if region is None else _code(region, f"{where}.region"),
    )


def _code(value: Any, where: str) -> Code:
    fields = _object(value, where, {"scheme", "value", "meaning"})
    return Code(*(_text(fields, key, where) for key in ("scheme", "value", "meaning")))


def _slicing(value: Any) -> Slicing:
    fields = _object(value, "slicing", {"axis", "size"}, {"spacing_mm", "neighbors"})
    axis, size = fields["axis"], fields["size"]
    spacing, neighbors = fields.get("spacing_mm"), fields.get("neighbors", 0)
    if axis not in ("sagittal", "coronal", "axial"):
        raise TaskError("slicing.axis is one of sagittal, coronal, axial.")
    if (
        not isinstance(size, list)
        or len(size) != 2
        or not all(_is_whole(s) and 32 <= s <= 1024 and s % 32 == 0 for s in size)
    ):
        raise TaskError("slicing.size is rows and columns, each a multiple of 32 up to 1024.")
    if spacing is not None and not (
        isinstance(spacing, list) and len(spacing) == 2 and all(_is_number(s) and 0 < s < 1000 for s in spacing)
    ):
        raise TaskError("slicing.spacing_mm is two positive numbers of millimetres, or null.")
    if not _is_whole(neighbors) or not 0 <= neighbors <= 4:
        raise TaskError("slicing.neighbors is a whole number from 0 to 4.")
    return Slicing(
        axis=axis,
        size=(size[0], size[1]),
        spacing_mm=None if spacing is None else (float(spacing[0]), float(spacing[1])),
        neighbors=neighbors,
    )


def _intensity(value: Any) -> Window | Percentiles:
    fields = _object(value, "intensity", {"rule", "lower", "upper"})
    lower, upper = fields["lower"], fields["upper"]
    if not _is_number(lower) or not _is_number(upper) or lower >= upper:
        raise TaskError("intensity.lower and .upper are numbers, the first the smaller.")
    if fields["rule"] == "window":
        return Window(float(lower), float(upper))
    if fields["rule"] == "percentiles" and lower >= 0 and upper <= 100:
        return Percentiles(float(lower), float(upper))
    raise TaskError("intensity.rule is 'window', or 'percentiles' with numbers from 0 to 100.")


def _object(
    value: Any, where: str, required: set[str], optional: frozenset[str] | set[str] = frozenset()
) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TaskError(f"{where} is a JSON object.")
    missing, unknown = required - value.keys(), value.keys() - required - optional
    if missing:
        raise TaskError(f"{where} lacks {', '.join(sorted(missing))}.")
    if unknown:
        raise TaskError(f"{where} has fields that this version does not know: {', '.join(sorted(unknown))[:100]}.")
    return value


def _text(fields: Mapping[str, Any], key: str, where: str = "task") -> str:
    value = fields[key]
    if not isinstance(value, str) or not 1 <= len(value) <= 200 or not value.isprintable():
        raise TaskError(f"{where}.{key} is a text of 1 to 200 printable characters.")
    return value


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return (_is_whole(value) or isinstance(value, float)) and abs(value) < 1e12

"""Which frames of a DICOM series make a volume, in the order of their places.

Frames of one orientation and frame of reference are one stack as long as there is one at each place. Where there are
several, the attribute in which those differ (echo time, diffusion weighting, phase, ...) splits them, if that leaves
stacks with one frame a place that are whole; else the series is refused. Slices that are missing are noticed by a gap
that is a whole multiple of the others.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ppcmi.dicom.frames import DicomFrame, DicomVolume
from ppcmi.dicom.headers import TELL_APART, FileHeader
from ppcmi.dicom.kinds import Kind, kind_of
from ppcmi.errors import GeometryError, PpcmiError, ReadError

PARALLEL = 1e-3
"""Largest difference of direction cosines within a volume."""

SAME_PLACE = 0.05
"""Distance along the normal, as a part of the typical gap, below which two frames are at one place."""

SAME_PLACE_MM = 0.02
"""Frames nearer than this are at one place whatever the gaps."""

EVEN = 0.05
"""Largest deviation of a gap from a multiple of the smallest, as a part of it, where slices are missing."""

FULL_THICKNESS = 0.9
"""How much of a gap its slices fill where it was meant, compared with the others; half as much by a missing slice."""

MOST_VOLUMES = 50
"""More volumes of one series are a film, not images to segment one by one."""

MOST_SPLITS = 4
"""Attributes by which a series is split, one after the other."""

_RANKED = "TriggerTime"
"""Differs a little from slice to slice: its order at each place tells the phases apart."""


Item = TypeVar("Item")
Key = TypeVar("Key")


@dataclass(frozen=True, eq=False)
class FoundVolume:
    """A volume of a series, or frames of it that cannot be segmented.

    :param picture: whether it is a single picture, which has no place in the patient.
    :param refusal: why it cannot be segmented; then ``volume`` is None.
    """

    files: tuple[FileHeader, ...]
    volume: DicomVolume | None = None
    picture: bool = False
    refusal: PpcmiError | None = None


@dataclass(frozen=True, eq=False)
class _Slice:
    """A frame that has a place, and what tells it from others at that place."""

    header: FileHeader
    frame: DicomFrame
    values: dict[str, str]


def volumes_of(series: Sequence[FileHeader]) -> list[FoundVolume]:
    """The volumes of a series' files, each with one frame a place, in a fixed order."""
    files = sorted(series, key=lambda header: (header.instance_number, header.instance_uid))
    pictures = [header for header in files if kind_of(header.sop_class) is not Kind.SLICES]
    slices = [header for header in files if kind_of(header.sop_class) is Kind.SLICES]
    found = [_picture(header, alone=len(files) == 1) for header in pictures]
    if slices:
        try:
            found += _stacks(slices, alone=not pictures)
        except PpcmiError as error:
            found.append(FoundVolume(tuple(slices), refusal=error))
    return found


def _picture(header: FileHeader, *, alone: bool) -> FoundVolume:
    if header.refusal is not None:
        return FoundVolume((header,), picture=True, refusal=header.refusal)
    frames = tuple(frame.place for frame in header.frames if frame.place is not None)
    return FoundVolume((header,), DicomVolume(header.series_uid, "" if alone else header.instance_uid, frames), True)


def _stacks(files: Sequence[FileHeader], *, alone: bool) -> list[FoundVolume]:
    """Volumes of slices; each that is refused by itself has its reason.

    :raises PpcmiError: if the series is refused as a whole.
    """
    for header in files:
        if header.refusal is not None:
            raise header.refusal
        if any(frame.place is None for frame in header.frames):
            raise ReadError("The DICOM images do not say where they lie; they cannot be stacked to a volume.")
    by_unit = _grouped(files, lambda header: header.unit)
    parts: list[tuple[str, list[_Slice], PpcmiError | None]] = []
    for unit, members in by_unit.items():
        _require_whole_concatenation(members)
        slices = [
            _Slice(header, frame.place, dict(frame.values))
            for header in members
            for frame in header.frames
            if frame.place is not None
        ]
        fixed = _grouped(slices, lambda found: (found.header.frame_of_reference, found.values.get("StackID", "")))
        for (reference, stack_id), together in fixed.items():
            for number, parallel in enumerate(_by_orientation(together)):
                name = f"{unit} {reference} {stack_id} {number}"
                try:
                    split = _split(parallel)
                    parts += [(f"{name} {what}", stack, None) for what, stack in split]
                except PpcmiError as error:
                    parts.append((name, parallel, error))
    if len(parts) > MOST_VOLUMES:
        raise ReadError(f"The DICOM series has {len(parts)} volumes, as a film has; export the ones to segment.")
    return [_found(what, stack, error, alone=alone and len(parts) == 1) for what, stack, error in parts]


def _found(what: str, stack: Sequence[_Slice], error: PpcmiError | None, *, alone: bool) -> FoundVolume:
    files = tuple(dict.fromkeys(found.header for found in stack))
    if error is None:
        try:
            frames = _ordered(stack)
            return FoundVolume(files, DicomVolume(files[0].series_uid, "" if alone else what, frames))
        except PpcmiError as refusal:
            error = refusal
    return FoundVolume(files, refusal=error)


def _ordered(stack: Sequence[_Slice]) -> tuple[DicomFrame, ...]:
    """The frames of a stack along their normal.

    :raises ReadError: if they differ in size.
    :raises GeometryError: if their pixels do, or slices are missing.
    """
    if len({found.header.size for found in stack}) > 1:
        raise ReadError("The DICOM series' images differ in size; export them as series of their own.")
    spacings = np.array([found.frame.spacing_mm for found in stack])
    if np.abs(spacings - spacings[0]).max() > PARALLEL * spacings.min():
        raise GeometryError("The DICOM series' images differ in the size of their pixels; export them separately.")
    heights = _heights(stack)
    frames = tuple(stack[index].frame for index in np.argsort(heights, kind="stable"))
    missing = _missing_after(frames, np.sort(heights))
    if missing:
        places = f"slice {missing[0]}" if len(missing) == 1 else f"slices {', '.join(map(str, missing[:5]))}"
        raise GeometryError(f"The DICOM series has slices missing after {places}; send or export it again.")
    return frames


def _missing_after(frames: Sequence[DicomFrame], heights: NDArray[np.float64]) -> list[int]:
    """After which slices, counted from 1, others are missing: gaps that are multiples in an otherwise even series.

    A gap that was meant is filled by its slices' thickness as the others are, as where slices become thicker.
    """
    gaps = np.diff(heights)
    if len(gaps) < 2:
        return []
    multiples = gaps / gaps.min()
    if (np.abs(multiples - np.rint(multiples)) > EVEN * np.rint(multiples)).any() or np.median(multiples) > 1.5:
        return []
    thickness = np.array([frame.thickness_mm or 0.0 for frame in frames])
    filled = (thickness[:-1] + thickness[1:]) / 2 / gaps
    usual = float(np.median(filled[multiples < 1.5]))
    meant = (filled >= FULL_THICKNESS * usual) & (usual > 0)
    return [int(index) + 1 for index in np.flatnonzero((multiples > 1.5) & ~meant)]


def _split(stack: list[_Slice]) -> list[tuple[str, list[_Slice]]]:
    """Stacks with one frame a place, each with what tells it from the others.

    :raises ReadError: if there are several images at one place that nothing tells apart.
    """
    places = _places(stack)
    split = _split_at([(found, place) for found, place in zip(stack, places, strict=True)], MOST_SPLITS)
    if split is None:
        first = 1 + min(place for place, count in Counter(places).items() if count > 1)
        raise ReadError(
            f"The DICOM series has several images at one place (slice {first}) and does not say how they differ, or "
            "some of them are missing; export the ones to segment."
        )
    return [(what, [found for found, _ in part]) for what, part in split]


_Placed = list[tuple[_Slice, int]]


def _split_at(stack: _Placed, splits: int) -> list[tuple[str, _Placed]] | None:
    """As :func:`_split`, None where nothing tells the images apart."""
    times = _times(stack)
    if times == 1:
        return [("", stack)]
    if splits == 0:
        return None
    everywhere = {place for _, place in stack}
    names = [*TELL_APART, *sorted({name for found, _ in stack for name in found.values if name.startswith("Dim")})]
    for name in names:
        parts = _by_value(stack, name)
        if name == _RANKED and not _are_whole(parts.values(), everywhere):
            parts = _by_rank(stack, name)
        if len(parts) < 2 or not _are_whole(parts.values(), everywhere):
            continue
        if max(_times(part) for part in parts.values()) == times:
            continue
        found = []
        for value, part in parts.items():
            further = _split_at(part, splits - 1)
            if further is None:
                return None  # nor would another order of the attributes: the parts would be the same
            found += [(f"{name}={value} {what}".strip(), stack) for what, stack in further]
        return found
    return None


def _by_value(stack: _Placed, name: str) -> dict[str, _Placed]:
    parts = _grouped(stack, lambda placed: placed[0].values.get(name, ""))
    return dict(sorted(parts.items(), key=lambda item: _sortable(item[0])))


def _by_rank(stack: _Placed, name: str) -> dict[str, _Placed]:
    """Parts by the order of their values at each place."""
    parts: dict[str, _Placed] = defaultdict(list)
    for at_place in _grouped(stack, lambda placed: placed[1]).values():
        values = [placed[0].values.get(name, "") for placed in at_place]
        if len(set(values)) < len(values):
            return {}
        ordered = sorted(at_place, key=lambda placed: _sortable(placed[0].values.get(name, "")))
        for rank, placed in enumerate(ordered):
            parts[str(rank)].append(placed)
    return dict(parts)


def _are_whole(parts: Iterable[_Placed], everywhere: set[int]) -> bool:
    """Whether each part has a frame at every place, or is an uninterrupted run of places by itself."""
    for part in parts:
        places = {place for _, place in part}
        if places == everywhere:
            continue
        heights = np.sort(_heights([found for found, _ in part]))
        gaps = np.diff(heights)
        gaps = gaps[gaps > SAME_PLACE_MM]
        if len(gaps) < 2 or (np.abs(gaps - np.median(gaps)) > EVEN * np.median(gaps)).any():
            return False
    return True


def _times(stack: _Placed) -> int:
    """Most images at one place."""
    return max(Counter(place for _, place in stack).values())


def _places(stack: Sequence[_Slice]) -> list[int]:
    """For each frame the number of its place along the normal, from 0."""
    heights = _heights(stack)
    order = np.argsort(heights, kind="stable")
    gaps = np.diff(heights[order])
    typical = gaps[gaps > SAME_PLACE_MM]
    least = max(SAME_PLACE_MM, SAME_PLACE * float(np.median(typical))) if len(typical) else SAME_PLACE_MM
    places = np.empty(len(stack), dtype=int)
    places[order] = np.concatenate([[0], np.cumsum(gaps > least)])
    return [int(place) for place in places]


def _heights(stack: Sequence[_Slice]) -> NDArray[np.float64]:
    """Where the frames lie along their common normal, in millimetres."""
    return np.array([found.frame.position for found in stack]) @ stack[0].frame.normal


def _by_orientation(stack: Sequence[_Slice]) -> list[list[_Slice]]:
    parts: list[list[_Slice]] = []
    for found in stack:
        near = (p for p in parts if np.abs(p[0].frame.directions - found.frame.directions).max() <= PARALLEL)
        part = next(near, None)
        if part is None:
            parts.append([found])
        else:
            part.append(found)
    return parts


def _require_whole_concatenation(files: Sequence[FileHeader]) -> None:
    """:raises ReadError: if a part of a concatenation is missing or there twice."""
    parts = sorted((header.part, len(header.frames)) for header in files if header.part is not None)
    first = 0
    for number, (part, count) in enumerate(parts, start=1):
        if part[0] != number or (part[1] and part[1] != len(parts)) or part[2] != first:
            raise ReadError("The DICOM image is split over several files, and one of them is missing; send it again.")
        first += count


def _grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _sortable(value: str) -> tuple[float, str]:
    """Numbers by size, before text."""
    try:
        return float(value), ""
    except ValueError:
        return float("inf"), value

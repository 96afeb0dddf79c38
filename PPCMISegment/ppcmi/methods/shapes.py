"""Items of a task in numbers: their shapes by scale, which both ends compute alike, and how many a volume has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod

from ppcmi.scales import SCALE_CHANNELS, Profile, Shape, Stream, scale_shapes
from ppcmi.task import Task

OVERLAP = 0.5
"""Of neighboring patches, relative to their size."""

REFERENCES_A_PATCH = 10
"""Each patch is sent mixed with so many, and the answers are averaged (PAPER: 10 to 15 suffice)."""


def item_shapes(
    task: Task, profile: Profile, streams: Iterable[Stream], image_channels: Mapping[str, int] = SCALE_CHANNELS
) -> dict[Stream, dict[str, Shape]]:
    """Shapes of the streams' scales: of a slice's latents, or of a mixed patch and its segmentation.

    :param image_channels: of the codec's image latents, by scale; patches have none.
    """
    if profile is Profile.MIXUP:
        side = task.patch
        cubes = {Stream.IMAGE: {"x": (side, side, side)}, Stream.MASK: {"y": (task.classes * side, side, side)}}
        return {stream: cubes[stream] for stream in streams}
    channels = {Stream.IMAGE: image_channels, Stream.MASK: SCALE_CHANNELS}
    return {stream: scale_shapes(task.slicing.size, profile.scales, channels[stream]) for stream in streams}


def most_items(task: Task, slices: int, streams: Sequence[Stream]) -> int:
    """Items of a volume of so many slices: the slices, or at most so many mixtures of its patches.

    :param streams: a labelled case's patches leave once, those to be segmented mixed with several references.
    """
    if task.method != "mixup":
        return slices
    along = [len(patch_starts(0, count, count, task.patch)) for count in (slices, *task.slicing.size)]
    return prod(along) * (1 if Stream.MASK in streams else REFERENCES_A_PATCH)


def patch_starts(first: int, last: int, count: int, size: int) -> list[int]:
    """Starts along an axis of ``count`` so that patches cover ``first`` to ``last`` and stay within it if they fit."""
    span = last - first
    if span <= size:
        return [max(0, min(first - (size - span) // 2, count - size))]
    steps = -(-(span - size) // round(size * (1 - OVERLAP)))
    return [first + round(step * (span - size) / steps) for step in range(steps + 1)]

"""What a bad input is, and how it is tried: found, read and sliced as a batch does, in bounded memory."""

from __future__ import annotations

import re
import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ppcmi.errors import PpcmiError
from ppcmi.reading import read_image
from ppcmi.slicing import slice_volume
from ppcmi.sources import find_sources
from ppcmi.volume import Volume
from support.volumes import a_geometry, a_task

MOST_GROWTH_MIB = 400
SENTENCE = re.compile(r"[A-Z][^\n]{10,400}[.?]")
MARK = "Jane-Doe"
"""A part of names, which no sentence may hold."""


@dataclass(frozen=True)
class BadInput:
    """One kind.

    :param kind: in words.
    :param make: writes it below a folder and returns what is given to the program.
    :param expected: the volume that it is read as; else what the sentence of its refusal says.
    """

    kind: str
    make: Callable[[Path], Path]
    expected: Volume | str
    read: Callable[[Path], Volume] | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of it: ``refused``, ``read right``, or a fault in words; ``sentence`` of a refusal."""

    kind: str
    result: str
    sentence: str = ""

    @property
    def fine(self) -> bool:
        """Whether it is what was expected."""
        return self.result in ("refused", "read right")


def read_as_a_batch_does(path: Path) -> Volume:
    """The one image at a place, sliced as well."""
    sources = find_sources(path).images
    volumes = [read_image(source).volume for source in sources]
    for volume in volumes:
        slices, _ = slice_volume(volume, a_task(size=(32, 32)))
        if not np.isfinite(slices).all():
            raise AssertionError("slices are not finite")
    if len(volumes) != 1:
        raise AssertionError(f"{len(volumes)} images")
    return volumes[0]


def outcome_of(bad: BadInput, folder: Path) -> Outcome:
    """Try it in an empty folder."""
    place = folder / MARK
    place.mkdir()
    path = bad.make(place)
    before = _largest_mib()
    try:
        found = (bad.read or read_as_a_batch_does)(path)
    except PpcmiError as error:
        result, sentence = _refusal(bad, str(error)), str(error)
    except Exception as error:  # a crash is what is looked for
        result, sentence = f"crashed: {type(error).__name__}: {error}", ""
    else:
        result, sentence = _comparison(bad, found), ""
    if _largest_mib() - before > MOST_GROWTH_MIB:
        result = f"took {_largest_mib() - before:.0f} MiB"
    return Outcome(bad.kind, result, sentence)


def small_volume(dtype: object = np.int16, shape: tuple[int, int, int] = (4, 5, 6)) -> Volume:
    """Different values everywhere, anisotropic."""
    values = np.arange(np.prod(shape)).reshape(shape)
    return Volume(values.astype(dtype), a_geometry(shape, (0.7, 0.9, 2.5), origin=(-10.0, 20.5, 33.0)))


def _refusal(bad: BadInput, sentence: str) -> str:
    if not isinstance(bad.expected, str):
        return f"refused, though it is fine: {sentence}"
    if not re.search(bad.expected, sentence):
        return f"refused for another reason: {sentence}"
    if not SENTENCE.fullmatch(sentence) or MARK in sentence or "/" in sentence:
        return f"refused by no sentence, or one that names a place: {sentence}"
    return "refused"


def _comparison(bad: BadInput, found: Volume) -> str:
    if isinstance(bad.expected, str):
        return f"read silently, as {found.voxels.shape} {found.voxels.dtype}"
    if not found.geometry.matches(bad.expected.geometry, 1e-3):
        return "read in another place"
    if not np.array_equal(found.voxels, bad.expected.voxels):
        return "read with other values"
    return "read right"


def _largest_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

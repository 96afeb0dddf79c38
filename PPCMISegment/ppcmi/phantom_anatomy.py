"""A simulated abdomen: shapes in patient space (RAS millimetres about the image's center), each of a tissue.

An organ of two lobes with a branching vessel and one to three lesions lies among structures that nobody labels, some
like what is labelled: fat, spine, kidneys, spleen, stomach, bowel, great vessels. :mod:`ppcmi.phantoms` images it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

Points = NDArray[np.float32]
"""``(n, 3)`` RAS millimetres about the image's center."""

TISSUES = ("air", "organ", "vessel", "lesion", "fat", "muscle", "bone", "marrow", "spleen", "kidney", "fluid", "blood")
"""The first four are the labels 0 to 3."""


class Shape(Protocol):
    """A region in a box: ``center`` and half edges ``reach``."""

    center: NDArray[Any]
    reach: NDArray[Any]

    def contains(self, points: Points) -> NDArray[np.bool_]:
        """Which points lie in it."""


@dataclass(frozen=True)
class Abdomen:
    """Shapes and their tissues in the order of painting, the later over the earlier.

    :param wall: from the skin inwards; what lies in the last of them is the cavity.
    :param viscera: only within the cavity.
    :param spine: over all others.
    """

    wall: Sequence[tuple[str, Shape]]
    viscera: Sequence[tuple[str, Shape]]
    spine: Sequence[tuple[str, Shape]]

    @classmethod
    def random(cls, random: np.random.Generator) -> Abdomen:
        """One of endless abdomens."""
        torso = ("fat", (56, 44, 400)), ("muscle", (51, 39, 370)), ("fat", (46, 34, 340))
        wall = tuple(_layers(random, (0, 0, 0), *torso, bumps=0.03, turn=0.03))
        return cls(wall, tuple(_viscera(random, cavity=wall[-1][1])), tuple(_spine(random)))

    def tissues_at(self, points: Points) -> NDArray[np.uint8]:
        """Index in TISSUES at each of the points."""
        tissues = np.zeros(len(points), dtype=np.uint8)
        _paint(tissues, points, self.wall)
        cavity = np.flatnonzero(self.wall[-1][1].contains(points))
        within = tissues[cavity]
        _paint(within, points[cavity], self.viscera)
        tissues[cavity] = within
        _paint(tissues, points, self.spine)
        return tissues


@dataclass(frozen=True, eq=False)
class Waves:
    """A smooth random function of space, ``(n, 3) -> (n, outputs)``: a sum of plane waves."""

    frequencies: Points
    phases: Points
    amplitudes: Points

    @classmethod
    def random(
        cls,
        random: np.random.Generator,
        *,
        count: int,
        wavelength_mm: tuple[float, float],
        amplitude: float,
        outputs: int = 1,
    ) -> Waves:
        """Waves in all directions; each output has standard deviation ``amplitude``."""
        directions = random.standard_normal((count, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        frequencies = directions * (2 * np.pi / random.uniform(*wavelength_mm, (count, 1)))
        amplitudes = random.standard_normal((count, outputs))
        amplitudes *= amplitude * np.sqrt(2) / np.linalg.norm(amplitudes, axis=0)
        phases = random.uniform(0, 2 * np.pi, count)
        return cls(*(array.astype(np.float32) for array in (frequencies, phases, amplitudes)))

    def at(self, points: Points) -> Points:
        """Its values at the points."""
        values: Points = np.cos(points @ self.frequencies.T + self.phases) @ self.amplitudes
        return values


class _Blob:
    """An ellipsoid, turned by about ``turn``, whose radius varies smoothly with direction by the part ``bumps``."""

    def __init__(
        self, random: np.random.Generator, center: ArrayLike, radii: ArrayLike, bumps: float = 0.08, turn: float = 0.15
    ) -> None:
        self.center = np.array(center) + random.normal(0, 2.0, 3)
        radii_mm = np.array(radii) * random.uniform(0.9, 1.1, 3)
        axes = Rotation.from_rotvec(random.normal(0, turn, 3)).as_matrix()
        self._to_unit = (axes / radii_mm).astype(np.float32)
        self._bumps = Waves.random(random, count=6, wavelength_mm=(1.6, 4.0), amplitude=bumps)
        self.reach = np.full(3, radii_mm.max() * (1 + 3.5 * bumps))

    def contains(self, points: Points) -> NDArray[np.bool_]:
        unit = (points - self.center.astype(np.float32)) @ self._to_unit
        radius = np.linalg.norm(unit, axis=1)
        surface = 1 + self._bumps.at(unit / np.maximum(radius, 1e-3)[:, None])[:, 0]
        inside: NDArray[np.bool_] = radius < surface
        return inside


class _Tubes:
    """Curved tubes: quadratic Bezier curves with a radius at either end."""

    def __init__(self, curves: Sequence[tuple[NDArray[Any], NDArray[Any], NDArray[Any], float, float]]) -> None:
        t = np.linspace(0, 1, 60)[:, None]
        self.path = np.concatenate([(1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c for a, b, c, *_ in curves])
        self._radii = np.concatenate([((1 - t) * first + t * last)[:, 0] for *_, first, last in curves])
        self._tree = cKDTree(self.path)
        low, high = self.path.min(axis=0), self.path.max(axis=0)
        self.center, self.reach = (low + high) / 2, (high - low) / 2 + self._radii.max()

    def contains(self, points: Points) -> NDArray[np.bool_]:
        distance, nearest = self._tree.query(points, distance_upper_bound=self._radii.max())
        inside: NDArray[np.bool_] = distance < np.append(self._radii, 0.0)[nearest]
        return inside


def _viscera(random: np.random.Generator, cavity: Shape) -> Iterator[tuple[str, Shape]]:
    for side in (-1, 1):
        yield from _layers(random, (29 * side, -19, -22), ("kidney", (12, 11, 22)), ("fluid", (5, 5, 11)))
    yield "spleen", _Blob(random, (-35, -6, 16), (13, 20, 26), 0.12)
    stomach = ("muscle", (17, 15, 26)), ("fluid", (13, 11, 21))
    yield from _layers(random, (-20, 15, 12), *stomach, bumps=0.12)
    corners = ((-34, 2, -26), (-30, 20, -44), (-12, 24, -28), (-8, 6, -44), (8, 26, -36), (20, 10, -50), (36, 8, -36))
    corners_here = [_near(random, corner, 4) for corner in corners]
    bowel = [(a, _near(random, (a + b) / 2, 10), b, 8.0, 7.0) for a, b in pairwise(corners_here)]
    yield "muscle", _Tubes(bowel)
    yield "fluid", _Tubes([(a, b, c, 5.0, 4.0) for a, b, c, *_ in bowel])
    yield "blood", _upright(random, (-5, -12), (-6, -8), (-4, -12), 5.0, 5.5)
    yield "blood", _upright(random, (9, -11), (9, -8), (8, -11), 4.5, 5.5)
    left, right = _Blob(random, (-4, 17, 18), (25, 12, 20), 0.12), _Blob(random, (21, 6, 6), (25, 24, 37), 0.10)
    yield "organ", left
    yield "organ", right
    vessel = _vessel(random, right.center, left.center)
    yield "vessel", vessel
    taken = vessel.path
    for _ in range(random.integers(1, 4)):
        radius = random.uniform(5.5, 8.5)
        offsets = random.uniform(-1, 1, (80, 3)) * (15, 14, 25)
        outward = offsets * (1 + radius / np.linalg.norm(offsets, axis=1, keepdims=True))
        edges = (right.center + outward).astype(np.float32)
        candidates = right.center + offsets[right.contains(edges) & cavity.contains(edges)]
        center = candidates[cKDTree(taken).query(candidates)[0].argmax()]
        taken = np.vstack([taken, center])
        yield "lesion", _Blob(random, center, np.full(3, radius), 0.12)


def _spine(random: np.random.Generator) -> Iterator[tuple[str, Shape]]:
    for side in (-1, 1):  # the muscles beside it
        yield "muscle", _Tubes([(np.array((22 * side, -26, -70)), np.array((17 * side, -26, -40)),
                                 _near(random, (12 * side, -26, 0), 2), 9.0, 6.0)])  # fmt: skip
    yield "bone", _upright(random, (0, -27), (0, -24), (0, -29), 12.0, 12.0)
    yield "marrow", _upright(random, (0, -27), (0, -24), (0, -28), 8.5, 9.5)
    yield "fluid", _upright(random, (0, -41), (0, -38), (0, -42), 4.5, 4.5)


def _vessel(random: np.random.Generator, right: NDArray[Any], left: NDArray[Any]) -> _Tubes:
    """A trunk that enters between the lobes and its branches to all sides, one into the left lobe."""
    fork = right + random.normal(0, 2, 3) + (-8, -2, -4)
    trunk = (np.array([2.0, -3.0, -20.0]) + random.normal(0, 2, 3), fork - (8, 4, 10), fork, 6.0, 5.5)
    ends = [right + random.normal(0, 3, 3) + offset for offset in ((12, -8, 18), (12, 11, 2), (7, -6, -22))]
    ends.append(left + random.normal(0, 3, 3) + (-8, 2, 2))
    branches = [(fork, (fork + end) / 2 + random.normal(0, 5, 3), end, 4.6, 3.2) for end in ends]
    twigs = []
    for a, b, c, *_ in branches[:3]:
        middle = 0.25 * a + 0.5 * b + 0.25 * c
        twigs.append((middle, middle + random.normal(0, 5, 3), middle + random.normal(0, 8, 3), 3.4, 2.6))
    return _Tubes([trunk, *branches, *twigs])


def _layers(
    random: np.random.Generator,
    center: ArrayLike,
    *parts: tuple[str, ArrayLike],
    bumps: float = 0.08,
    turn: float = 0.15,
) -> Iterator[tuple[str, Shape]]:
    """Blobs ``(tissue, radii)`` of one form, each within the one before."""
    seed = random.integers(1 << 32)
    for tissue, radii in parts:
        yield tissue, _Blob(np.random.default_rng(seed), center, radii, bumps, turn)


def _upright(
    random: np.random.Generator, feet: ArrayLike, middle: ArrayLike, head: ArrayLike, first: float, last: float
) -> _Tubes:
    """A tube through all slices by its places ``(x, y)`` far below, at and far above the middle slice."""
    heights = zip((feet, middle, head), (-90, 0, 90), strict=True)
    a, b, c = (_near(random, np.append(np.asarray(place), height), 1.5) for place, height in heights)
    return _Tubes([(a, b, c, first, last)])


def _near(random: np.random.Generator, place: ArrayLike, by: float) -> NDArray[Any]:
    near: NDArray[Any] = np.asarray(place) + random.normal(0, by, 3)
    return near


def _paint(tissues: NDArray[np.uint8], points: Points, shapes: Sequence[tuple[str, Shape]]) -> None:
    for tissue, shape in shapes:
        near = np.flatnonzero((np.abs(points - shape.center.astype(np.float32)) < shape.reach).all(axis=1))
        tissues[near[shape.contains(points[near])]] = TISSUES.index(tissue)

"""Simulated abdomens for the task ``phantom``: images and labels as three unlike scanners would make them.

An organ (1) of two lobes with a branching vessel (2) and one or two lesions (3) lies among structures that nobody
labels: fat, spine, kidneys, spleen, stomach, bowel, great vessels, some as bright as what is labelled. All are shapes
in patient space (RAS millimetres about the image's center), bent by one smooth random displacement. A scanner samples
them on its own grid, four points a voxel for partial volumes, and adds contrast, bias field, blur and noise.

::

    image, labels = make_phantom(SCANNERS["A"], seed=1)     # the same seed has the same anatomy in every scanner
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import SimpleITK
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from ppcmi.errors import WriteError
from ppcmi.reading import image_from_volume
from ppcmi.volume import Geometry, Volume

Points = NDArray[np.float32]
"""``(n, 3)`` RAS millimetres about the image's center."""

TISSUES = ("air", "organ", "vessel", "lesion", "fat", "muscle", "bone", "marrow", "spleen", "kidney", "fluid", "blood")
"""The first four are the labels 0 to 3."""

LABELS = 4

WITHIN_VOXEL = np.array([(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)]) / 4
"""Where a voxel is sampled, in voxels from its center: either half along every axis twice."""


@dataclass(frozen=True)
class Scanner:
    """One site's machine and protocol.

    :param signal: of each of TISSUES but air, without bias and noise; about 1 for the brightest.
    :param shape: voxels ``(k, j, i)``, and ``spacing_mm`` of ``i, j, k``.
    :param axes: where ``i``, ``j`` and ``k`` go: a NIfTI orientation code.
    :param tilt_degrees: of the stack about the patient's axes; a case's own differs by a degree or two.
    :param bias: standard deviation of the logarithm of the bias field.
    :param noise: standard deviation at signal 1; Rician, or speckle that grows with the signal.
    :param blur_voxels: point spread in plane.
    :param full_scale: what signal 1 is stored as, in ``dtype``.
    """

    signal: Mapping[str, float]
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    axes: str
    tilt_degrees: tuple[float, float, float]
    bias: float
    noise: float
    noise_kind: Literal["rician", "speckle"]
    blur_voxels: float
    full_scale: float
    dtype: type[np.generic]


def _signal(*values: float) -> Mapping[str, float]:
    return dict(zip(TISSUES[1:], values, strict=True))


SCANNERS: Mapping[str, Scanner] = {
    "A": Scanner(
        signal=_signal(0.56, 0.76, 0.40, 0.92, 0.38, 0.10, 0.66, 0.47, 0.50, 0.20, 0.78),
        shape=(28, 72, 72), spacing_mm=(1.8, 1.8, 3.5), axes="LPS", tilt_degrees=(0.0, 0.0, 0.0),
        bias=0.10, noise=0.05, noise_kind="rician", blur_voxels=0.4, full_scale=900.0, dtype=np.int16,
    ),
    "B": Scanner(
        signal=_signal(0.60, 0.86, 0.44, 0.24, 0.42, 0.14, 0.30, 0.58, 0.68, 0.24, 0.90),
        shape=(24, 66, 80), spacing_mm=(1.6, 1.6, 4.4), axes="RAS", tilt_degrees=(9.0, -4.0, 3.0),
        bias=0.20, noise=0.06, noise_kind="rician", blur_voxels=0.6, full_scale=0.021, dtype=np.float32,
    ),
    "C": Scanner(
        signal=_signal(0.50, 0.72, 0.36, 0.74, 0.40, 0.12, 0.58, 0.52, 0.46, 0.84, 0.68),
        shape=(32, 56, 54), spacing_mm=(2.4, 2.3, 3.0), axes="PRI", tilt_degrees=(-6.0, 5.0, 14.0),
        bias=0.14, noise=0.11, noise_kind="speckle", blur_voxels=0.5, full_scale=2600.0, dtype=np.uint16,
    ),
}  # fmt: skip
"""A: T1-like. B: fat-suppressed, thick slices, strong bias. C: bright fluid, coarse pixels, speckle."""


def make_phantom(scanner: Scanner, seed: int) -> tuple[Volume, Volume]:
    """An image and its labels on the same grid; equal seeds give equal voxels."""
    anatomy_random, scan_random = np.random.default_rng(seed).spawn(2)
    geometry, voxel_axes = _place(scanner, scan_random)
    bend = _Waves.random(anatomy_random, count=10, wavelength_mm=(50, 110), amplitude=3.2, outputs=3)
    shapes = list(_anatomy(anatomy_random))
    centers = _voxel_centers(scanner.shape, voxel_axes)
    bent = centers + bend(centers)
    tissue = np.zeros((len(WITHIN_VOXEL), len(centers)), dtype=np.uint8)
    for part, within in zip(tissue, WITHIN_VOXEL, strict=True):
        points = bent + (voxel_axes @ within).astype(np.float32)
        for name, shape in shapes:
            _paint(part, points, shape, TISSUES.index(name))
    levels = [0.0, *(scanner.signal[name] * anatomy_random.normal(1, 0.04) for name in TISSUES[1:])]
    clean = np.array(levels, dtype=np.float32)[tissue].mean(axis=0)
    shares = np.stack([(tissue == value).mean(axis=0, dtype=np.float32) for value in range(1, LABELS)])
    shares = np.concatenate([1 - shares.sum(axis=0, keepdims=True), shares])
    labels = shares.argmax(axis=0).astype(np.uint8).reshape(scanner.shape)
    image = _scan(clean, centers, scanner, scan_random)
    return Volume(image, geometry), Volume(labels, geometry)


def write_phantom_folder(folder: Path, *, cases_per_site: int, seed: int) -> None:
    """A data folder of ``images/``, ``labels/`` and ``split.csv`` for the sites A, B and C.

    Of each site's cases the last quarter is ``test`` (from 3 cases on), the sixth before it ``val`` (from 4 cases on).

    :raises WriteError: if the folder cannot be written.
    """
    folds = _folds(cases_per_site)
    rows = []
    try:
        for part in ("images", "labels"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        for index, (site, scanner) in enumerate(SCANNERS.items()):
            for number, fold in enumerate(folds, start=1):
                name = f"phantom_{site}_{number:02}"
                case_seed = int(np.random.SeedSequence((seed, index, number)).generate_state(1)[0])
                for part, volume in zip(("images", "labels"), make_phantom(scanner, case_seed), strict=True):
                    SimpleITK.WriteImage(image_from_volume(volume), str(folder / part / f"{name}.nii.gz"))
                rows.append((name, fold, site))
        with (folder / "split.csv").open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([("id", "fold", "site"), *rows])
    except (OSError, RuntimeError) as error:  # SimpleITK raises RuntimeError
        raise WriteError("The phantoms cannot be written; choose another folder, or make room on the disk.") from error


def _folds(cases: int) -> list[str]:
    test = max(1, round(cases / 4)) if cases >= 3 else 0
    val = max(1, round(cases / 6)) if cases >= 4 else 0
    return ["train"] * (cases - val - test) + ["val"] * val + ["test"] * test


class _Shape(Protocol):
    """A region: ``center`` and ``reach`` are a box around it, ``contains`` is asked for points in that box."""

    center: NDArray[Any]
    reach: NDArray[Any]

    def contains(self, points: Points) -> NDArray[np.bool_]: ...


@dataclass(frozen=True, eq=False)
class _Waves:
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
    ) -> _Waves:
        """Waves in all directions; each output has standard deviation ``amplitude``."""
        directions = random.standard_normal((count, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        frequencies = directions * (2 * np.pi / random.uniform(*wavelength_mm, (count, 1)))
        amplitudes = random.standard_normal((count, outputs))
        amplitudes *= amplitude * np.sqrt(2) / np.linalg.norm(amplitudes, axis=0)
        phases = random.uniform(0, 2 * np.pi, count)
        return cls(*(array.astype(np.float32) for array in (frequencies, phases, amplitudes)))

    def __call__(self, points: Points) -> Points:
        values: Points = np.cos(points @ self.frequencies.T + self.phases) @ self.amplitudes
        return values


class _Blob:
    """An ellipsoid whose radius varies smoothly with the direction by the part ``bumps``."""

    def __init__(self, random: np.random.Generator, center: ArrayLike, radii: ArrayLike, bumps: float = 0.08) -> None:
        self.center = np.array(center) + random.normal(0, 2.0, 3)
        radii_mm = np.array(radii) * random.uniform(0.9, 1.1, 3)
        turn = Rotation.from_rotvec(random.normal(0, 0.15, 3)).as_matrix()
        self._to_unit = (turn / radii_mm).astype(np.float32)
        self._bumps = _Waves.random(random, count=6, wavelength_mm=(1.6, 4.0), amplitude=bumps)
        self.reach = np.full(3, radii_mm.max() * (1 + 3.5 * bumps))

    def contains(self, points: Points) -> NDArray[np.bool_]:
        unit = (points - self.center.astype(np.float32)) @ self._to_unit
        radius = np.linalg.norm(unit, axis=1)
        surface = 1 + self._bumps(unit / np.maximum(radius, 1e-3)[:, None])[:, 0]
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


def _anatomy(random: np.random.Generator) -> Iterator[tuple[str, _Shape]]:
    """Tissues in the order of painting, the later over the earlier."""

    def near(*place: float, by: float = 3.0) -> NDArray[Any]:
        return np.array(place) + random.normal(0, by, 3)

    yield "fat", _Blob(random, (0, 0, 0), (56, 44, 400), 0.02)
    yield "muscle", _Blob(random, (0, 0, 0), (51, 39, 400), 0.02)
    yield "fat", _Blob(random, (0, 4, 0), (46, 33, 300), 0.04)  # between the organs
    yield "bone", _Tubes([(near(0, -27, -90), near(0, -24, 0), near(0, -29, 90), 12.0, 12.0)])
    yield "marrow", _Tubes([(near(0, -27, -90, by=1), near(0, -24, 0, by=1), near(0, -28, 90, by=1), 8.5, 9.5)])
    yield "fluid", _Tubes([(near(0, -41, -90, by=1), near(0, -38, 0, by=1), near(0, -42, 90, by=1), 4.5, 4.5)])
    for side in (-1, 1):
        yield "muscle", _Tubes([(near(22 * side, -26, -70), near(17 * side, -26, -40), near(12 * side, -26, 0), 9, 6)])
        yield "kidney", _Blob(random, (29 * side, -19, -22), (12, 11, 22))
        yield "fluid", _Blob(random, (25 * side, -18, -22), (4, 4, 11))
    yield "spleen", _Blob(random, (-35, -6, 16), (13, 20, 26), 0.12)
    yield "muscle", _Blob(random, (-20, 15, 12), (17, 15, 26), 0.12)  # the stomach's wall
    yield "fluid", _Blob(random, (-20, 15, 12), (12, 10, 21), 0.12)
    corners = ((-34, 2, -26), (-30, 20, -44), (-12, 24, -28), (-8, 6, -44), (8, 26, -36), (20, 10, -50), (36, 8, -36))
    loops = [near(*corner, by=4) for corner in corners]
    bowel = [(a, near(*((a + b) / 2), by=10), b, 8.0, 7.0) for a, b in pairwise(loops)]
    yield "muscle", _Tubes(bowel)
    yield "fluid", _Tubes([(a, b, c, 5.0, 4.0) for a, b, c, *_ in bowel])
    yield "blood", _Tubes([(near(-5, -12, -90), near(-6, -8, 0), near(-4, -12, 90), 5.0, 5.5)])
    yield "blood", _Tubes([(near(9, -11, -90), near(9, -8, 0), near(8, -11, 90), 4.5, 5.5)])
    right, left = _Blob(random, (21, 6, 6), (25, 24, 37), 0.10), _Blob(random, (-4, 17, 18), (25, 12, 20), 0.12)
    yield "organ", left
    yield "organ", right
    vessel = _vessel(random, right.center, left.center)
    yield "vessel", vessel
    taken = vessel.path
    for _ in range(random.integers(1, 4)):
        candidates = right.center + random.uniform(-1, 1, (60, 3)) * (15, 14, 25)
        candidates = candidates[right.contains((candidates + (candidates - right.center) * 0.35).astype(np.float32))]
        center = candidates[cKDTree(taken).query(candidates)[0].argmax()]
        taken = np.vstack([taken, np.repeat(center[None], 2, axis=0)])
        yield "lesion", _Blob(random, center, np.full(3, random.uniform(6.5, 10.5)), 0.12)


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


def _paint(tissue: NDArray[np.uint8], points: Points, shape: _Shape, value: int) -> None:
    near = np.flatnonzero((np.abs(points - shape.center.astype(np.float32)) < shape.reach).all(axis=1))
    tissue[near[shape.contains(points[near])]] = value


def _place(scanner: Scanner, random: np.random.Generator) -> tuple[Geometry, NDArray[np.float64]]:
    """Where the stack lies, and the RAS steps ``(3, 3)`` of one voxel along ``i, j, k`` as columns."""
    signs = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    axes = np.zeros((3, 3))
    for column, letter in enumerate(scanner.axes):
        axis, sign = signs[letter]
        axes[axis, column] = sign
    degrees = np.array(scanner.tilt_degrees) + random.normal(0, 1.5, 3)
    steps = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() @ axes * scanner.spacing_mm
    center = (np.array(scanner.shape[::-1]) - 1) / 2
    ijk_to_ras = np.eye(4)
    ijk_to_ras[:3, :3] = steps
    ijk_to_ras[:3, 3] = random.normal(0, 20, 3) - steps @ center
    return Geometry(scanner.shape, ijk_to_ras), steps


def _voxel_centers(shape: tuple[int, int, int], steps: NDArray[np.float64]) -> Points:
    """Centers of all voxels in ``(k, j, i)`` order."""
    indices = np.indices(shape, dtype=np.float32)[::-1].reshape(3, -1).T
    points: Points = ((indices - (np.array(shape[::-1]) - 1) / 2) @ steps.T).astype(np.float32)
    return points


def _scan(
    clean: NDArray[np.float32], centers: Points, scanner: Scanner, random: np.random.Generator
) -> NDArray[np.generic]:
    """Texture, bias field, blur and noise on the noiseless signal ``(n,)``; voxels as the scanner stores them."""
    texture = _Waves.random(random, count=24, wavelength_mm=(7, 16), amplitude=0.06)(centers)[:, 0]
    bias = np.exp(_Waves.random(random, count=6, wavelength_mm=(110, 260), amplitude=scanner.bias)(centers)[:, 0])
    signal = (clean * (1 + texture) * bias).reshape(scanner.shape)
    signal = gaussian_filter(signal, (0, scanner.blur_voxels, scanner.blur_voxels))
    one, other = random.standard_normal((2, *scanner.shape), dtype=np.float32) * scanner.noise
    if scanner.noise_kind == "speckle":
        grains = gaussian_filter(one, (0, 0.6, 0.6)) * 1.7
        signal, one, other = signal * np.exp(grains), 0.1 * one, 0.1 * other
    noisy = np.hypot(signal + one, other) * scanner.full_scale
    stored: NDArray[np.generic] = noisy.astype(scanner.dtype)
    return stored

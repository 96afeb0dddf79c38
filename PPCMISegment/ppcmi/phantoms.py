"""Simulated abdomens for the task ``phantom``: images and labels as three unlike scanners would make them.

Organ (1), vessel (2) and lesion (3) of a :mod:`ppcmi.phantom_anatomy`, bent by a smooth random displacement, on the
scanner's own grid, four points a voxel for partial volumes, with its contrast, texture, bias field, blur and noise.

::

    image, labels = make_phantom(SCANNERS["A"], seed=1)     # the same seed has the same anatomy in every scanner
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from ppcmi.errors import WriteError
from ppcmi.formats.itk_files import image_from_volume
from ppcmi.phantom_anatomy import TISSUES, Abdomen, Points, Waves
from ppcmi.volume import Geometry, Volume

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
    bend = Waves.random(anatomy_random, count=10, wavelength_mm=(50, 110), amplitude=3.2, outputs=3)
    abdomen = Abdomen.random(anatomy_random)
    centers = _voxel_centers(scanner.shape, voxel_axes)
    bent = centers + bend.at(centers)
    samples = [abdomen.tissues_at(bent + (voxel_axes @ within).astype(np.float32)) for within in WITHIN_VOXEL]
    tissue = np.stack(samples)
    levels = [0.0, *(scanner.signal[name] * anatomy_random.normal(1, 0.04) for name in TISSUES[1:])]
    clean = np.array(levels, dtype=np.float32)[tissue].mean(axis=0)
    shares = np.stack([(tissue == value).mean(axis=0, dtype=np.float32) for value in range(1, LABELS)])
    shares = np.concatenate([1 - shares.sum(axis=0, keepdims=True), shares])
    labels = shares.argmax(axis=0).astype(np.uint8).reshape(scanner.shape)
    image = _scan(clean, centers, scanner, scan_random)
    return Volume(image, geometry), Volume(labels, geometry)


def write_phantom_folder(folder: Path, *, cases_per_site: int, seed: int) -> None:
    """A data folder of ``images/``, ``labels/`` and ``split.csv`` for the sites A, B and C.

    :raises WriteError: if the folder cannot be written.
    """
    rows = []
    try:
        for part in ("images", "labels"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        for index, (site, scanner) in enumerate(SCANNERS.items()):
            for number, fold in enumerate(folds(cases_per_site), start=1):
                name = f"phantom_{site}_{number:02}"
                case_seed = int(np.random.SeedSequence((seed, index, number)).generate_state(1)[0])
                for part, volume in zip(("images", "labels"), make_phantom(scanner, case_seed), strict=True):
                    SimpleITK.WriteImage(image_from_volume(volume), str(folder / part / f"{name}.nii.gz"))
                rows.append((name, fold, site))
        with (folder / "split.csv").open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([("id", "fold", "site"), *rows])
    except (OSError, RuntimeError) as error:  # SimpleITK raises RuntimeError
        raise WriteError("The phantoms cannot be written; choose another folder, or make room on the disk.") from error


def folds(cases: int) -> list[str]:
    """Of a site's cases in order: the last quarter is ``test`` (from 3 on), a sixth before it ``val`` (from 4 on)."""
    test = max(1, round(cases / 4)) if cases >= 3 else 0
    val = max(1, round(cases / 6)) if cases >= 4 else 0
    return ["train"] * (cases - val - test) + ["val"] * val + ["test"] * test


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
    texture = Waves.random(random, count=24, wavelength_mm=(7, 16), amplitude=0.06).at(centers)[:, 0]
    bias = np.exp(Waves.random(random, count=6, wavelength_mm=(110, 260), amplitude=scanner.bias).at(centers)[:, 0])
    signal = (clean * (1 + texture) * bias).reshape(scanner.shape)
    signal = gaussian_filter(signal, (0, scanner.blur_voxels, scanner.blur_voxels))
    one, other = random.standard_normal((2, *scanner.shape), dtype=np.float32) * scanner.noise
    if scanner.noise_kind == "speckle":
        grains = gaussian_filter(one, (0, 0.6, 0.6)) * 1.7
        signal, one, other = signal * np.exp(grains), 0.1 * one, 0.1 * other
    noisy = np.hypot(signal + one, other) * scanner.full_scale
    stored: NDArray[np.generic] = noisy.astype(scanner.dtype)
    return stored

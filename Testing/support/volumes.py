"""Volumes and tasks for tests: any orientation code, oblique, anisotropic, with smooth random structures."""

from __future__ import annotations

from itertools import permutations, product
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from ppcmi.task import Axis, Code, Label, Percentiles, Slicing, Task, Window
from ppcmi.volume import Geometry, Volume

ORIENTATION_CODES = tuple(product(permutations(range(3)), product((False, True), repeat=3)))
"""All 48: which axis of the original comes at each place, and which of the new axes are flipped."""


def a_task(
    *,
    labels: int = 2,
    axis: Axis = "axial",
    size: tuple[int, int] = (64, 64),
    spacing_mm: tuple[float, float] | None = None,
    neighbors: int = 0,
    intensity: Window | Percentiles | None = None,
) -> Task:
    physical = Code("SCT", "260787004", "Physical object")
    return Task(
        name="test",
        version="1",
        title="Test",
        modality="MR",
        labels=tuple(
            Label(
                value, f"Label {value}", (40 * value, 100, 200), physical, Code("99TEST", f"T{value}", f"Thing {value}")
            )
            for value in range(1, labels + 1)
        ),
        slicing=Slicing(axis, size, spacing_mm, neighbors),
        intensity=intensity or Window(0.0, 1.0),
    )


def a_geometry(
    shape: tuple[int, int, int],
    spacing_ijk: tuple[float, float, float] = (1.0, 1.0, 1.0),
    rotation: NDArray[np.float64] | None = None,
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Geometry:
    matrix = np.eye(4)
    matrix[:3, :3] = (np.eye(3) if rotation is None else rotation) * np.array(spacing_ijk)
    matrix[:3, 3] = origin
    return Geometry(shape, matrix)


def reoriented(volume: Volume, order: tuple[int, ...], flips: tuple[bool, ...]) -> Volume:
    """The same scan stored with another orientation code."""
    voxels = volume.voxels.transpose(order)
    matrix = np.array(volume.geometry.ijk_to_ras)
    matrix[:, :3] = matrix[:, [2 - axis for axis in order[::-1]]]
    for axis, flip in enumerate(flips):
        if flip:
            matrix[:3, 3] += matrix[:3, 2 - axis] * (voxels.shape[axis] - 1)
            matrix[:3, 2 - axis] *= -1
            voxels = np.flip(voxels, axis)
    return Volume(np.ascontiguousarray(voxels), Geometry(voxels.shape, matrix))


@st.composite
def geometries(
    draw: st.DrawFn, low: int = 3, high: int = 28, smallest_mm: float = 0.4, largest_mm: float = 4.0
) -> Geometry:
    """Odd and even shapes, anisotropic, rotated anyhow, mirrored or not, anywhere within a metre."""
    shape = draw(st.tuples(*[st.integers(low, high)] * 3))
    spacing = draw(st.tuples(*[st.floats(smallest_mm, largest_mm)] * 3))
    rotation = Rotation.from_euler("xyz", draw(st.tuples(*[st.floats(-180, 180)] * 3)), degrees=True).as_matrix()
    order, flips = draw(st.sampled_from(ORIENTATION_CODES))
    origin = draw(st.tuples(*[st.floats(-500, 500)] * 3))
    plain = Volume(np.zeros(shape, np.uint8), a_geometry(shape, spacing, rotation, origin))
    return reoriented(plain, order, flips).geometry


def smooth_labels(geometry: Geometry, labels: int, seed: int, feature_mm: float) -> Volume:
    """Label map of blobs with features of about ``feature_mm``; every label occurs if the volume is large enough."""
    noise = np.random.default_rng(seed).standard_normal((labels + 1, *geometry.shape))
    sigma = feature_mm / geometry.spacing_mm[::-1]
    blobs = np.stack([gaussian_filter(n, sigma, mode="reflect") for n in noise])
    return Volume(blobs.argmax(axis=0).astype(np.uint8), geometry)


def one_hot(labels: NDArray[Any], classes: int) -> NDArray[np.float32]:
    """Labels ``(n, h, w)`` as probabilities ``(n, K, h, w)``."""
    return np.stack([labels == value for value in range(classes)], axis=1).astype(np.float32)

"""A volume to slices of a task's geometry, and probabilities on those slices back onto the volume's own grid.

Slices are cut across the voxel axis nearest the task's patient axis: nothing is interpolated between slices. Every
slice is turned by flips and a transpose alone so that slices, rows and columns ascend along their nearest LPS axes. So
all orientation codes of one scan give the same slices. Axial ones have left to the right and posterior below, as
radiologists look at them; sagittal and coronal ones have the head below, and :func:`head_up` turns them to be looked
at. In plane, pixels are resampled about the image's center and padded or cropped to the slice size.

::

    slices, grid = slice_volume(volume, task)              # (n, c, h, w) float32 in [0, 1]
    labels = restore_labels(decode(slices), grid)          # uint8 on the grid of ``volume``
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ppcmi.errors import GeometryError, ReadError
from ppcmi.intensity import intensity_range
from ppcmi.resampling import AxisResampling
from ppcmi.task import Slicing, Task
from ppcmi.volume import Geometry, Volume, lps_from_ras

PATIENT_AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
"""Index in LPS of the patient axis that a task's slices lie across."""

COPIED_AT_ONCE = 32
"""Slices; across another axis than the voxels' first, neighbors lie in memory side by side."""

SLAB_VALUES = 1 << 24
"""How many restored probabilities are in memory at once: 64 MiB."""


@dataclass(frozen=True, eq=False)
class SliceGrid:
    """How slices lie in the volume that they were cut from.

    :param geometry: of that volume.
    :param axes: axes of the voxel array ``(k, j, i)`` along which slices, rows and columns run.
    :param flipped: whether slices, rows and columns run against the voxels' order.
    :param rows: from the volume's pixels to the slice's rows, and ``columns`` to its columns.
    """

    geometry: Geometry
    axes: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]
    rows: AxisResampling
    columns: AxisResampling

    def __len__(self) -> int:
        return self.geometry.shape[self.axes[0]]

    @property
    def cropped(self) -> bool:
        """Whether some of the volume's pixels lie outside the slices."""
        return not (self.rows.covered.all() and self.columns.covered.all())

    @property
    def covered(self) -> NDArray[np.bool_]:
        """``(rows, columns)`` of the volume's own pixels: which of them lie within the slices."""
        inside: NDArray[np.bool_] = self.rows.covered[:, None] & self.columns.covered
        return inside

    def from_voxels(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """Voxels ``(k, j, i)`` as a view ``(slice, row, column)`` in canonical orientation, at the volume's pixels."""
        return voxels.transpose(self.axes)[self._flips]

    def to_voxels(self, stack: NDArray[Any]) -> NDArray[Any]:
        """Inverse of :meth:`from_voxels`."""
        return np.ascontiguousarray(stack[self._flips].transpose(np.argsort(self.axes)))

    @property
    def _flips(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)


class VolumeSlices:
    """A volume's slices by a task's rules, made when they are asked for, so that a volume is in memory only once.

    :ivar grid: how to go back.
    :raises ReadError: if a voxel is not a finite number.
    """

    def __init__(self, volume: Volume, task: Task) -> None:
        self.grid = slice_grid(volume.geometry, task.slicing)
        self._stack = self.grid.from_voxels(volume.voxels)
        self._range = intensity_range(volume.voxels, task.intensity)
        self._reach = task.slicing.neighbors
        self._end, self._tail = 0, np.empty((0, self.grid.rows.frame, self.grid.columns.frame), dtype=np.float32)

    def __len__(self) -> int:
        return len(self._stack)

    def __getitem__(self, where: slice) -> NDArray[np.float32]:
        """Slices ``(n, c, h, w)`` float32 in [0, 1].

        The middle channel is the slice itself, the others its neighbors in order, the outermost slices repeated. Beyond
        the volume's field of view slices are 0.
        """
        start, stop, _ = where.indices(len(self))
        before, after = max(0, self._reach - start), max(0, stop + self._reach - len(self))
        frames = self._frames(start - self._reach + before, stop + self._reach - after)
        if before or after:
            frames = np.pad(frames, ((before, after), (0, 0), (0, 0)), mode="edge")
        # Neighbors share memory; whoever wants to write to slices copies them.
        windows = sliding_window_view(frames, 1 + 2 * self._reach, axis=0, writeable=True)
        return np.moveaxis(windows, -1, 1)

    def _frames(self, start: int, stop: int) -> NDArray[np.float32]:
        rows, columns = self.grid.rows, self.grid.columns
        frames = np.empty((stop - start, rows.frame, columns.frame), dtype=np.float32)
        known = self._known(start, stop)
        frames[: len(known)] = known
        scaled = np.empty(self._stack.shape[1:], dtype=np.float32)
        for index in range(start + len(known), stop, COPIED_AT_ONCE):
            pixels = np.ascontiguousarray(self._stack[index : min(index + COPIED_AT_ONCE, stop)])
            for offset, picture in enumerate(pixels, start=index - start):
                self._range.scale_into(scaled, picture)
                frames[offset] = columns.to_frame(rows.to_frame(scaled, axis=0), axis=1)
        self._end, self._tail = stop, frames[max(0, len(frames) - 2 * self._reach) :].copy()
        return frames

    def _known(self, start: int, stop: int) -> NDArray[np.float32]:
        """The first of these frames, as far as they were the last neighbors of the slices asked for before."""
        skipped = start - (self._end - len(self._tail))
        return self._tail[skipped : skipped + stop - start] if 0 <= skipped < len(self._tail) else self._tail[:0]


def head_up(pictures: NDArray[Any], slicing: Slicing) -> NDArray[Any]:
    """Slices ``(..., row, column)`` as radiologists look at them, a view: superior above where it lies in the plane."""
    return pictures if slicing.axis == "axial" else pictures[..., ::-1, :]


def slice_volume(volume: Volume, task: Task) -> tuple[NDArray[np.float32], SliceGrid]:
    """All of :class:`VolumeSlices`, ``(n, c, h, w)``, and how to go back.

    :raises ReadError: if a voxel is not a finite number.
    """
    slices = VolumeSlices(volume, task)
    return slices[:], slices.grid


def slice_labels(labels: Volume, grid: SliceGrid, task: Task) -> NDArray[np.uint8]:
    """Label maps ``(n, h, w)`` that belong to the slices of ``grid``; 0 beyond the volume's field of view.

    Where pixels are resampled each gets the label with the largest share of it, the larger label value in a tie;
    unlike the nearest pixel's label that does not move the structure when pixels grow by an even factor.

    :raises GeometryError: if the labels do not lie on the grid of the volume.
    :raises ReadError: if there are values that the task does not know.
    """
    _require_same_grid(labels, grid)
    if labels.voxels.min() < 0 or labels.voxels.max() >= task.classes:
        raise ReadError(
            f"The segmentation has values other than 0 to {task.classes - 1}, which are what the task knows."
        )
    stack = np.ascontiguousarray(grid.from_voxels(labels.voxels.astype(np.uint8)))
    if grid.rows.exact and grid.columns.exact:
        return grid.rows.to_frame(grid.columns.to_frame(stack, axis=2), axis=1)
    largest = np.zeros((len(stack), grid.rows.frame, grid.columns.frame), dtype=np.float32)
    frames = np.zeros(largest.shape, dtype=np.uint8)
    for value in np.flatnonzero(np.bincount(stack.ravel())):
        share = (stack == value).astype(np.float32)
        share = grid.rows.to_frame(grid.columns.to_frame(share, axis=2), axis=1)
        wins = (share >= largest - 1e-6) & (share > 0)
        frames[wins] = value
        largest = np.maximum(largest, share)
    return frames


def cropped_labels(labels: Volume, grid: SliceGrid) -> int:
    """How many labelled voxels lie outside the slices, where no network will see them.

    :raises GeometryError: if the labels do not lie on the grid of the volume.
    """
    _require_same_grid(labels, grid)
    if not grid.cropped:
        return 0
    return int(np.count_nonzero(grid.from_voxels(labels.voxels)[:, ~grid.covered]))


def restore_probabilities(probabilities: NDArray[np.float32], grid: SliceGrid) -> NDArray[np.float32]:
    """Probabilities ``(n, K, h, w)`` on slices to ``(K, k, j, i)`` on the volume's grid, linear in plane.

    Voxels that lie outside the slices are background: class 0 is 1 there.
    """
    classes = probabilities.shape[1]
    restored = np.empty((classes, *grid.geometry.shape), dtype=np.float32)
    in_plane = _restore_in_plane(probabilities, grid)
    for index in range(classes):
        restored[index] = grid.to_voxels(in_plane[:, index])
    return restored


def restore_labels(probabilities: NDArray[np.float32], grid: SliceGrid) -> Volume:
    """The most probable label, uint8, at every voxel of the volume's grid from probabilities ``(n, K, h, w)``."""
    if len(probabilities) != len(grid):
        raise ValueError(f"{len(probabilities)} slices of probabilities for a volume of {len(grid)} slices")
    return Volume(grid.to_voxels(labels_in_plane(probabilities, grid)), grid.geometry)


def labels_in_plane(probabilities: NDArray[np.float32], grid: SliceGrid) -> NDArray[np.uint8]:
    """The most probable label at every pixel ``(n, row, column)`` of the volume's, for some slices ``(n, K, h, w)``.

    For :meth:`SliceGrid.to_voxels`, once they are all there.
    """
    if grid.rows.exact and grid.columns.exact:  # labels can be moved in place of probabilities; 0 is the background
        return grid.rows.to_source(grid.columns.to_source(most_probable(probabilities), axis=2), axis=1)
    count, classes = probabilities.shape[:2]
    stack = np.empty((count, grid.rows.source, grid.columns.source), dtype=np.uint8)
    step = max(1, SLAB_VALUES // (classes * grid.rows.source * grid.columns.source))
    for start in range(0, count, step):
        slab = _restore_in_plane(probabilities[start : start + step], grid)
        stack[start : start + step] = most_probable(slab)
    return stack


def most_probable(probabilities: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The class ``(n, h, w)`` of the largest of the probabilities ``(n, K, h, w)``, the lowest one in a tie."""
    stack = np.zeros((len(probabilities), *probabilities.shape[2:]), dtype=np.uint8)
    last = probabilities.shape[1] - 1
    for labels, shares in zip(stack, probabilities, strict=True):
        # argmax(axis=0), or writing under a mask, takes many times as long; a later label is a larger number.
        best = shares[0]
        for label in range(1, last + 1):
            above = (shares[label] > best).view(np.uint8)
            np.maximum(labels, above * np.uint8(label), out=labels)
            best = np.maximum(best, shares[label]) if label < last else best
    return stack


def slice_grid(geometry: Geometry, slicing: Slicing) -> SliceGrid:
    """Where a task's slices lie in a volume of this geometry; a volume of one slice is cut along that axis."""
    patient_axes, flipped = canonical_axes(geometry)
    wanted = PATIENT_AXES[slicing.axis]
    singletons = [axis for axis in range(3) if geometry.shape[axis] == 1] or [0, 1, 2]
    through = min(singletons, key=lambda axis: (patient_axes[axis] != wanted, -patient_axes[axis]))
    down, across = sorted((axis for axis in range(3) if axis != through), key=lambda axis: -patient_axes[axis])
    pixels = [(geometry.shape[axis], float(geometry.spacing_mm[2 - axis])) for axis in (down, across)]
    if slicing.spacing_mm is None:
        fits = max(count * spacing / size for (count, spacing), size in zip(pixels, slicing.size, strict=True))
        targets = (fits, fits)
    else:
        targets = slicing.spacing_mm
    rows, columns = (
        AxisResampling.between(count, size, target / spacing)
        for (count, spacing), size, target in zip(pixels, slicing.size, targets, strict=True)
    )
    axes = (through, down, across)
    return SliceGrid(geometry, axes, (flipped[through], flipped[down], flipped[across]), rows, columns)


def canonical_axes(geometry: Geometry) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """For each array axis ``k, j, i``: the LPS axis it is nearest to, and whether it descends along it.

    Axes are assigned one to one so that the sum of cosines is largest. At 45 degrees two assignments are equally good;
    a small bias on the directions themselves, whatever order they are stored in, chooses between them.
    """
    columns = (lps_from_ras @ geometry.ijk_to_ras)[:3, 2::-1]  # LPS step of one voxel along k, j, i
    directions = columns / np.linalg.norm(columns, axis=0)
    bias = 1e-4 * np.array([[0.0, 1.0, 2.1], [3.3, 0.0, 4.7], [6.2, 8.9, 0.0]])

    def score(assignment: tuple[int, ...]) -> float:
        turned = directions * np.where(directions[assignment, (0, 1, 2)] < 0, -1.0, 1.0)
        by_patient_axis = turned[:, np.argsort(assignment)]
        return float(np.trace(by_patient_axis) + (bias * by_patient_axis).sum())

    best = max(permutations(range(3)), key=score)
    descends = directions[best, (0, 1, 2)] < 0
    return (best[0], best[1], best[2]), (bool(descends[0]), bool(descends[1]), bool(descends[2]))


def _restore_in_plane(probabilities: NDArray[np.float32], grid: SliceGrid) -> NDArray[np.float32]:
    """``(n, K, h, w)`` to ``(n, K, rows, columns)`` of the volume's own pixels."""
    restored = grid.columns.to_source(grid.rows.to_source(probabilities, axis=2), axis=3)
    outside = ~grid.covered
    if outside.any():
        restored[:, :, outside] = 0.0
        restored[:, 0, outside] = 1.0
    return restored


def _require_same_grid(labels: Volume, grid: SliceGrid) -> None:
    tolerance = max(1e-3, 0.02 * float(grid.geometry.spacing_mm.min()))  # file formats round affines
    if not labels.geometry.matches(grid.geometry, tolerance):
        raise GeometryError(
            "The segmentation does not lie on the image's voxels; export it again with the image as its reference."
        )

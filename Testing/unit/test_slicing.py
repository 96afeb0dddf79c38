import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from ppcmi import slicing
from ppcmi.errors import GeometryError, ReadError
from ppcmi.slicing import (
    VolumeSlices,
    cropped_labels,
    labels_in_plane,
    most_probable,
    restore_labels,
    restore_probabilities,
    slice_grid,
    slice_labels,
    slice_volume,
)
from ppcmi.task import Percentiles
from ppcmi.volume import Geometry, Volume, lps_from_ras
from support.volumes import ORIENTATION_CODES, a_geometry, a_task, geometries, one_hot, reoriented, smooth_labels

AXES = st.sampled_from(("sagittal", "coronal", "axial"))
SEEDS = st.integers(0, 2**32 - 1)
TENTHS = st.integers(0, 10).map(lambda tenths: np.float32(tenths / 10))  # so that some are equal
few = settings(max_examples=25, deadline=None)


def dice(one, other):
    return 2 * np.count_nonzero(one & other) / max(1, np.count_nonzero(one) + np.count_nonzero(other))


def random_volume(geometry: Geometry, seed: int) -> Volume:
    return Volume(np.random.default_rng(seed).random(geometry.shape, dtype=np.float32), geometry)


def own_spacing(geometry: Geometry, task):
    """The task with a spacing that this volume has already, so that nothing is resampled."""
    axes = slice_grid(geometry, task.slicing).axes
    rows, columns = (float(geometry.spacing_mm[2 - axis]) for axis in axes[1:])
    return a_task(
        axis=task.slicing.axis, size=task.slicing.size, spacing_mm=(rows, columns), neighbors=task.slicing.neighbors
    )


@given(geometries(high=9), AXES, SEEDS)
@settings(max_examples=10, deadline=None)
def test_all_48_orientation_codes_of_one_scan_give_the_same_slices(geometry, axis, seed):
    task = a_task(axis=axis, size=(32, 32), neighbors=1, intensity=Percentiles(1, 99))
    volume = random_volume(geometry, seed)
    expected, _ = slice_volume(volume, task)
    for order, flips in ORIENTATION_CODES:
        slices, _ = slice_volume(reoriented(volume, order, flips), task)
        np.testing.assert_allclose(slices, expected, atol=1e-5)


@pytest.mark.parametrize(
    "degrees", [(45, 0, 0), (0, 45, 0), (0, 0, 45), (0, 0, -45), (45, 45, 0), (45, 35.26438968, 45)]
)
def test_a_scan_at_45_degrees_has_the_same_slices_in_every_orientation_code(degrees):
    rotation = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    volume = random_volume(a_geometry((5, 6, 7), (1.0, 1.1, 1.2), rotation), seed=1)
    expected, _ = slice_volume(volume, a_task(size=(32, 32)))
    for order, flips in ORIENTATION_CODES:
        slices, _ = slice_volume(reoriented(volume, order, flips), a_task(size=(32, 32)))
        np.testing.assert_allclose(slices, expected, atol=1e-5)


def test_axial_slices_go_up_with_left_on_the_right_and_posterior_below():
    geometry = a_geometry((4, 32, 32))  # RAS: i to the right, j to the front, k up
    marks = np.zeros(geometry.shape, np.float32)
    marks[3, 0, 0] = 1.0  # the uppermost slice, at the patient's back, on the left
    slices, _ = slice_volume(Volume(marks, geometry), a_task(size=(32, 32), spacing_mm=(1, 1)))
    assert np.argwhere(slices[:, 0] == 1).tolist() == [[3, 31, 31]]


@pytest.mark.parametrize(("axis", "expected"), [("sagittal", (2, 0, 1)), ("coronal", (1, 0, 2)), ("axial", (0, 1, 2))])
def test_each_patient_axis_has_its_slices(axis, expected):
    assert slice_grid(a_geometry((5, 6, 7)), a_task(axis=axis).slicing).axes == expected


@pytest.mark.parametrize("singleton", [0, 1, 2])
@pytest.mark.parametrize("axis", ["sagittal", "coronal", "axial"])
def test_a_single_image_is_cut_along_its_own_axis_whatever_the_task_says(axis, singleton):
    shape = [20, 24, 28]
    shape[singleton] = 1
    slices, grid = slice_volume(random_volume(a_geometry(tuple(shape)), 0), a_task(axis=axis, size=(32, 32)))
    assert len(slices) == 1
    assert grid.axes[0] == singleton


@given(geometries(), AXES, SEEDS, st.integers(0, 2))
@few
def test_labels_come_back_identical_when_nothing_is_resampled_or_cropped(geometry, axis, seed, neighbors):
    task = own_spacing(geometry, a_task(axis=axis, size=(32, 64), neighbors=neighbors))
    labels = Volume(np.random.default_rng(seed).integers(0, 3, geometry.shape, dtype=np.uint8), geometry)
    slices, grid = slice_volume(random_volume(geometry, seed), task)
    frames = slice_labels(labels, grid, task)
    assert slices.shape == (len(frames), 1 + 2 * neighbors, 32, 64)
    assert not grid.cropped
    restored = restore_labels(one_hot(frames, 3), grid)
    np.testing.assert_array_equal(restored.voxels, labels.voxels)
    np.testing.assert_allclose(restored.geometry.ijk_to_ras, geometry.ijk_to_ras, atol=1e-5)


@given(geometries(low=40, high=56, smallest_mm=1.0, largest_mm=2.0), AXES, SEEDS)
@few
def test_smooth_structures_survive_resampling(geometry, axis, seed):
    task = a_task(labels=1, axis=axis, size=(128, 128), spacing_mm=(1.0, 1.3))
    center = (np.array(geometry.shape) - 1) / 2
    indices = np.moveaxis(np.indices(geometry.shape), 0, -1) - center
    away = (indices * geometry.spacing_mm[::-1]) @ np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))[0]
    radii = np.array([0.48, 0.40, 0.44]) * float((np.array(geometry.shape) * geometry.spacing_mm[::-1]).min())
    labels = Volume((((away / radii) ** 2).sum(axis=-1) < 1).astype(np.uint8), geometry)
    grid = slice_grid(geometry, task.slicing)
    restored = restore_labels(one_hot(slice_labels(labels, grid, task), 2), grid)
    assert restored.geometry.matches(geometry, tolerance_mm=1e-5)
    assert not grid.cropped
    assert dice(restored.voxels == 1, labels.voxels == 1) >= 0.98


def test_fine_ultrasound_is_fitted_into_the_slice_and_comes_back():
    geometry = a_geometry((1, 270, 400), (0.137, 0.137, 1.0))
    labels = smooth_labels(geometry, 1, seed=3, feature_mm=3.0)
    task = a_task(labels=1, size=(256, 256), intensity=Percentiles(0, 100))
    slices, grid = slice_volume(random_volume(geometry, 0), task)
    assert slices.shape == (1, 1, 256, 256)
    assert not grid.cropped
    assert grid.rows.step == grid.columns.step == pytest.approx(400 / 256)
    restored = restore_labels(one_hot(slice_labels(labels, grid, task), 2), grid)
    assert dice(restored.voxels == 1, labels.voxels == 1) >= 0.98


def test_values_pass_through_exactly_without_resampling():
    volume = random_volume(a_geometry((3, 20, 31), (1.0004, 0.9996, 2.0)), seed=5)
    slices, grid = slice_volume(volume, a_task(size=(32, 32), spacing_mm=(1.0, 1.0)))
    np.testing.assert_array_equal(grid.from_voxels(volume.voxels), slices[:, 0, 6:26, 1:32])
    assert np.count_nonzero(slices) == np.count_nonzero(volume.voxels)


@given(geometries(low=4, high=24), AXES, st.floats(0.5, 3.0), st.floats(0.5, 3.0))
@few
def test_resampled_pixels_lie_where_the_image_says(geometry, axis, row_mm, column_mm):
    """An image that is linear in space has the right value at every frame pixel's place but at its borders."""
    task = a_task(axis=axis, size=(64, 64), spacing_mm=(row_mm, column_mm))
    indices = np.indices(geometry.shape, dtype=float)[::-1].reshape(3, -1)
    lps = (lps_from_ras @ geometry.ijk_to_ras)[:3] @ np.vstack([indices, np.ones(indices.shape[1])])
    values = (np.array([0.3, -0.5, 0.8]) @ lps).reshape(geometry.shape)
    low, high = values.min(), values.max()
    volume = Volume((values - low) / (high - low), geometry)
    slices, grid = slice_volume(volume, task)
    rows, columns = grid.rows, grid.columns
    whole = grid.from_voxels(volume.voxels)
    down, across = rows.offset + rows.step * np.arange(64), columns.offset + columns.step * np.arange(64)
    slope_down, slope_across = whole[0, 1, 0] - whole[0, 0, 0], whole[0, 0, 1] - whole[0, 0, 0]
    expected = whole[:, :1, :1] + slope_down * down[:, None] + slope_across * across
    inner = away_from_borders(down, rows)[:, None] & away_from_borders(across, columns)
    np.testing.assert_allclose(slices[:, 0][:, inner], expected[:, inner], atol=1e-2 if rows.exact else 1e-4)


def away_from_borders(coordinates, resampling):
    reach = 1 + resampling.step / 2
    return (coordinates >= reach) & (coordinates <= resampling.source - 1 - reach)


def test_shrinking_does_not_alias():
    checkers = np.indices((1, 128, 128)).sum(axis=0) % 2
    slices, _ = slice_volume(Volume(checkers.astype(np.float32), a_geometry((1, 128, 128))), a_task(size=(32, 32)))
    np.testing.assert_allclose(slices, 0.5, atol=0.03)


def test_growing_pixels_by_an_even_factor_does_not_move_a_structure():
    labels = np.zeros((1, 64, 64), np.uint8)
    labels[0, 18:46, 18:46] = 1  # symmetric about the center
    volume = Volume(labels, a_geometry((1, 64, 64)))
    task = a_task(labels=1, size=(32, 32))
    frame = slice_labels(volume, slice_grid(volume.geometry, task.slicing), task)[0]
    np.testing.assert_array_equal(frame, frame[::-1, ::-1])


def test_neighbors_go_along_and_the_outermost_slice_is_repeated():
    volume = random_volume(a_geometry((3, 32, 32)), seed=2)
    alone, _ = slice_volume(volume, a_task(size=(32, 32), spacing_mm=(1, 1)))
    together, _ = slice_volume(volume, a_task(size=(32, 32), spacing_mm=(1, 1), neighbors=2))
    for index, nearby in enumerate([[0, 0, 0, 1, 2], [0, 0, 1, 2, 2], [0, 1, 2, 2, 2]]):
        np.testing.assert_array_equal(together[index], alone[nearby, 0])


def test_what_lies_outside_the_slices_is_background_and_lost_labels_are_counted():
    labels = Volume(np.ones((2, 40, 32), np.uint8), a_geometry((2, 40, 32)))
    task = a_task(labels=1, size=(32, 32), spacing_mm=(1, 1))
    grid = slice_grid(labels.geometry, task.slicing)
    assert grid.cropped
    assert cropped_labels(labels, grid) == 2 * 8 * 32
    probabilities = restore_probabilities(one_hot(slice_labels(labels, grid, task), 2), grid)
    np.testing.assert_array_equal(probabilities.sum(axis=0), 1)
    assert restore_labels(one_hot(slice_labels(labels, grid, task), 2), grid).voxels.sum() == 2 * 32 * 32
    assert probabilities[0].sum() == 2 * 8 * 32


def test_no_label_is_lost_where_the_slice_holds_the_image():
    labels = Volume(np.ones((2, 30, 32), np.uint8), a_geometry((2, 30, 32)))
    assert cropped_labels(labels, slice_grid(labels.geometry, a_task(size=(32, 32), spacing_mm=(1, 1)).slicing)) == 0


@given(geometries(high=16), AXES, SEEDS)
@few
def test_restored_probabilities_sum_to_one_and_their_largest_is_the_label(geometry, axis, seed):
    task = a_task(axis=axis, size=(32, 32), spacing_mm=(1.5, 1.5))
    grid = slice_grid(geometry, task.slicing)
    noise = np.random.default_rng(seed).standard_normal((len(grid), 3, 32, 32))
    scores = np.exp(3 * gaussian_filter(noise, (0, 0, 2, 2)) * 4)
    probabilities = (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)
    restored = restore_probabilities(probabilities, grid)
    assert restored.shape == (3, *geometry.shape)
    np.testing.assert_allclose(restored.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_array_equal(restore_labels(probabilities, grid).voxels, restored.argmax(axis=0))


@given(st.integers(1, 6), st.integers(20, 44), st.integers(20, 44), st.sampled_from([None, 1.0, 1.5]), SEEDS)
@few
def test_the_label_is_the_lowest_class_of_the_largest_probability_whether_pixels_are_resampled_or_not(
    classes, rows, columns, spacing, seed
):
    spacings = None if spacing is None else (spacing, spacing)
    grid = slice_grid(a_geometry((3, rows, columns)), a_task(size=(32, 32), spacing_mm=spacings).slicing)
    tied = np.random.default_rng(seed).integers(0, 3, (3, classes, 32, 32)).astype(np.float32)  # most pixels tie
    labels = labels_in_plane(tied, grid)
    assert labels.dtype == np.uint8
    expected = grid.from_voxels(restore_probabilities(tied, grid).argmax(axis=0))
    np.testing.assert_array_equal(labels, expected)


def test_restoring_in_small_slabs_gives_the_same_labels(monkeypatch):
    grid = slice_grid(a_geometry((9, 20, 30)), a_task(size=(32, 32)).slicing)
    probabilities = np.random.default_rng(0).random((9, 3, 32, 32), dtype=np.float32)
    whole = restore_labels(probabilities, grid)
    monkeypatch.setattr(slicing, "SLAB_VALUES", 4000)
    np.testing.assert_array_equal(restore_labels(probabilities, grid).voxels, whole.voxels)


def test_labels_of_another_geometry_are_refused():
    task = a_task()
    grid = slice_grid(a_geometry((4, 8, 8)), task.slicing)
    elsewhere = Volume(np.zeros((4, 8, 8), np.uint8), a_geometry((4, 8, 8), origin=(0.5, 0, 0)))
    with pytest.raises(GeometryError, match="does not lie on the image's voxels"):
        slice_labels(elsewhere, grid, task)


def test_label_values_that_the_task_does_not_know_are_refused():
    task = a_task(labels=2)
    labels = Volume(np.full((4, 8, 8), 3, np.uint16), a_geometry((4, 8, 8)))
    with pytest.raises(ReadError, match="other than 0 to 2"):
        slice_labels(labels, slice_grid(labels.geometry, task.slicing), task)


def test_an_image_that_is_not_finite_is_refused():
    voxels = np.zeros((2, 8, 8), np.float32)
    voxels[0, 0, 0] = np.nan
    with pytest.raises(ReadError, match="no numbers"):
        slice_volume(Volume(voxels, a_geometry((2, 8, 8))), a_task())


@given(geometries(), st.lists(st.tuples(st.integers(0, 15), st.integers(1, 6)), max_size=8), st.integers(0, 2), SEEDS)
@few
def test_slices_are_the_same_whatever_was_asked_for_before(geometry, asked, neighbors, seed):
    volume, task = random_volume(geometry, seed), a_task(neighbors=neighbors)
    whole, _ = slice_volume(volume, task)
    slices = VolumeSlices(volume, task)
    for start, count in [*((place % len(slices), count) for place, count in asked), (0, 2), (2, 2)]:
        part = slice(min(start, len(slices) - 1), start + count)
        np.testing.assert_array_equal(slices[part], whole[part])


@settings(max_examples=40, deadline=None)
@given(probabilities=arrays(np.float32, st.tuples(*map(st.integers, (1, 1, 1, 1), (3, 6, 9, 9))), elements=TENTHS))
def test_the_most_probable_class_is_the_lowest_of_those_that_are_largest(probabilities):
    np.testing.assert_array_equal(most_probable(probabilities), probabilities.argmax(axis=1))

"""Labels of another grid, held against SimpleITK's nearest neighbors."""

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st

from ppcmi.errors import GeometryError
from ppcmi.formats.itk_files import image_from_volume
from ppcmi.label_grid import labels_on
from ppcmi.volume import Geometry, Volume
from support.volumes import ORIENTATION_CODES, a_geometry, geometries, reoriented, smooth_labels


def moved(geometry: Geometry, shape, first) -> Geometry:
    """The grid of the same voxels that begins at index ``first`` (k, j, i) and has another shape."""
    matrix = np.array(geometry.ijk_to_ras)
    matrix[:3, 3] = (geometry.ijk_to_ras @ (*first[::-1], 1))[:3]
    return Geometry(shape, matrix)


@given(geometries(low=6, high=12), st.integers(0, 47), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_labels_that_were_cropped_padded_or_turned_lose_nothing(geometry, code, seed):
    labels = Volume(np.zeros(geometry.shape, np.uint8), geometry)
    labels.voxels[2:-2, 2:-2, 2:-2] = np.random.default_rng(seed).integers(0, 4, np.array(geometry.shape) - 4)
    for shape, first in (
        (tuple(size - 2 for size in geometry.shape), (1, 1, 1)),
        (tuple(size + 3 for size in geometry.shape), (-1, -2, 0)),
    ):
        image = reoriented(Volume(np.zeros(shape, np.uint8), moved(geometry, shape, first)), *ORIENTATION_CODES[code])
        placed = labels_on(labels, image.geometry)
        assert not placed.nearest
        assert placed.volume.geometry is image.geometry
        back = labels_on(placed.volume, labels.geometry)
        np.testing.assert_array_equal(back.volume.voxels, labels.voxels)


def test_the_same_grid_in_another_orientation_is_the_same_labels():
    labels = smooth_labels(a_geometry((6, 7, 8), (1.0, 1.1, 2.0)), 3, seed=0, feature_mm=3)
    for code in ORIENTATION_CODES:
        turned = reoriented(labels, *code)
        placed = labels_on(labels, turned.geometry)
        np.testing.assert_array_equal(placed.volume.voxels, turned.voxels)
        assert not placed.nearest


@given(geometries(low=8, high=16, smallest_mm=1.0), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_another_grid_is_taken_at_the_nearest_voxel_as_simpleitk_does(geometry, seed):
    generator = np.random.default_rng(seed)
    labels = smooth_labels(geometry, 2, seed, feature_mm=3)
    labels.voxels[[0, -1]] = labels.voxels[:, [0, -1]] = labels.voxels[:, :, [0, -1]] = 0
    scale = generator.uniform(0.4, 1.7, 3)
    shape = tuple(int(np.ceil(size / factor)) + 3 for size, factor in zip(geometry.shape, scale[::-1], strict=True))
    matrix = geometry.ijk_to_ras @ np.diag([*scale, 1.0])
    matrix[:3, 3] -= geometry.ijk_to_ras[:3, :3] @ generator.uniform(0.1, 0.7, 3)
    grid = Geometry(shape, matrix)
    placed = labels_on(labels, grid)
    assert placed.nearest
    reference = image_from_volume(Volume(np.zeros(shape, np.uint8), grid))
    expected = SimpleITK.Resample(
        image_from_volume(labels), reference, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor
    )
    differ = np.count_nonzero(placed.volume.voxels != SimpleITK.GetArrayFromImage(expected))
    assert differ <= 0.001 * placed.volume.voxels.size  # voxels halfway between two


@pytest.mark.parametrize("shift", [(0.5, 0, 0), (3, 0, 0), (200, 0, 0), (0, 0, -1)])
def test_labels_of_the_images_own_shape_that_lie_elsewhere_have_lost_their_position(shift):
    labels = Volume(np.ones((6, 7, 8), np.uint8), a_geometry((6, 7, 8), origin=shift))
    with pytest.raises(GeometryError, match="does not lie on the image's voxels"):
        labels_on(labels, a_geometry((6, 7, 8)))


def test_labels_without_the_images_orientation_are_refused():
    labels = Volume(np.ones((6, 7, 8), np.uint8), a_geometry((6, 7, 8)))
    with pytest.raises(GeometryError, match="does not lie on the image's voxels"):
        labels_on(labels, a_geometry((6, 7, 8), (1, 1, 3), origin=(-90, 20, 100)))


def test_labels_that_lie_outside_the_image_are_another_images():
    labels = Volume(np.zeros((20, 20, 20), np.uint8), a_geometry((20, 20, 20)))
    labels.voxels[:10] = 1
    inside = a_geometry((9, 20, 21))
    labels_on(labels, inside)
    with pytest.raises(GeometryError, match="outside the image"):
        labels_on(labels, a_geometry((8, 20, 21)))


def test_nothing_labelled_lies_anywhere():
    empty = Volume(np.zeros((4, 4, 4), np.uint8), a_geometry((4, 4, 4), origin=(500, 0, 0)))
    assert not labels_on(empty, a_geometry((5, 6, 7))).volume.voxels.any()

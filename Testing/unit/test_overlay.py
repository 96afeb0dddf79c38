"""Pictures of segmentations: which slice, outlines where structures are, proportions; and PNG files."""

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ppcmi.overlay import fit, outlined, overlay_of
from ppcmi.png import encode_png
from ppcmi.volume import Geometry, Volume
from support.private_link import small_task

TASK = small_task()


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([(), (3,)]), st.integers(0, 99))
def test_a_png_file_holds_every_pixel(height, width, channels, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_png(pixels)))), pixels)


def colored(picture, label):
    return (picture == label.color).all(axis=-1)


def test_an_outline_follows_the_edge_and_leaves_the_inside_visible():
    labels = np.zeros((40, 40), np.uint8)
    labels[10:30, 10:30] = 2
    mask = colored(outlined(np.full((40, 40), 0.5, np.float32), labels, TASK, (200, 200)), TASK.labels[1])
    rows, columns = np.nonzero(mask)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == pytest.approx((50, 149, 50, 149), abs=1)
    assert not mask[60:140, 60:140].any()


def test_a_structure_of_one_pixel_is_seen_in_a_much_smaller_picture():
    labels = np.zeros((600, 600), np.uint8)
    labels[301, 123] = 3
    picture = outlined(np.zeros((600, 600), np.float32), labels, TASK, (100, 100))
    assert colored(picture, TASK.labels[2]).any()


def volume_of(voxels):
    return Volume(voxels, Geometry(voxels.shape, np.diag([1.0, 2.0, 5.0, 1.0])))


def test_the_slice_with_most_of_the_structures_is_shown_in_physical_proportions():
    image, labels = np.zeros((5, 10, 10), np.float32), np.zeros((5, 10, 10), np.uint8)
    image[3] = 1.0
    labels[1, 5, 5], labels[3, 4:6, 4:6] = 1, 1
    picture = overlay_of(volume_of(image), volume_of(labels), TASK, side=100)
    assert picture.shape == (100, 50, 3)
    assert picture[0, 0].tolist() == [255, 255, 255]
    assert colored(picture, TASK.labels[0]).any()


def test_where_nothing_was_found_the_middle_slice_is_shown_as_it_is():
    image = np.zeros((5, 10, 10), np.float32)
    image[2, :, :5] = 1.0
    picture = overlay_of(volume_of(image), volume_of(np.zeros((5, 10, 10), np.uint8)), TASK, side=100)
    assert set(np.unique(picture)) >= {0, 255}
    assert (picture[..., 0] == picture[..., 1]).all()


@given(st.floats(0.1, 1e4), st.floats(0.1, 1e4), st.integers(1, 500))
def test_a_picture_fits_into_its_frame(height, width, side):
    assert max(fit((height, width), side)) == side
    assert min(fit((height, width), side)) >= 1


@pytest.mark.parametrize("axis", ["sagittal", "coronal"])
def test_the_head_is_up_where_it_lies_in_the_plane(axis):
    """Radiologists look at sagittal and coronal slices so; the slices that networks see ascend to the head."""
    task = replace(TASK, slicing=replace(TASK.slicing, axis=axis))
    image, labels = np.zeros((10, 10, 10), np.float32), np.zeros((10, 10, 10), np.uint8)
    image[7:] = 1.0  # voxels (k, j, i), k ascends to the head
    labels[8, 4:6, 4:6] = 1
    picture = overlay_of(volume_of(image), volume_of(labels), task, side=100)
    rows = len(picture)
    assert (picture[: rows // 5, :5] == 255).all()
    assert (picture[-rows // 2 :, :5] == 0).all()
    outline = colored(picture, task.labels[0]).any(axis=1)
    assert outline[: rows // 2].any()
    assert not outline[rows // 2 :].any()

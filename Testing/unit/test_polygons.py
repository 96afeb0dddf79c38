import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import points_in_poly

from ppcmi.dicom.polygons import inside

SHAPE = (20, 24)
ROWS, COLUMNS = np.indices(SHAPE)
CENTERS = np.stack([COLUMNS.ravel(), ROWS.ravel()], axis=1)


def by_scikit_image(contour):
    return points_in_poly(CENTERS, contour).reshape(SHAPE)


def circle(x, y, radius, points=50):
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)


@given(st.integers(0, 2**32 - 1), st.integers(3, 40))
@settings(max_examples=200, deadline=None)
def test_any_polygon_even_one_that_crosses_itself_or_the_border_encloses_what_scikit_image_says(seed, corners):
    contour = np.random.default_rng(seed).uniform(-5, 29, (corners, 2))
    np.testing.assert_array_equal(inside([contour], SHAPE), by_scikit_image(contour))


def test_a_contour_within_another_is_a_hole():
    outer, hole = circle(12.3, 10.2, 8), circle(11.1, 10.4, 3)
    expected = by_scikit_image(outer) & ~by_scikit_image(hole)
    np.testing.assert_array_equal(inside([outer, hole], SHAPE), expected)


def test_a_keyhole_is_the_same_hole():
    outer, hole = circle(12.3, 10.2, 8), circle(11.1, 10.4, 3)[::-1]
    keyhole = np.concatenate([outer, outer[:1], hole, hole[:1]])
    np.testing.assert_array_equal(inside([keyhole], SHAPE), inside([outer, hole], SHAPE))


def test_two_areas_with_a_common_border_share_no_pixel_and_leave_none_out():
    square = np.array([(2.0, 3.0), (10.0, 3.0), (10.0, 12.0), (2.0, 12.0)])
    left, right = square.copy(), square.copy()
    left[1:3, 0] = right[[0, 3], 0] = 6.0
    one, other = inside([left], SHAPE), inside([right], SHAPE)
    assert not (one & other).any()
    np.testing.assert_array_equal(one | other, inside([square], SHAPE))
    assert inside([square], SHAPE).sum() == 8 * 9


def test_contours_beyond_the_image_are_nothing():
    assert not inside([circle(100, 10, 8), circle(10, -50, 8)], SHAPE).any()
    assert inside([circle(12, 10, 500)], SHAPE).all()

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppcmi.errors import ReadError
from ppcmi.intensity import normalize
from ppcmi.task import Percentiles, Window


def test_a_window_maps_its_ends_to_zero_and_one_and_clips_the_rest():
    voxels = np.array([-2000, -100, 0, 100, 3000], np.int16)
    np.testing.assert_allclose(normalize(voxels, Window(-100, 100)), [0, 0, 0.5, 1, 1])


@given(st.floats(1e-3, 1e6), st.floats(-1e6, 1e6), st.sampled_from((np.float32, np.float64)))
@settings(max_examples=30, deadline=None)
def test_percentiles_make_scanners_scales_alike(scale, offset, dtype):
    voxels = np.random.default_rng(0).random(1000)
    scaled = (voxels * scale + offset).astype(dtype)
    tolerance = 1e-4 + 4 * np.finfo(dtype).eps * abs(offset) / scale
    np.testing.assert_allclose(
        normalize(scaled, Percentiles(1, 99)), normalize(voxels, Percentiles(1, 99)), atol=tolerance
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_every_voxel_type_becomes_float32_between_zero_and_one(dtype):
    normalized = normalize(np.arange(100, dtype=dtype), Percentiles(0, 100))
    assert normalized.dtype == np.float32
    np.testing.assert_allclose(normalized, np.arange(100) / 99, atol=1e-6)


def test_large_whole_numbers_keep_their_differences():
    voxels = np.int32(2**30) + np.arange(4, dtype=np.int32)
    np.testing.assert_allclose(normalize(voxels, Percentiles(0, 100)), [0, 1 / 3, 2 / 3, 1], atol=1e-6)


def test_a_constant_volume_becomes_zeros():
    assert not normalize(np.full((2, 3), 7, np.int16), Percentiles(1, 99)).any()


def test_a_small_bright_thing_on_nothing_is_not_lost():
    voxels = np.zeros(1000, np.float32)
    voxels[0] = 5
    assert normalize(voxels, Percentiles(0.5, 99.5))[0] == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_no_numbers_are_refused(bad):
    with pytest.raises(ReadError, match="no numbers"):
        normalize(np.array([0.0, bad]), Percentiles(1, 99))

"""Tilted and unevenly spaced slices: onto a regular grid, and results back onto the slices."""

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from ppcmi.dicom.acquisition import FINEST, Acquisition, is_regular
from ppcmi.dicom.frames import DicomFrame
from ppcmi.errors import GeometryError
from ppcmi.reading import read_image
from ppcmi.sources import find_sources
from ppcmi.volume import lps_from_ras
from support.dicom_pictures import a_picture, save

ROWS, COLUMNS = 48, 40


def frames_at(positions, directions, spacing_mm):
    return tuple(
        DicomFrame(None, 0, np.array(position), np.array(directions, float), spacing_mm) for position in positions
    )


@st.composite
def acquisitions(draw):
    """Frames with gaps and sideways shifts of all kinds, anywhere in space, and their shape."""
    turn = Rotation.from_euler("xyz", draw(st.tuples(*[st.floats(-180, 180)] * 3)), degrees=True).as_matrix()
    directions, normal = turn[:, :2].T, np.cross(turn[:, 0], turn[:, 1])
    spacing = draw(st.tuples(*[st.floats(0.6, 1.2)] * 2))
    count = draw(st.integers(12, 16))
    gaps = np.array(draw(st.lists(st.floats(1.2, 2.5), min_size=count - 1, max_size=count - 1)))
    heights = np.concatenate([[0], np.cumsum(gaps)])
    tilt = np.array(draw(st.tuples(*[st.floats(-0.3, 0.3)] * 2)))
    origin = np.array(draw(st.tuples(*[st.floats(-300, 300)] * 3)))
    return frames_at([origin + h * (normal + tilt @ directions) for h in heights], directions, spacing), normal


def pixel_centers(frame, shape=(ROWS, COLUMNS)):
    """``(rows, columns, 3)`` LPS by the equation of PS3.3 C.7.6.2.1.1."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    across, down = frame.directions
    return (
        np.asarray(frame.position)
        + across * frame.spacing_mm[1] * columns[..., None]
        + down * frame.spacing_mm[0] * rows[..., None]
    )


def grid_centers(geometry):
    """``(k, j, i, 3)`` LPS."""
    k, j, i = np.mgrid[tuple(slice(size) for size in geometry.shape)]
    indices = np.stack([i, j, k, np.ones_like(i)], axis=-1)
    return (indices @ (lps_from_ras @ geometry.ijk_to_ras).T)[..., :3]


def middle_of(frames):
    return np.mean([pixel_centers(frame)[ROWS // 2, COLUMNS // 2] for frame in frames], axis=0)


@settings(max_examples=25, deadline=None)
@given(acquisitions(), st.tuples(*[st.floats(-1, 1)] * 3))
def test_what_is_linear_in_space_is_the_same_on_the_regular_grid(acquired, slope):
    frames, _ = acquired
    acquisition = Acquisition.of(frames, (ROWS, COLUMNS))
    middle = middle_of(frames)
    voxels = np.stack([(pixel_centers(frame) - middle) @ slope for frame in frames]).astype(np.float32)
    volume = acquisition.regular_volume(voxels)
    expected = (grid_centers(volume.geometry) - middle) @ slope
    covered = _covered_by_two(frames, volume.geometry)
    assert covered.any()
    np.testing.assert_allclose(volume.voxels[covered], expected[covered], atol=2e-3)


def _covered_by_two(frames, geometry):
    """Voxels between two slices that both have pixels around them."""
    centers = grid_centers(geometry)
    normal = np.cross(*frames[0].directions)
    heights = np.array([frame.position @ normal for frame in frames])
    inside = []
    for frame in frames:
        away = centers - frame.position
        i = away @ frame.directions[0] / frame.spacing_mm[1]
        j = away @ frame.directions[1] / frame.spacing_mm[0]
        inside.append((i >= 0.01) & (i <= COLUMNS - 1.01) & (j >= 0.01) & (j <= ROWS - 1.01))
    upper = np.searchsorted(heights, centers @ normal).clip(1, len(frames) - 1)
    stack = np.stack(inside)
    at = np.indices(upper.shape)
    return stack[(upper, *at)] & stack[(upper - 1, *at)]


@settings(max_examples=25, deadline=None)
@given(acquisitions(), st.floats(8.0, 12.0))
def test_a_structure_comes_back_onto_the_slices_it_was_acquired_on(acquired, radius):
    """A ball that fades over 8 mm, as an image on the slices, segmented by its value on the regular grid."""
    frames, _ = acquired
    middle = middle_of(frames)

    def inside(points):
        return (0.5 + (radius - np.linalg.norm(points - middle, axis=-1)) / 8).clip(0, 1)

    voxels = np.stack([inside(pixel_centers(frame)) for frame in frames]).astype(np.float32)
    acquisition = Acquisition.of(frames, (ROWS, COLUMNS))
    ball = acquisition.regular_volume(voxels).voxels
    labels = acquisition.labels_on_slices(np.stack([1 - ball, ball]))
    truth = np.stack([np.linalg.norm(pixel_centers(frame) - middle, axis=-1) < radius for frame in frames])
    assert labels.dtype == np.uint8
    assert labels.shape == truth.shape
    assert 2 * (truth & (labels == 1)).sum() / (truth.sum() + labels.sum()) >= 0.98


@settings(max_examples=50, deadline=None)
@given(acquisitions())
def test_the_grid_holds_all_slices_the_first_and_the_last_on_it(acquired):
    frames, normal = acquired
    acquisition = Acquisition.of(frames, (ROWS, COLUMNS))
    grid = acquisition.regular
    to_grid = np.linalg.inv(lps_from_ras @ grid.ijk_to_ras)
    for frame in frames:
        corners = pixel_centers(frame)[[0, 0, -1, -1], [0, -1, 0, -1]]
        i, j, k = (np.c_[corners, np.ones(4)] @ to_grid.T)[:, :3].T
        for values, size in ((i, grid.shape[2]), (j, grid.shape[1]), (k, grid.shape[0])):
            assert values.min() > -0.01
            assert values.max() < size - 0.99
    directions = (lps_from_ras @ grid.ijk_to_ras)[:3, :3] / grid.spacing_mm
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(directions[:, 2], normal, atol=1e-9)
    gaps = np.diff([frame.position @ normal for frame in frames])
    assert grid.spacing_mm[2] <= 1.001 * gaps.min() or grid.shape[0] == 1 + FINEST * len(frames)


def test_a_tiny_gap_does_not_make_a_huge_grid():
    positions = [(0, 0, z) for z in (0, 10, 20, 20.05, 30, 40)]
    grid = Acquisition.of(frames_at(positions, np.eye(3)[:2], (1.0, 1.0)), (8, 8)).regular
    assert grid.shape == (1 + FINEST * 6, 8, 8)
    np.testing.assert_allclose(grid.spacing_mm, (1, 1, 40 / (FINEST * 6)))


def test_slices_beside_each_other_are_refused():
    with pytest.raises(GeometryError, match="do not lie above each other"):
        Acquisition.of(frames_at([(0, 0, 0), (30, 0, 3), (60, 0, 6)], np.eye(3)[:2], (1.0, 1.0)), (20, 20))


@pytest.mark.parametrize(
    ("positions", "regular"),
    [
        ([(0, 0, 0), (0, 0, 2), (0, 0, 4)], True),
        ([(0, 0, 0), (0, 0, 2.05), (0, 0, 4)], True),  # rounded
        ([(0, 0, 0), (0, 0, 2.3), (0, 0, 4)], False),
        ([(0, 0, 0), (0, 0.015, 2), (0, 0.03, 4)], True),  # a table that sags, within 0.6 degrees
        ([(0, 0, 0), (0, 0.5, 2), (0, 1, 4)], False),
        ([(0, 0, 0), (0, 0.3, 2), (0, 0, 4)], False),
        ([(0, 0, 7)], True),
        ([(0, 0, k * 0.6 + 0.05 * (k % 2)) for k in range(9)], True),  # a tenth of a millimetre's digits
        ([(0, 0, k + 0.01 * max(0, k - 50)) for k in range(101)], False),  # gaps that grow by a hundredth
    ],
)
def test_what_counts_as_regular(positions, regular):
    assert is_regular(frames_at(positions, np.eye(3)[:2], (1.0, 1.0))) == regular


def test_a_tilted_series_is_read_onto_a_grid_and_says_so(tmp_path):
    normal, shift = np.array([0, 0, 1.0]), np.array([0, 0.32, 0])
    for k in range(6):
        position = (5 * k * (normal + shift)).tolist()
        pixels = np.full((32, 32), 100 * k, np.int16)
        save(a_picture(pixels, SeriesInstanceUID="1.2.3", ImagePositionPatient=position), tmp_path / str(k))
    (source,) = find_sources(tmp_path).images
    image = read_image(source)
    assert image.acquisition is not None
    assert any("no regular grid" in warning for warning in image.warnings)
    assert image.volume.geometry.shape == (6, 40, 32)
    for k in range(6):
        assert np.count_nonzero(image.volume.voxels[k] == 100 * k) >= 30 * 32
    assert image.volume.voxels.min() == 0


def test_a_head_with_gaps_of_three_sizes_and_a_tilt_is_what_interpolation_in_space_says(data_folder):
    folder = data_folder("dicom_samples") / "ct_head_gantry_tilt_ge"
    (source,) = find_sources(folder).images
    image = read_image(source)
    assert image.acquisition is not None
    assert len(image.acquisition.slices) == 28
    headers = sorted(
        (pydicom.dcmread(path) for path in folder.iterdir()), key=lambda h: float(h.ImagePositionPatient[2])
    )
    padding = min(h.pixel_array[h.pixel_array != h.PixelPaddingValue].min() for h in headers)
    pixels = np.stack([np.where(h.pixel_array == h.PixelPaddingValue, padding, h.pixel_array) for h in headers])
    across, down = np.array(headers[0].ImageOrientationPatient, float).reshape(2, 3)
    normal = np.cross(across, down)
    positions = np.array([h.ImagePositionPatient for h in headers], float)
    heights = positions @ normal
    row_mm, column_mm = map(float, headers[0].PixelSpacing)

    rng = np.random.default_rng(0)
    grid = image.volume.geometry
    indices = np.stack([rng.integers(0, size, 4000) for size in grid.shape[::-1]] + [np.ones(4000, int)])
    points = (lps_from_ras @ grid.ijk_to_ras @ indices)[:3].T
    above = np.searchsorted(heights, points @ normal - 1e-6).clip(1, 27)
    values, valid = [], np.ones(len(points), bool)
    for k in (above - 1, above):
        j, i = (points - positions[k]) @ down / row_mm, (points - positions[k]) @ across / column_mm
        valid &= (j >= 0) & (j <= 511) & (i >= 0) & (i <= 511)
        values.append(map_coordinates(pixels.astype(float), [k, j.clip(0, 511), i.clip(0, 511)], order=1))
    share = (points @ normal - heights[above - 1]) / (heights[above] - heights[above - 1])
    expected = values[0] * (1 - share) + values[1] * share
    found = image.volume.voxels[tuple(indices[2::-1])]
    assert valid.sum() > 2000
    np.testing.assert_allclose(found[valid], expected[valid], atol=0.5)
    assert 2 * np.ptp(heights) > grid.spacing_mm[2] * (grid.shape[0] - 1) > 0.99 * np.ptp(heights)

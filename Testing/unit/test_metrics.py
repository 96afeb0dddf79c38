import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

from ppcmi.errors import GeometryError
from ppcmi.metrics import score_case, surface_distances_mm
from ppcmi.volume import Volume
from support.volumes import ORIENTATION_CODES, a_geometry, a_task, reoriented, smooth_labels


def ball(shape, spacing_kji, center_kji, radius_mm):
    away = [(n - c) * s for n, c, s in zip(np.indices(shape), center_kji, spacing_kji, strict=True)]
    return np.sqrt(sum(a**2 for a in away)) <= radius_mm


@given(
    st.tuples(*[st.integers(6, 16)] * 3), st.tuples(*[st.floats(0.5, 3.0)] * 3), st.integers(0, 10**6), st.booleans()
)
@settings(max_examples=20, deadline=None)
def test_surface_distances_agree_with_monai(shape, spacing_kji, seed, single_image):
    shape = (1, *shape[1:]) if single_image else shape
    geometry = a_geometry(shape, spacing_kji[::-1])
    one, other = (smooth_labels(geometry, 1, seed + n, feature_mm=2.5).voxels == 1 for n in range(2))
    assume(one.any() and other.any())
    axes = 1 if single_image else 0  # MONAI takes single images in two dimensions
    batch = [torch.from_numpy(m.squeeze(0) if single_image else m)[None, None].float() for m in (one, other)]
    expected_hd95 = compute_hausdorff_distance(
        *batch, include_background=True, percentile=95, spacing=spacing_kji[axes:]
    )
    expected_asd = compute_average_surface_distance(
        *batch, include_background=True, symmetric=True, spacing=spacing_kji[axes:]
    )
    hd95, asd = surface_distances_mm(one, other, geometry)
    assert hd95 == pytest.approx(expected_hd95.item(), abs=1e-4)
    assert asd == pytest.approx(expected_asd.item(), abs=1e-4)


def test_concentric_balls_are_as_far_apart_as_their_radii():
    shape, spacing = (41, 61, 61), (1.5, 1.0, 1.0)
    geometry = a_geometry(shape, spacing[::-1])
    small, large = (ball(shape, spacing, (20, 30, 30), radius) for radius in (12.0, 20.0))
    hd95, asd = surface_distances_mm(small, large, geometry)
    assert hd95 == pytest.approx(8.0, abs=0.8)
    assert asd == pytest.approx(8.0, abs=0.4)


def test_overlap_of_shifted_boxes_is_what_counting_gives():
    truth, predicted = np.zeros((2, 10, 10, 10), np.uint8)
    truth[2:6, 2:6, 2:6] = 1
    predicted[4:8, 2:6, 2:6] = 1
    geometry = a_geometry((10, 10, 10), (1.0, 1.0, 2.5))
    (score,) = score_case(Volume(predicted, geometry), Volume(truth, geometry), a_task(labels=1))
    assert score.label == "Label 1"
    assert score.dice == pytest.approx(0.5)
    assert score.iou == pytest.approx(1 / 3)
    assert score.sensitivity == pytest.approx(0.5)
    assert score.specificity == pytest.approx((1000 - 64 - 32) / (1000 - 64))
    assert score.hd95_mm == pytest.approx(5.0)


def test_a_perfect_segmentation_scores_one_and_is_at_distance_zero():
    labels = smooth_labels(a_geometry((12, 20, 20)), 3, seed=1, feature_mm=3)
    for score in score_case(labels, labels, a_task(labels=3)):
        assert (score.dice, score.iou, score.sensitivity, score.specificity) == (1, 1, 1, 1)
        assert (score.hd95_mm, score.asd_mm) == (0, 0)


def test_scores_do_not_depend_on_how_the_scan_is_stored():
    geometry = a_geometry((9, 12, 15), (0.8, 1.3, 2.9))
    one, other = (smooth_labels(geometry, 2, seed, feature_mm=3) for seed in (1, 2))
    expected = score_case(one, other, a_task(labels=2))
    for order, flips in ORIENTATION_CODES[::5]:
        for score, first in zip(
            score_case(reoriented(one, order, flips), reoriented(other, order, flips), a_task(labels=2)),
            expected,
            strict=True,
        ):
            assert score.hd95_mm == pytest.approx(first.hd95_mm)
            assert score.asd_mm == pytest.approx(first.asd_mm)
            assert score.dice == first.dice


def test_nothing_is_said_of_a_label_that_neither_has():
    empty = Volume(np.zeros((3, 4, 5), np.uint8), a_geometry((3, 4, 5)))
    (score,) = score_case(empty, empty, a_task(labels=1))
    assert all(math.isnan(v) for v in (score.dice, score.iou, score.sensitivity, score.hd95_mm, score.asd_mm))
    assert score.specificity == 1


def test_a_missed_label_has_dice_zero_and_no_distance():
    geometry = a_geometry((3, 4, 5))
    empty, full = (Volume(np.full((3, 4, 5), value, np.uint8), geometry) for value in (0, 1))
    (missed,) = score_case(empty, full, a_task(labels=1))
    assert (missed.dice, missed.iou, missed.sensitivity) == (0, 0, 0)
    assert math.isnan(missed.specificity)
    assert math.isnan(missed.hd95_mm)
    (invented,) = score_case(full, empty, a_task(labels=1))
    assert (invented.dice, invented.iou, invented.specificity) == (0, 0, 0)
    assert math.isnan(invented.sensitivity)
    assert math.isnan(invented.asd_mm)


def test_volumes_that_lie_elsewhere_are_not_compared():
    voxels = np.zeros((3, 4, 5), np.uint8)
    with pytest.raises(GeometryError, match="cannot be compared"):
        score_case(
            Volume(voxels, a_geometry((3, 4, 5))), Volume(voxels, a_geometry((3, 4, 5), origin=(1, 0, 0))), a_task()
        )

"""Slices and what comes back from them, held against ITK's orientation and resampling, which we did not write."""

import numpy as np
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ppcmi.formats.itk_files import image_from_volume
from ppcmi.slicing import restore_probabilities, slice_grid, slice_volume
from ppcmi.task import Window
from ppcmi.volume import Volume
from support.volumes import ORIENTATION_CODES, a_geometry, a_task, reoriented

AXES = {"axial": (2, 1, 0), "coronal": (1, 2, 0), "sagittal": (0, 2, 1)}
"""LPS axes along which slices, rows and columns run."""

FRAME = (64, 96)


@st.composite
def scans(draw):
    """A random image, turned by up to 25 degrees about each axis, stored in any of the 48 orders, anisotropic."""
    shape = draw(st.tuples(*[st.integers(4, 14)] * 3))
    spacing = draw(st.tuples(*[st.floats(0.8, 2.5)] * 3))
    # In millionths of a degree: with a cosine below 1e-308, which no scanner writes, ITK finds everything outside.
    angles = draw(st.tuples(*[st.floats(-25, 25).map(lambda angle: round(angle, 6))] * 3))
    rotation = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    origin = draw(st.tuples(*[st.floats(-300, 300)] * 3))
    voxels = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).random(shape, dtype=np.float32)
    code = draw(st.sampled_from(ORIENTATION_CODES))
    return reoriented(Volume(voxels, a_geometry(shape, spacing, rotation, origin)), *code)


def frames_grid(image, axis, pixel_mm):
    """The task's slices as an ITK image of ones: along the image's own axes, about its center."""
    oriented = SimpleITK.DICOMOrient(image, "LPS")
    through, down, across = AXES[axis]
    size, spacing = [0, 0, 0], [0.0, 0.0, 0.0]
    size[through], spacing[through] = oriented.GetSize()[through], oriented.GetSpacing()[through]
    size[down], spacing[down] = FRAME[0], pixel_mm[0]
    size[across], spacing[across] = FRAME[1], pixel_mm[1]
    center = oriented.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in oriented.GetSize()])
    direction = np.array(oriented.GetDirection()).reshape(3, 3)
    origin = np.array(center) - direction @ ((np.array(size) - 1) / 2 * spacing)
    frames = SimpleITK.Image(size, SimpleITK.sitkFloat32)
    frames.SetOrigin(origin.tolist())
    frames.SetSpacing(spacing)
    frames.SetDirection(oriented.GetDirection())
    return frames


def as_frames(image, axis):
    """ITK's image as ``(slice, row, column)``."""
    return SimpleITK.GetArrayFromImage(image).transpose([2 - lps for lps in AXES[axis]])


def from_frames(values, grid, axis):
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(values.transpose(np.argsort([2 - a for a in AXES[axis]]))))
    image.CopyInformation(grid)
    return image


def resampled(image, grid, outside=0.0):
    return SimpleITK.Resample(image, grid, SimpleITK.Transform(), SimpleITK.sitkLinear, outside)


@given(scans(), st.sampled_from(sorted(AXES)), st.floats(0.3, 0.7), st.floats(0.3, 0.7))
@settings(max_examples=40, deadline=None)
def test_slices_of_finer_pixels_are_what_itk_resamples(scan, axis, row_mm, column_mm):
    task = a_task(axis=axis, size=FRAME, spacing_mm=(row_mm, column_mm), intensity=Window(0.0, 1.0))
    slices, _ = slice_volume(scan, task)
    image = image_from_volume(scan)
    grid = frames_grid(image, axis, (row_mm, column_mm))
    expected = as_frames(resampled(image, grid, outside=-1.0), axis)
    inside = expected >= 0
    assert slices.shape == (expected.shape[0], 1, *FRAME)
    assert inside.any()
    np.testing.assert_allclose(slices[:, 0][inside], expected[inside], atol=2e-4)


@given(scans(), st.sampled_from(sorted(AXES)), st.floats(2.6, 4.0), st.floats(2.6, 4.0), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_probabilities_come_back_to_the_voxels_where_itk_puts_them(scan, axis, row_mm, column_mm, seed):
    task = a_task(axis=axis, size=FRAME, spacing_mm=(row_mm, column_mm))
    grid = slice_grid(scan.geometry, task.slicing)
    scores = np.random.default_rng(seed).random((len(grid), 3, *FRAME), dtype=np.float32)
    probabilities = scores / scores.sum(axis=1, keepdims=True)
    restored = restore_probabilities(probabilities, grid)
    image = image_from_volume(scan)
    frames = frames_grid(image, axis, (row_mm, column_mm))
    for label in range(3):
        expected = resampled(from_frames(probabilities[:, label], frames, axis), image)
        np.testing.assert_allclose(restored[label], SimpleITK.GetArrayFromImage(expected), atol=2e-4)

"""Confidence is the probability of what was chosen; volumes are voxels times their size."""

import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st

from ppcmi.confidence import ENDING, confidence_of, found_nothing, volumes_ml, write_confidence
from ppcmi.errors import WriteError
from ppcmi.pipeline import run, segment
from ppcmi.slicing import restore_labels, restore_probabilities, slice_grid
from ppcmi.volume import Geometry, Volume
from support.private_link import HalvingServer, link_to, small_task, untrained_codec
from support.volumes import a_geometry, a_task, geometries


@settings(max_examples=40, deadline=None)
@given(geometry=geometries(high=12), seed=st.integers(0, 99))
def test_confidence_is_the_probability_of_the_label_at_every_voxel(geometry, seed):
    task = a_task(size=(32, 32), spacing_mm=(1.0, 1.0))
    grid = slice_grid(geometry, task.slicing)
    logits = np.random.default_rng(seed).standard_normal((len(grid), 3, 32, 32)) * 3
    probabilities = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)
    labels = restore_labels(probabilities, grid).voxels
    restored = restore_probabilities(probabilities, grid)
    confidence = confidence_of(restored)
    chosen = np.take_along_axis(restored, labels[None].astype(int), axis=0)[0]
    np.testing.assert_allclose(confidence, chosen.clip(0, 1), atol=1e-6)
    assert confidence.dtype == np.float32
    assert confidence.min() >= 1 / 3 - 1e-5
    assert (confidence[~grid.to_voxels(np.broadcast_to(grid.covered, (len(grid), *grid.covered.shape)))] == 1).all()


def test_a_segmentation_has_a_confidence_on_its_own_grid(tmp_path):
    geometry = a_geometry((4, 20, 30), spacing_ijk=(0.5, 0.7, 2.0), origin=(5, -7, 11))
    volume = Volume(np.random.default_rng(1).random(geometry.shape), geometry)
    result = run(segment(volume, link_to(HalvingServer(), untrained_codec()), with_probabilities=True))
    confidence = confidence_of(result.probabilities)
    assert confidence.shape == geometry.shape
    path = tmp_path / f"scan{ENDING}"
    write_confidence(confidence, geometry, path)
    again = nibabel.load(path)
    np.testing.assert_array_equal(np.asarray(again.dataobj).T, confidence)
    np.testing.assert_allclose(again.affine, geometry.ijk_to_ras, atol=1e-5)
    image = SimpleITK.ReadImage(str(path))
    assert image.GetPixelID() == SimpleITK.sitkFloat32
    first = path.read_bytes()
    write_confidence(confidence, geometry, path)
    assert path.read_bytes() == first
    with pytest.raises(WriteError):
        write_confidence(confidence, geometry, tmp_path / "absent" / "x.nii.gz")


def test_volumes_are_voxels_times_their_size():
    voxels = np.zeros((3, 4, 5), np.uint8)
    voxels[0, :2], voxels[1, 0, 0] = 1, 3
    affine = np.diag([2.0, 3.0, 4.0, 1.0])[[1, 0, 2, 3]]  # axes swapped, 24 mm^3 a voxel
    found = volumes_ml(Volume(voxels, Geometry(voxels.shape, affine)), small_task())
    assert found == {"Organ": 0.24, "Vessel": 0.0, "Lesion": 0.024}


def test_a_structure_of_one_tiny_voxel_is_found():
    voxels = np.zeros((3, 4, 5), np.uint8)
    volume = Volume(voxels, Geometry(voxels.shape, np.diag([1e-3, 1e-3, 1e-3, 1.0])))  # as of a microscope
    assert found_nothing(volumes_ml(volume, small_task()))
    voxels[1, 0, 0] = 3
    assert volumes_ml(volume, small_task()) == {"Organ": 0.0, "Vessel": 0.0, "Lesion": 1e-12}
    assert not found_nothing(volumes_ml(volume, small_task()))


def test_of_no_structures_nobody_knows_whether_they_were_found():
    assert not found_nothing({})

"""Reading of files that other libraries wrote."""

import numpy as np
import pytest
import SimpleITK
from PIL import Image
from scipy.spatial.transform import Rotation

from ppcmi.errors import ReadError
from ppcmi.formats.itk_files import image_from_volume
from ppcmi.reading import read_labels, read_volume
from ppcmi.sources import image_stem
from ppcmi.volume import Volume
from support.volumes import a_geometry

OBLIQUE = Rotation.from_euler("xyz", (12, -7, 25), degrees=True).as_matrix()


def a_volume(dtype=np.int16):
    geometry = a_geometry((5, 6, 7), (0.7, 0.9, 2.5), OBLIQUE, (-90.5, -120.25, 33.125))
    return Volume(np.arange(5 * 6 * 7).reshape(geometry.shape).astype(dtype), geometry)


def save(path, volume):
    SimpleITK.WriteImage(image_from_volume(volume), str(path))
    return path


def check_same(found, expected):
    np.testing.assert_array_equal(found.voxels, expected.voxels)
    np.testing.assert_allclose(found.geometry.ijk_to_ras, expected.geometry.ijk_to_ras, atol=5e-5)


@pytest.mark.parametrize("ending", [".nrrd", ".nhdr", ".mha", ".mhd", ".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_every_format_keeps_values_type_and_place(tmp_path, ending, dtype):
    volume = a_volume(dtype)
    found = read_volume(save(tmp_path / f"x{ending}", volume))
    check_same(found, volume)
    assert found.voxels.dtype == dtype


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_a_flat_image_is_a_volume_of_one_slice(tmp_path, ending):
    image = SimpleITK.GetImageFromArray(np.arange(30, dtype=np.uint8).reshape(5, 6))
    image.SetSpacing((0.2, 0.3))
    image.SetOrigin((4.0, 5.0))
    SimpleITK.WriteImage(image, str(tmp_path / f"x{ending}"))
    found = read_volume(tmp_path / f"x{ending}")
    assert found.voxels.shape == (1, 5, 6)
    np.testing.assert_allclose(found.geometry.spacing_mm, (0.2, 0.3, 1.0))
    np.testing.assert_allclose(found.geometry.ijk_to_ras[:3, 3], (-4, -5, 0))


def test_color_complex_and_endless_values_are_refused(tmp_path):
    color = SimpleITK.GetImageFromArray(np.zeros((4, 5, 6, 3), np.uint8), isVector=True)
    SimpleITK.WriteImage(color, str(tmp_path / "color.nrrd"))
    waves = SimpleITK.GetImageFromArray(np.zeros((4, 5, 6), np.complex64))
    SimpleITK.WriteImage(waves, str(tmp_path / "complex.nii"))
    for name in ("color.nrrd", "complex.nii"):
        with pytest.raises(ReadError, match="several values a voxel"):
            read_volume(tmp_path / name)
    for value in (np.nan, np.inf):
        volume = a_volume(np.float32)
        volume.voxels[2, 3, 4] = value
        with pytest.raises(ReadError, match="NaN or infinite"):
            read_volume(save(tmp_path / "x.nrrd", volume))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha", ".png", ".tif", ".dcm", ""])
@pytest.mark.parametrize("content", [b"", b"not an image\n" * 100, bytes(1000)])
def test_what_is_no_image_is_one_sentence_without_a_path(tmp_path, ending, content):
    path = tmp_path / f"Jane{ending}"
    path.write_bytes(content)
    for read in (read_volume, read_labels):
        with pytest.raises(ReadError, match=r"^[A-Z][^\n]*\.$") as caught:
            read(path)
        assert "Jane" not in str(caught.value)
        assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha", ".png", ".tif"])
@pytest.mark.parametrize("part", [0.2, 0.6, 0.95])
def test_a_cut_off_file_is_one_sentence(tmp_path, ending, part):
    noise = np.random.default_rng(0).integers(0, 255, (1 if ending in (".png", ".tif") else 20, 40, 40), dtype=np.uint8)
    path = tmp_path / f"Jane{ending}"
    if ending in (".png", ".tif"):
        Image.fromarray(noise[0]).save(path, dpi=(254, 254))
    else:
        save(path, Volume(noise, a_geometry(noise.shape)))
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(ReadError, match=r"^[A-Z][^\n]*\.$") as caught:
        read_volume(path)
    assert "Jane" not in str(caught.value)


def test_a_place_without_a_file_is_one_sentence(tmp_path):
    for read in (read_volume, read_labels):
        with pytest.raises(ReadError, match="no image at the place given"):
            read(tmp_path / "missing.nii")
    with pytest.raises(ReadError, match="folder has no DICOM images"):
        read_volume(tmp_path)
    with pytest.raises(ReadError, match="a folder was given"):
        read_labels(tmp_path)


def test_labels_are_whole_numbers_of_the_smallest_type(tmp_path):
    volume = a_volume(np.float32)
    assert read_labels(save(tmp_path / "small.nii", volume)).voxels.dtype == np.uint8
    many = Volume(volume.voxels + 300, volume.geometry)
    found = read_labels(save(tmp_path / "many.nrrd", many))
    assert found.voxels.dtype == np.uint16
    np.testing.assert_array_equal(found.voxels, many.voxels)


@pytest.mark.parametrize(
    ("value", "sentence"), [(-1, "whole numbers from 0"), (0.5, "whole numbers from 0"), (70000, "above 65535")]
)
def test_values_that_are_no_labels_are_refused(tmp_path, value, sentence):
    volume = a_volume(np.float32)
    volume.voxels[0, 0, 0] = value
    with pytest.raises(ReadError, match=sentence):
        read_labels(save(tmp_path / "x.nrrd", volume))


def test_of_a_slicer_segmentation_only_its_segments_count(tmp_path):
    volume = Volume(np.indices((5, 6, 7)).sum(axis=0).astype(np.uint8) % 4, a_volume().geometry)
    image = image_from_volume(volume)
    image.SetMetaData("Segment0_LabelValue", "1")
    image.SetMetaData("Segment1_LabelValue", "3")
    SimpleITK.WriteImage(image, str(tmp_path / "x.seg.nrrd"))
    expected = np.where(volume.voxels == 2, 0, volume.voxels)
    np.testing.assert_array_equal(read_labels(tmp_path / "x.seg.nrrd").voxels, expected)
    image.SetMetaData("Segment1_LabelValue", "three")
    SimpleITK.WriteImage(image, str(tmp_path / "x.seg.nrrd"))
    with pytest.raises(ReadError, match="label value in it is not a number"):
        read_labels(tmp_path / "x.seg.nrrd")


def test_overlapping_segments_are_refused(tmp_path):
    layers = SimpleITK.GetImageFromArray(np.zeros((4, 5, 6, 2), np.uint8), isVector=True)
    SimpleITK.WriteImage(layers, str(tmp_path / "x.seg.nrrd"))
    with pytest.raises(ReadError, match="several layers as its segments overlap"):
        read_labels(tmp_path / "x.seg.nrrd")


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a.nii.gz", "a"),
        ("a.b.NII.GZ", "a.b"),
        ("a.seg.nrrd", "a"),
        ("a.nrrd", "a"),
        ("a.txt", "a.txt"),
        (".nii", ".nii"),
    ],
)
def test_a_name_without_its_ending(tmp_path, name, stem):
    assert image_stem(tmp_path / name) == stem

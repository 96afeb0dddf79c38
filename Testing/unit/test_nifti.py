"""NIfTI files as other programs write them, held against nibabel and ITK, which we did not write."""

import contextlib
import gzip

import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ppcmi.errors import GeometryError, PpcmiError, ReadError
from ppcmi.formats.nifti import read_nifti
from ppcmi.volume import Volume, lps_from_ras
from support.volumes import ORIENTATION_CODES, a_geometry, geometries, reoriented

OBLIQUE = Rotation.from_euler("xyz", (12, -7, 25), degrees=True).as_matrix()


def a_volume(dtype=np.int16):
    geometry = a_geometry((5, 6, 7), (0.7, 0.9, 2.5), OBLIQUE, (-90.5, -120.25, 33.125))
    return Volume(np.arange(5 * 6 * 7).reshape(geometry.shape).astype(dtype), geometry)


def save(path, volume, *, qform=1, sform=1, kind=nibabel.Nifti1Image, **fields):
    """By nibabel; ``fields`` of the header are written as they are given."""
    image = kind(volume.voxels.T, volume.geometry.ijk_to_ras)
    image.set_qform(volume.geometry.ijk_to_ras if qform else None, qform)
    image.set_sform(volume.geometry.ijk_to_ras if sform else None, sform)
    nibabel.save(image, path)
    if fields:
        content = bytearray(path.read_bytes())
        size = image.header.sizeof_hdr
        header = type(image.header)(bytes(content[:size]), check=False)
        for name, value in fields.items():
            header[name] = value
        content[:size] = header.binaryblock
        path.write_bytes(content)
    return path


def check_same(found, expected):
    np.testing.assert_array_equal(found.voxels, expected.voxels)
    np.testing.assert_allclose(found.geometry.ijk_to_ras, expected.geometry.ijk_to_ras, atol=5e-5)


@pytest.mark.parametrize(("qform", "sform"), [(1, 1), (0, 1), (1, 0), (2, 4)])
@pytest.mark.parametrize("code", [0, 7, 21, 47])
def test_a_volume_lies_where_nibabel_and_itk_say(tmp_path, qform, sform, code):
    volume = reoriented(a_volume(), *ORIENTATION_CODES[code])
    path = save(tmp_path / "x.nii", volume, qform=qform, sform=sform)
    found = read_nifti(path)
    check_same(found, volume)
    np.testing.assert_allclose(found.geometry.ijk_to_ras, nibabel.load(path).affine, atol=1e-3)
    itk = SimpleITK.ReadImage(str(path))
    corner = tuple(size - 1 for size in itk.GetSize())
    expected = lps_from_ras[:3, :3] @ np.array(itk.TransformIndexToPhysicalPoint(corner))
    np.testing.assert_allclose((found.geometry.ijk_to_ras @ (*corner, 1))[:3], expected, atol=1e-3)


@given(geometries(), st.booleans(), st.booleans())
@settings(max_examples=40, deadline=None)
def test_any_grid_comes_back_from_either_form_and_either_version(tmp_path_factory, geometry, by_qform, second):
    volume = Volume(np.arange(np.prod(geometry.shape), dtype=np.int32).reshape(geometry.shape), geometry)
    kind = nibabel.Nifti2Image if second else nibabel.Nifti1Image
    path = save(tmp_path_factory.mktemp("x") / "x.nii", volume, qform=int(by_qform), sform=int(not by_qform), kind=kind)
    found = read_nifti(path)
    np.testing.assert_array_equal(found.voxels, volume.voxels)
    np.testing.assert_allclose(found.geometry.ijk_to_ras, geometry.ijk_to_ras, atol=0.05)
    assert found.geometry.matches(geometry, 0.5 * float(geometry.spacing_mm.min()))


def test_sheared_axes_are_kept(tmp_path):
    matrix = np.diag([1.0, 1.0, 3.0, 1.0])
    matrix[1, 2] = 0.9  # a tilted gantry
    volume = Volume(a_volume().voxels, type(a_volume().geometry)((5, 6, 7), matrix))
    check_same(read_nifti(save(tmp_path / "x.nii", volume, qform=0)), volume)


@pytest.mark.parametrize("sform_code", [1, 2, 4])
def test_a_file_whose_two_forms_differ_is_refused_as_programs_show_it_in_two_places(tmp_path, sform_code):
    volume = a_volume()
    image = nibabel.Nifti1Image(volume.voxels.T, volume.geometry.ijk_to_ras)
    image.set_sform(volume.geometry.ijk_to_ras, sform_code)
    image.set_qform(np.diag([0.7, 0.9, 2.5, 1.0]), 1)
    nibabel.save(image, tmp_path / "x.nii")
    with pytest.raises(GeometryError, match="sform and its qform differ"):
        read_nifti(tmp_path / "x.nii")


@pytest.mark.parametrize(("shift", "accepted"), [(0.3, True), (0.4, False)])
def test_rounding_below_half_a_voxel_is_no_difference_and_the_sform_counts(tmp_path, shift, accepted):
    volume = a_volume()  # its smallest spacing is 0.7 mm
    path = save(tmp_path / "x.nii", volume, qoffset_x=volume.geometry.ijk_to_ras[0, 3] + shift)
    if accepted:
        check_same(read_nifti(path), volume)
    else:
        with pytest.raises(GeometryError, match="two things"):
            read_nifti(path)


def test_a_file_whose_sform_and_voxel_sizes_differ_is_refused(tmp_path):
    path = save(tmp_path / "x.nii", a_volume(), qform=0, pixdim=(1, 3, 3, 3, 1, 1, 1, 1))
    with pytest.raises(GeometryError, match="sform and its pixdim differ"):
        read_nifti(path)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"qform_code": 0, "sform_code": 0}, "left and right would be a guess"),
        ({"xyzt_units": 1}, "not in millimetres"),
        ({"xyzt_units": 3 + 8}, "not in millimetres"),
        ({"pixdim": (1, 0.7, -0.9, 2.5, 1, 1, 1, 1)}, "no size"),
        ({"pixdim": (1, 0.7, 0.0, 2.5, 1, 1, 1, 1)}, "no size"),
        ({"pixdim": (1, 0.7, np.nan, 2.5, 1, 1, 1, 1)}, "no size"),
        ({"srow_x": (0, 0, 0, 0)}, "two things|not independent"),
        ({"srow_y": (0, np.inf, 0, 0)}, "not a finite affine"),
        ({"quatern_b": 0.9, "quatern_c": 0.9}, "not a rotation"),
        ({"pixdim": (0.5, 0.7, 0.9, 2.5, 1, 1, 1, 1)}, "qform.* is damaged"),
        ({"sform_code": 77}, "damaged"),
        ({"bitpix": 32}, "two sizes"),
        ({"datatype": 128, "bitpix": 24}, "several values"),
        ({"datatype": 32, "bitpix": 64}, "several values"),
        ({"datatype": 1536, "bitpix": 128}, "type that is not read"),
        ({"datatype": 1, "bitpix": 1}, "type that is not read"),
        ({"datatype": 9999}, "type that is not read"),
        ({"dim": (0, 7, 6, 5, 1, 1, 1, 1)}, "damaged"),
        ({"dim": (8, 7, 6, 5, 1, 1, 1, 1)}, "damaged"),
        ({"dim": (1, 210, 1, 1, 1, 1, 1, 1)}, "no voxels"),
        ({"dim": (3, 7, -6, 5, 1, 1, 1, 1)}, "no voxels"),
        ({"dim": (3, 7, 6, 0, 1, 1, 1, 1)}, "no voxels"),
        ({"dim": (3, 7, 6, 6, 1, 1, 1, 1)}, "cut off|two things"),
        ({"dim": (3, 32767, 32767, 32767, 1, 1, 1, 1)}, "two things|far more voxels"),
        ({"dim": (4, 7, 6, 1, 5, 1, 1, 1)}, "time axis"),
        ({"dim": (5, 7, 6, 1, 1, 5, 1, 1)}, "time axis"),
        ({"vox_offset": 100}, "damaged"),
        ({"vox_offset": -352}, "damaged"),
        ({"vox_offset": np.nan}, "damaged"),
        ({"vox_offset": 1e30}, "damaged"),
        ({"scl_slope": np.inf}, "scale"),
        ({"magic": b"ni1"}, "damaged"),
        ({"magic": b""}, "ANALYZE"),
    ],
)
def test_a_header_that_does_not_make_sense_is_refused_in_one_sentence(tmp_path, fields, sentence):
    path = save(tmp_path / "Jane.nii", a_volume(), **fields)
    with pytest.raises(PpcmiError, match=sentence) as caught:
        read_nifti(path)
    assert str(caught.value).endswith(".")
    assert "Jane" not in str(caught.value)


def test_millimetres_and_unknown_units_are_millimetres(tmp_path):
    for units in (0, 2, 2 + 8):
        check_same(read_nifti(save(tmp_path / "x.nii", a_volume(), xyzt_units=units)), a_volume())


def test_a_left_handed_grid_comes_from_qfac_and_zero_counts_as_one(tmp_path):
    volume = reoriented(a_volume(), *ORIENTATION_CODES[1])
    assert np.linalg.det(volume.geometry.ijk_to_ras) < 0
    check_same(read_nifti(save(tmp_path / "x.nii", volume, sform=0)), volume)
    right = save(tmp_path / "y.nii", a_volume(), sform=0, pixdim=(0, 0.7, 0.9, 2.5, 0, 0, 0, 0))
    check_same(read_nifti(right), a_volume())


def test_a_fourth_axis_of_one_volume_is_dropped_and_a_time_axis_is_refused(tmp_path):
    volume = a_volume()
    array, affine = volume.voxels.T, volume.geometry.ijk_to_ras
    nibabel.save(nibabel.Nifti1Image(array[..., None], affine), tmp_path / "one.nii")
    check_same(read_nifti(tmp_path / "one.nii"), volume)
    nibabel.save(nibabel.Nifti1Image(np.stack([array] * 2, axis=-1), affine), tmp_path / "two.nii")
    with pytest.raises(ReadError, match="time axis; save the one volume"):
        read_nifti(tmp_path / "two.nii")


def test_a_flat_image_is_one_slice(tmp_path):
    nibabel.save(nibabel.Nifti1Image(a_volume().voxels.T[:, :, 0], np.diag([0.7, 0.9, 1, 1])), tmp_path / "x.nii")
    found = read_nifti(tmp_path / "x.nii")
    np.testing.assert_array_equal(found.voxels, a_volume().voxels[:1])
    np.testing.assert_allclose(found.geometry.spacing_mm, (0.7, 0.9, 1.0), rtol=1e-6)


@pytest.mark.parametrize(("slope", "inter"), [(0.5, -3), (2, 0), (1, -1024), (1, 0)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64])
def test_scaled_voxels_have_their_real_values(tmp_path, slope, inter, dtype):
    image = nibabel.Nifti1Image(a_volume(dtype).voxels.T, a_volume().geometry.ijk_to_ras)
    image.header.set_slope_inter(slope, inter)
    nibabel.save(image, tmp_path / "x.nii")
    expected = np.asarray(nibabel.load(tmp_path / "x.nii").dataobj).T
    np.testing.assert_allclose(read_nifti(tmp_path / "x.nii").voxels, expected, rtol=1e-6)


def test_stored_integers_keep_their_type(tmp_path):
    for dtype in (np.uint8, np.int16, np.uint16, np.int32, np.float32):
        found = read_nifti(save(tmp_path / "x.nii", a_volume(dtype)))
        assert found.voxels.dtype == dtype
        assert found.voxels.flags.c_contiguous


@pytest.mark.parametrize("kind", [nibabel.Nifti1Header, nibabel.Nifti2Header])
@pytest.mark.parametrize("zipped", [False, True])
def test_the_other_byte_order_gives_the_same(tmp_path, kind, zipped):
    volume = a_volume(np.dtype(">i2"))
    header = kind(endianness=">")
    header.set_data_dtype(">i2")
    image = (nibabel.Nifti1Image if kind is nibabel.Nifti1Header else nibabel.Nifti2Image)(
        volume.voxels.T, volume.geometry.ijk_to_ras, header
    )
    path = tmp_path / ("x.nii.gz" if zipped else "x.nii")
    nibabel.save(image, path)
    assert (gzip.decompress(path.read_bytes()) if zipped else path.read_bytes())[:2] == b"\0\0"
    found = read_nifti(path)
    check_same(found, volume)
    assert found.voxels.dtype.isnative


def test_a_pair_of_header_and_voxels_is_one_image(tmp_path):
    volume = a_volume()
    image = nibabel.Nifti1Pair(volume.voxels.T, volume.geometry.ijk_to_ras)
    nibabel.save(image, tmp_path / "x.img")
    check_same(read_nifti(tmp_path / "x.hdr"), volume)
    check_same(read_nifti(tmp_path / "x.img"), volume)
    (tmp_path / "x.img").unlink()
    with pytest.raises(ReadError, match="Half of the image is missing"):
        read_nifti(tmp_path / "x.hdr")


def test_an_analyze_pair_does_not_say_which_side_is_left(tmp_path):
    nibabel.save(nibabel.AnalyzeImage(a_volume().voxels.T, None), tmp_path / "x.img")
    with pytest.raises(GeometryError, match="ANALYZE"):
        read_nifti(tmp_path / "x.hdr")


def test_a_file_zipped_in_parts_is_whole(tmp_path):
    volume = a_volume()
    whole = save(tmp_path / "x.nii", volume).read_bytes()
    (tmp_path / "x.nii.gz").write_bytes(gzip.compress(whole[:400]) + gzip.compress(whole[400:]))
    check_same(read_nifti(tmp_path / "x.nii.gz"), volume)
    (tmp_path / "x.nii.gz").write_bytes(gzip.compress(whole[:400]) + gzip.compress(whole[400:-1]))
    with pytest.raises(ReadError, match="ends before its voxels do"):
        read_nifti(tmp_path / "x.nii.gz")


@given(st.integers(0, 351), st.binary(min_size=1, max_size=8))
@settings(max_examples=300, deadline=None)
def test_a_header_with_any_bytes_changed_is_read_or_refused_but_never_a_crash(tmp_path_factory, place, change):
    folder = tmp_path_factory.getbasetemp() / "changed"
    folder.mkdir(exist_ok=True)
    content = bytearray(save(folder / "x.nii", a_volume()).read_bytes())
    content[place : place + len(change)] = change
    (folder / "x.nii").write_bytes(content)
    with contextlib.suppress(PpcmiError):
        assert read_nifti(folder / "x.nii").voxels.size <= 210

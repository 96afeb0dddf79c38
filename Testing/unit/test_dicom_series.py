import numpy as np
import pydicom
import pytest
from pydicom.uid import BasicTextSRStorage, SegmentationStorage
from scipy.spatial.transform import Rotation

from ppcmi.errors import GeometryError, ReadError
from ppcmi.reading import read_labels, read_volume
from ppcmi.sources import find_images
from ppcmi.volume import Volume
from support.dicom import write_multi_frame, write_series
from support.volumes import ORIENTATION_CODES, a_geometry, reoriented

OBLIQUE = Rotation.from_euler("xyz", (12, -7, 25), degrees=True).as_matrix()


def a_scan(dtype=np.int16, slices=6):
    """Stored values that differ from voxel to voxel, on an oblique grid."""
    geometry = a_geometry((slices, 5, 7), (0.7, 0.9, 2.5), OBLIQUE, (-90.5, -120.25, 33.125))
    low = -1000 if dtype == np.int16 else 0
    return Volume((np.arange(slices * 35).reshape(geometry.shape) + low).astype(dtype), geometry)


def check_same(found, expected):
    np.testing.assert_array_equal(found.voxels, expected.voxels)
    np.testing.assert_allclose(found.geometry.ijk_to_ras, expected.geometry.ijk_to_ras, atol=1e-4)


def test_slices_are_stacked_by_their_places_whatever_the_files_are_called(tmp_path):
    scan = a_scan()
    names = [f"{name}.dcm" for name in np.random.default_rng(0).permutation(6)]
    write_series(scan, tmp_path, names=names, InstanceNumber=None)
    check_same(read_volume(tmp_path), scan)


@pytest.mark.parametrize("code", range(0, 48, 5))
def test_any_orientation_is_kept(tmp_path, code):
    scan = reoriented(a_scan(), *ORIENTATION_CODES[code])
    write_series(scan, tmp_path)
    found = read_volume(tmp_path)
    down = np.cross(*scan.geometry.ijk_to_ras[:3, :2].T) @ scan.geometry.ijk_to_ras[:3, 2] < 0
    check_same(found, reoriented(scan, (0, 1, 2), (True, False, False)) if down else scan)


@pytest.mark.parametrize(("dtype", "low"), [(np.int16, -1000), (np.uint16, 0)])
def test_slope_and_intercept_make_stored_values_real_ones(tmp_path, dtype, low):
    scan = a_scan(dtype)
    write_series(scan, tmp_path / "hu", RescaleSlope="2", RescaleIntercept="-1024")
    write_series(scan, tmp_path / "pet", RescaleSlope="0.25", RescaleIntercept="0.5")
    assert scan.voxels.min() == low
    np.testing.assert_array_equal(read_volume(tmp_path / "hu").voxels, scan.voxels.astype(int) * 2 - 1024)
    np.testing.assert_allclose(read_volume(tmp_path / "pet").voxels, scan.voxels * 0.25 + 0.5)


def test_slices_with_scales_of_their_own_are_not_truncated(tmp_path):
    scan = a_scan(np.uint16)
    slopes = (1, 0.5, 0.25, 2, 3, 0.1)
    for path, slope in zip(write_series(scan, tmp_path, RescaleIntercept="0"), slopes, strict=True):
        header = pydicom.dcmread(path)
        header.RescaleSlope = str(slope)
        header.save_as(path)
    np.testing.assert_allclose(read_volume(tmp_path).voxels, scan.voxels * np.reshape(slopes, (6, 1, 1)), rtol=1e-6)


def test_files_need_no_ending_and_other_files_do_not_matter(tmp_path):
    scan = a_scan()
    write_series(scan, tmp_path, names=[f"IM{index}" for index in range(6)])
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "empty").touch()
    check_same(read_volume(tmp_path), scan)
    assert find_images(tmp_path) == [tmp_path]


def test_a_single_file_is_a_volume_of_one_slice(tmp_path):
    scan = a_scan(slices=1)
    (path,) = write_series(scan, tmp_path, names=["IM0"])
    for place in (path, tmp_path):
        found = read_volume(place)
        np.testing.assert_array_equal(found.voxels, scan.voxels)
        np.testing.assert_allclose(
            found.geometry.ijk_to_ras[:, [0, 1, 3]], scan.geometry.ijk_to_ras[:, [0, 1, 3]], atol=1e-4
        )


def test_two_series_in_a_folder_are_not_guessed_between(tmp_path):
    for number in range(2):
        write_series(a_scan(), tmp_path, names=[f"{number}-{index}" for index in range(6)])
    with pytest.raises(ReadError, match="2 DICOM series; put the one"):
        read_volume(tmp_path)


def test_a_missing_slice_is_noticed(tmp_path):
    write_series(a_scan(), tmp_path)[2].unlink()
    with pytest.raises(GeometryError, match="slices missing after slice 2; send or export it again"):
        read_volume(tmp_path)


def test_positions_that_a_scanner_rounded_are_even(tmp_path):
    for path in write_series(a_scan(), tmp_path):
        header = pydicom.dcmread(path)
        header.ImagePositionPatient = [round(float(x), 2) for x in header.ImagePositionPatient]
        header.save_as(path)
    assert read_volume(tmp_path).voxels.shape == (6, 5, 7)


def test_phases_at_one_place_are_not_stacked(tmp_path):
    for phase in range(2):
        write_series(a_scan(), tmp_path, names=[f"{phase}-{index}" for index in range(6)], series="1.2.3")
    with pytest.raises(ReadError, match="several images at one place"):
        read_volume(tmp_path)


def test_images_that_do_not_say_where_they_lie_are_not_stacked(tmp_path):
    write_series(a_scan(), tmp_path, ImagePositionPatient=None)
    with pytest.raises(ReadError, match="do not say where they lie"):
        read_volume(tmp_path)


def test_images_of_different_size_are_no_series(tmp_path):
    write_series(a_scan(), tmp_path, series="1.2.3")
    larger = a_geometry((1, 9, 9), (0.7, 0.9, 2.5), OBLIQUE, tuple((a_scan().geometry.ijk_to_ras @ (0, 0, 6, 1))[:3]))
    write_series(Volume(np.zeros(larger.shape, np.int16), larger), tmp_path, names=["other"], series="1.2.3")
    with pytest.raises(ReadError, match="differ in size"):
        read_volume(tmp_path)


def test_a_damaged_position_is_one_sentence(tmp_path):
    path = write_series(a_scan(), tmp_path)[0]
    content = path.read_bytes()
    position = str(pydicom.dcmread(path).ImagePositionPatient[0]).encode()
    path.write_bytes(content.replace(position, b"x" * len(position)))
    with pytest.raises(ReadError, match=r"^A DICOM file is damaged .* copy or export it again\.$"):
        read_volume(tmp_path)


@pytest.mark.parametrize("end", [-1, -30, 600, 400, 340, 300])
def test_a_cut_off_file_is_one_sentence_and_no_missing_slice(tmp_path, end):
    path = write_series(a_scan(), tmp_path)[0]
    path.write_bytes(path.read_bytes()[:end])
    for place in (path, tmp_path):
        with pytest.raises(ReadError, match=r"^[A-Z][^\n]*\.$") as caught:
            read_volume(place)
        assert str(tmp_path) not in str(caught.value)


def test_a_segmentation_is_no_image_and_does_not_disturb_one(tmp_path):
    scan = a_scan()
    write_series(scan, tmp_path)
    (seg,) = write_series(a_scan(slices=1), tmp_path, names=["seg.dcm"], SOPClassUID=SegmentationStorage)
    check_same(read_volume(tmp_path), scan)
    for read in (read_volume, read_labels):
        with pytest.raises(ReadError, match="no image but belongs to one"):
            read(seg)


def test_a_folder_of_reports_has_no_images(tmp_path):
    write_series(a_scan(), tmp_path, SOPClassUID=BasicTextSRStorage, Rows=None, PixelData=None)
    with pytest.raises(ReadError, match="no image that can be segmented but Basic Text SR Storage"):
        read_volume(tmp_path)


@pytest.mark.parametrize("order", [range(6), range(5, -1, -1), (3, 0, 5, 1, 4, 2)])
def test_frames_of_one_file_are_a_volume_in_whatever_order_they_are_stored(tmp_path, order):
    scan = a_scan(np.uint16)
    for place in (write_multi_frame(scan, tmp_path / "frames.dcm", order=order), tmp_path):
        check_same(read_volume(place), scan)


def test_frames_have_scales_of_their_own(tmp_path):
    scan = a_scan(np.uint16)
    path = write_multi_frame(scan, tmp_path / "frames.dcm", order=(1, 0, 2, 3, 4, 5), slopes=(1.0, 3.0, 2.0))
    slopes = np.reshape((3, 1, 2, 1, 3, 2), (6, 1, 1))
    np.testing.assert_array_equal(read_volume(path).voxels, scan.voxels * slopes)


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"order": (0, 1, 2, 0, 1, 2)}, ReadError, "several images at one place"),
        ({"order": (0, 1, 2, 4, 5)}, GeometryError, "slices missing after slice 3"),
        ({"PerFrameFunctionalGroupsSequence": None}, ReadError, "film, whose frames do not say where they lie"),
    ],
)
def test_frames_that_are_no_volume_are_refused(tmp_path, changes, error, sentence):
    path = write_multi_frame(a_scan(np.uint16), tmp_path / "frames.dcm", **changes)
    with pytest.raises(error, match=sentence):
        read_volume(path)


def test_each_multi_frame_file_is_an_image_of_its_own(tmp_path):
    for name in ("a", "b"):
        write_multi_frame(a_scan(np.uint16), tmp_path / name, SeriesInstanceUID="1.2.3")
    with pytest.raises(ReadError, match="2 images, such as echoes or phases"):
        read_volume(tmp_path)

"""Reading and writing of the real images beside the repository; skipped where there are none."""

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK

from ppcmi.data_folders import find_cases
from ppcmi.errors import ReadError
from ppcmi.reading import read_labels, read_volume
from ppcmi.volume import lps_from_ras
from ppcmi.writing import write_segmentation
from support.volumes import a_task


@pytest.mark.parametrize(
    ("name", "count", "values"), [("hippocampus_mr", 208, {0, 1, 2}), ("fetal_head_us", 794, {0, 1})]
)
def test_a_data_set_is_read_and_its_labels_come_back_in_place(data_folder, tmp_path, name, count, values):
    cases = find_cases(data_folder(name))
    assert len(cases) == count
    assert all(case.label is not None and case.site in {"A", "B", "C"} for case in cases)
    assert {case.fold for case in cases} == {"train", "val", "test"}
    for case in cases[:: count // 6]:
        image, labels = read_volume(case.image), read_labels(case.label)
        assert image.geometry.matches(labels.geometry)
        assert set(np.unique(labels.voxels)) == values
        for ending in (".seg.nrrd", ".nii.gz"):
            write_segmentation(labels, a_task(labels=max(values)), tmp_path / f"x{ending}", {})
            found = read_labels(tmp_path / f"x{ending}")
            np.testing.assert_array_equal(found.voxels, labels.voxels)
            np.testing.assert_allclose(found.geometry.ijk_to_ras, image.geometry.ijk_to_ras, atol=1e-5)


def test_nifti_lies_where_nibabel_says(data_folder):
    for case in find_cases(data_folder("hippocampus_mr"))[::40]:
        expected = nibabel.load(case.image)
        found = read_volume(case.image)
        np.testing.assert_allclose(found.geometry.ijk_to_ras, expected.affine, atol=1e-5)
        np.testing.assert_allclose(found.voxels, np.asarray(expected.dataobj).T, rtol=1e-6)


def test_every_series_lies_where_its_headers_say(data_folder):
    root = data_folder("dicom_samples")
    folders = [root / "ct_head_small_93slices", *sorted((root / "hippocrop_mr_dicom").iterdir())]
    folders.append(root / "rtstruct_phantom" / "oriented_data")
    for folder in folders:
        found = read_volume(folder)
        ras_to_ijk = np.linalg.inv(found.geometry.ijk_to_ras)
        places = set()
        for path in folder.iterdir():
            if path.suffix != ".dcm":
                continue
            header = pydicom.dcmread(path)
            i, j, k = (ras_to_ijk @ lps_from_ras @ (*map(float, header.ImagePositionPatient), 1))[:3]
            np.testing.assert_allclose((i, j, k), (0, 0, round(k)), atol=0.02)
            values = header.pixel_array * float(header.get("RescaleSlope", 1)) + float(
                header.get("RescaleIntercept", 0)
            )
            np.testing.assert_allclose(found.voxels[round(k)], values, rtol=1e-6, atol=1e-6)
            places.add(round(k))
        assert places == set(range(len(found.voxels)))


def test_one_image_in_nine_encodings_is_one_image(data_folder, tmp_path):
    for path in sorted((data_folder("dicom_samples") / "transfer_syntaxes_mr").glob("*.dcm")):
        header = pydicom.dcmread(path)
        header.ImageType = ["ORIGINAL", "PRIMARY", "M"]  # a mosaic, which is refused
        header.save_as(tmp_path / path.name)
    first, *others = (read_volume(file) for file in sorted(tmp_path.iterdir()))
    assert len(others) == 8
    for other in others:
        np.testing.assert_array_equal(other.voxels, first.voxels)
        assert other.geometry.matches(first.geometry)


@pytest.mark.parametrize(
    ("place", "error", "sentence"),
    [
        ("transfer_syntaxes_mr/1.dcm", ReadError, "mosaics of all slices in one picture"),
        ("enhanced_multiframe_mr/Philips", ReadError, "2 images, such as echoes"),
        ("enhanced_multiframe_mr/Siemens/XA10", ReadError, "4 images, such as echoes"),
        ("ct3slice_with_seg/seg/liver.dcm", ReadError, "no image but belongs to one"),
        ("rtstruct_phantom/rt.dcm", ReadError, "no image but belongs to one"),
    ],
)
def test_what_is_no_straight_volume_is_refused(data_folder, place, error, sentence):
    path = data_folder("dicom_samples") / place
    if not path.exists():
        (path,) = data_folder("dicom_samples").rglob(path.name)
    with pytest.raises(error, match=sentence):
        read_volume(path)


def test_a_multi_frame_file_is_the_series_it_was_made_from(data_folder):
    for folder in (data_folder("dicom_samples") / "tiny_ct_multiframe_seg").iterdir():
        if folder.is_dir():
            series, frames = read_volume(folder / "image"), read_volume(folder / "multiframe")
            np.testing.assert_array_equal(frames.voxels, series.voxels)
            assert frames.geometry.matches(series.geometry)


def test_a_segmentation_of_a_ct_lies_on_it(data_folder):
    folder = data_folder("dicom_samples") / "ct3slice_with_seg"
    image = next(path for path in folder.rglob("*.dcm") if "seg" not in path.parts)
    labels = read_labels(next(folder.rglob("liver_seg.nrrd")))
    assert labels.geometry.matches(read_volume(image.parent).geometry, 1e-2)
    assert SimpleITK.ReadImage(str(next(folder.rglob("liver_seg.nrrd")))).GetSize() == labels.voxels.shape[::-1]

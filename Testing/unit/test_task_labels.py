"""Labels of a case, whatever file they lie in: on the image's grid, with the task's values."""

import shutil
from dataclasses import replace

import numpy as np
import pydicom
import pytest
import SimpleITK

from ppcmi.case_checks import Kind, check_case
from ppcmi.codec.slice_set import read_slice_set
from ppcmi.data_folders import find_cases
from ppcmi.errors import GeometryError, ReadError
from ppcmi.formats.itk_files import image_from_volume
from ppcmi.label_overlap import OverlapError
from ppcmi.sources import only_source
from ppcmi.task_labels import read_labelled_case, read_task_labels
from ppcmi.volume import Volume
from ppcmi.writing import write_segmentation
from support.dicom_labels import write_dicom_segments, write_structures, write_study
from support.volumes import a_geometry, a_task

TASK = a_task(labels=2)
GEOMETRY = a_geometry((5, 20, 24), (1.0, 1.0, 3.0))


def boxes():
    labels = np.zeros(GEOMETRY.shape, np.uint8)
    labels[1:4, 3:9, 4:12] = 1
    labels[1:4, 11:16, 5:20] = 2
    return labels


def write_layers(path, masks, names):
    """A ``.seg.nrrd`` with a layer for each mask, as 3D Slicer writes segments that overlap."""
    layers = image_from_volume(Volume(np.zeros(GEOMETRY.shape, np.uint8), GEOMETRY))
    image = SimpleITK.GetImageFromArray(np.stack(masks, axis=-1).astype(np.uint8), isVector=True)
    image.CopyInformation(layers)
    for index, name in enumerate(names):
        for key, value in {"ID": f"S{index}", "Name": name, "LabelValue": "1", "Layer": str(index)}.items():
            image.SetMetaData(f"Segment{index}_{key}", value)
    SimpleITK.WriteImage(image, str(path))
    return path


@pytest.fixture
def a_dicom_case(tmp_path):
    """A data folder with a series as its image; labels are to come."""
    image = Volume(np.zeros(GEOMETRY.shape, np.int16), GEOMETRY)
    files = write_study(image, tmp_path / "images" / "case", Modality="MR")
    (tmp_path / "labels").mkdir()
    return tmp_path, files


def labels_of(folder):
    (case,) = find_cases(folder)
    image, labels = read_labelled_case(case, TASK)
    assert labels.geometry is image.geometry
    return labels.voxels


def test_a_dicom_segmentation_beside_a_series_is_its_labels(a_dicom_case):
    folder, files = a_dicom_case
    masks = {"Label 2": boxes() == 2, "Label 1": boxes() == 1}  # numbered the other way round than the task
    write_dicom_segments(folder / "labels" / "case.dcm", files, masks)
    np.testing.assert_array_equal(labels_of(folder), boxes())
    assert not [finding for finding in check_case(find_cases(folder)[0], TASK) if finding.prevents]


def test_a_structure_set_beside_a_series_is_its_labels(a_dicom_case):
    folder, _ = a_dicom_case
    contours = {}
    for value, (low, high) in {1: ((3, 4), (9, 12)), 2: ((11, 5), (16, 20))}.items():
        (top, left), (bottom, right) = np.array(low) - 0.4, np.array(high) - 0.6
        corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
        contours[f"label-{value}"] = [np.c_[-corners, np.full(4, 3.0 * k)] for k in (1, 2, 3)]  # LPS
    series = only_source(folder / "images" / "case").dicom.series_uid
    write_structures(folder / "labels" / "case.dcm", contours, series=series)
    np.testing.assert_array_equal(labels_of(folder), boxes())


def test_a_label_map_of_another_grid_is_taken_at_the_nearest_voxel_and_that_is_said(a_dicom_case):
    folder, _ = a_dicom_case
    coarse = a_geometry((5, 10, 12), (2.0, 2.0, 3.0), origin=(0.5, 0.5, 0.0))
    labels = Volume(boxes()[:, ::2, ::2], coarse)
    write_segmentation(labels, TASK, folder / "labels" / "case.nii.gz", {})
    np.testing.assert_array_equal(labels_of(folder), labels.voxels.repeat(2, 1).repeat(2, 2))
    (finding,) = [found for found in check_case(find_cases(folder)[0], TASK) if found.kind is Kind.GEOMETRY]
    assert "nearest voxel" in finding.sentence
    assert not finding.prevents


def test_a_cropped_segmentation_is_where_it_was_and_nothing_is_to_be_said(a_dicom_case):
    folder, _ = a_dicom_case
    cropped = a_geometry((3, 18, 20), (1.0, 1.0, 3.0), origin=(3.0, 1.0, 3.0))
    write_segmentation(Volume(boxes()[1:4, 1:19, 3:23], cropped), TASK, folder / "labels" / "case.seg.nrrd", {})
    np.testing.assert_array_equal(labels_of(folder), boxes())
    assert check_case(find_cases(folder)[0], TASK) == []


@pytest.mark.parametrize(("rows", "said"), [(19, []), (21, ["reaches beyond the image"])])
def test_a_label_map_that_reaches_beyond_the_image_may_be_another_scan_s_and_a_part_of_it_is_not(
    rows, said, a_dicom_case
):
    folder, _ = a_dicom_case
    labels = np.zeros((5, rows, 24), np.uint8)
    labels[:, :19] = boxes()[:, :19]
    geometry = a_geometry(labels.shape, (1.0, 1.0, 3.0))
    write_segmentation(Volume(labels, geometry), TASK, folder / "labels" / "case.nii.gz", {})
    found = check_case(find_cases(folder)[0], TASK)
    assert [finding.kind for finding in found] == [Kind.GEOMETRY] * len(said)
    assert all(words in finding.sentence for words, finding in zip(said, found, strict=True))
    assert not any(finding.prevents for finding in found)


@pytest.mark.parametrize(
    ("name", "content"), [("case.nii.gz", b"no labels"), ("case.seg.nrrd", b"NRRD0004\nno labels")]
)
def test_a_damaged_label_file_is_not_called_the_image(name, content, a_dicom_case):
    folder, _ = a_dicom_case
    (folder / "labels" / name).write_bytes(content)
    (finding,) = check_case(find_cases(folder)[0], TASK)
    assert finding.sentence.startswith("The label file")
    assert finding.prevents


def test_labels_of_another_image_are_a_finding_that_prevents_the_export(a_dicom_case):
    folder, _ = a_dicom_case
    elsewhere = a_geometry(GEOMETRY.shape, (1.0, 1.0, 3.0), origin=(0, 0, 200))
    write_segmentation(Volume(boxes(), elsewhere), TASK, folder / "labels" / "case.nii.gz", {})
    (case,) = find_cases(folder)
    with pytest.raises(GeometryError, match="does not lie on the image's voxels"):
        read_labelled_case(case, TASK)
    (finding,) = check_case(case, TASK)
    assert finding.prevents


def test_layers_that_hardly_overlap_are_one_label_map(tmp_path):
    one, two = boxes() == 1, boxes() == 2
    path = write_layers(tmp_path / "x.seg.nrrd", [two, one], ["Label 2", "Label 1"])
    np.testing.assert_array_equal(read_task_labels(path, TASK, GEOMETRY).voxels, boxes())


def test_layers_that_overlap_much_need_somebody_to_say_which_counts(tmp_path):
    one, two = boxes() == 1, boxes() > 0
    path = write_layers(tmp_path / "x.seg.nrrd", [one, two], ["Label 1", "Label 2"])
    with pytest.raises(OverlapError, match="say which of them"):
        read_task_labels(path, TASK, GEOMETRY)


def test_layers_without_names_have_no_values_of_their_own(tmp_path):
    path = write_layers(tmp_path / "x.seg.nrrd", [boxes() == 1, boxes() == 2], ["", ""])
    with pytest.raises(ReadError, match="no names and no numbers of their own"):
        read_task_labels(path, TASK, GEOMETRY)


def test_a_dicom_image_in_place_of_labels_is_refused(a_dicom_case):
    folder, files = a_dicom_case
    shutil.copy(files[0], folder / "labels" / "case.dcm")
    with pytest.raises(ReadError, match="no segmentation or structure set"):
        labels_of(folder)


def test_a_case_of_another_modality_is_no_case_of_the_task(a_dicom_case):
    folder, files = a_dicom_case
    write_dicom_segments(folder / "labels" / "case.dcm", files, {"Label 1": boxes() == 1, "Label 2": boxes() == 2})
    for file in files:
        dataset = pydicom.dcmread(file)
        dataset.Modality = "CT"
        dataset.save_as(file)
    with pytest.raises(ReadError, match="is of modality CT, the task is for MR"):
        labels_of(folder)
    (unlabelled,) = (replace(case, label=None) for case in find_cases(folder))
    with pytest.raises(ReadError, match="is of modality CT, the task is for MR"):
        read_slice_set([unlabelled], TASK)

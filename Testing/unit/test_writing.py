import gzip
import os
import resource
import signal
import stat
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ppcmi.errors import GeometryError, UsageError, WriteError
from ppcmi.reading import read_labels
from ppcmi.task import Code
from ppcmi.volume import Geometry, Volume
from ppcmi.writing import terminology_entry, write_segmentation
from support.volumes import ORIENTATION_CODES, a_geometry, a_task, geometries, reoriented

ENDINGS = (".seg.nrrd", ".nii.gz")
TASK = a_task(labels=3)


def some_labels(geometry, seed=0):
    return Volume(np.random.default_rng(seed).integers(0, 4, geometry.shape, dtype=np.uint8), geometry)


def written(labels, path, task=TASK):
    write_segmentation(labels, task, path, {"task": task.identity})
    return path


def check_file(path, labels):
    """Every reader finds the labels where they were, to 1e-5 mm or what float32 can say."""
    affine = labels.geometry.ijk_to_ras
    ours = read_labels(path)
    np.testing.assert_array_equal(ours.voxels, labels.voxels)
    np.testing.assert_allclose(ours.geometry.ijk_to_ras, affine, rtol=1e-6, atol=1e-5)
    corner = np.array(labels.geometry.shape[::-1], float) - 1
    image = SimpleITK.ReadImage(str(path))
    there = np.array(image.TransformContinuousIndexToPhysicalPoint(corner.tolist())) * (-1, -1, 1)
    np.testing.assert_allclose(there, affine[:3] @ (*corner, 1), rtol=1e-6, atol=1e-4)
    assert image.GetPixelID() == SimpleITK.sitkUInt8
    if path.name.endswith(".nii.gz"):
        other = nibabel.load(path)
        np.testing.assert_array_equal(np.asarray(other.dataobj).T, labels.voxels)
        np.testing.assert_allclose(other.affine, affine, rtol=1e-6, atol=1e-5)
        np.testing.assert_allclose(
            other.get_qform(coded=True)[0], affine, rtol=1e-5, atol=5e-3
        )  # quaternions of float32


@pytest.mark.parametrize("ending", ENDINGS)
@given(geometries(low=1, high=9, smallest_mm=0.02), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_any_anisotropic_oblique_or_mirrored_grid_comes_back(tmp_path_factory, ending, geometry, seed):
    labels = some_labels(geometry, seed)
    check_file(written(labels, tmp_path_factory.mktemp("out") / f"x{ending}"), labels)


@pytest.mark.parametrize("ending", ENDINGS)
def test_all_48_orientation_codes_come_back(tmp_path, ending):
    scan = some_labels(a_geometry((3, 4, 5), (0.7, 1.3, 4.0), origin=(-110.3, 44.0, 210.7)))
    for order, flips in ORIENTATION_CODES:
        labels = reoriented(scan, order, flips)
        check_file(written(labels, tmp_path / f"x{ending}"), labels)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((3, 4, 5), (1, 2, 3)), ((4, 5, 6), (0.002, 0.003, 0.0005)), ((1, 7, 9), (0.5, 0.5, 1.0)), ((1, 1, 1), (1, 1, 1))],
)
def test_whole_numbers_tiny_pixels_and_single_slices_come_back(tmp_path, ending, shape, spacing):
    matrix = np.diag([*spacing, 1])
    matrix[:3, :3] = matrix[:3, :3] @ np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    labels = some_labels(Geometry(shape, matrix))
    check_file(written(labels, tmp_path / f"x{ending}"), labels)
    affine = read_labels(tmp_path / f"x{ending}").geometry.ijk_to_ras
    np.testing.assert_allclose(affine, matrix, rtol=1e-6, atol=1e-9)


def test_sheared_axes_are_kept_by_both_formats_and_no_reader_is_told_they_are_perpendicular(tmp_path):
    matrix = np.diag([1.0, 1.2, 3.0, 1.0])
    matrix[1, 2] = 0.9  # a tilted gantry
    labels = some_labels(Geometry((3, 4, 5), matrix))
    nrrd = read_labels(written(labels, tmp_path / "x.seg.nrrd"))
    np.testing.assert_allclose(nrrd.geometry.ijk_to_ras, matrix, atol=1e-12)
    nifti = nibabel.load(written(labels, tmp_path / "x.nii.gz"))
    np.testing.assert_allclose(nifti.affine, matrix, atol=1e-6)
    assert nifti.get_qform(coded=True) == (None, 0)
    np.testing.assert_allclose(read_labels(tmp_path / "x.nii.gz").geometry.ijk_to_ras, matrix, atol=1e-6)


def test_nifti_says_scanner_coordinates_in_millimetres_and_no_text(tmp_path):
    path = written(some_labels(a_geometry((3, 4, 5))), tmp_path / "x.nii.gz")
    header = nibabel.load(path).header
    assert header.get_data_dtype() == np.uint8
    assert (int(header["qform_code"]), int(header["sform_code"])) == (1, 1)
    assert header.get_xyzt_units()[0] == "mm"
    texts = ("descrip", "aux_file", "intent_name", "db_name", "data_type")
    assert {bytes(header[text]).strip(b"\0") for text in texts} == {b""}
    with gzip.open(path) as stream:
        nibabel.Nifti1Header.from_fileobj(stream, check=True)


def test_segments_have_names_colors_and_terminology_as_3d_slicer_keeps_them(tmp_path):
    labels = np.zeros((4, 6, 8), np.uint8)
    labels[1:3, 2:5, 3:8] = 1
    labels[2, 3, 4] = 2
    left = Code("SCT", "7771000", "Left")
    task = replace(TASK, labels=(replace(TASK.labels[0], modifier=left, color=(255, 0, 51)), *TASK.labels[1:]))
    path = tmp_path / "x.seg.nrrd"
    write_segmentation(Volume(labels, a_geometry(labels.shape)), task, path, {"task": "test@1", "model": "3"})
    image = SimpleITK.ReadImage(str(path))
    fields = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
    assert fields["NRRD_space"] == "left-posterior-superior"
    assert {key: fields[f"Segment0_{key}"] for key in ("ID", "Name", "LabelValue", "Layer", "Extent", "Color")} == {
        "ID": "Segment_1", "Name": "Label 1", "LabelValue": "1", "Layer": "0", "Extent": "3 7 2 4 1 2",
        "Color": "1 0 0.2",
    }  # fmt: skip
    assert fields["Segment0_ColorAutoGenerated"] == fields["Segment0_NameAutoGenerated"] == "0"
    assert fields["Segment0_Tags"].endswith(
        "|TerminologyEntry:Segmentation category and type - DICOM master list~SCT^260787004^Physical object"
        "~99TEST^T1^Thing 1~SCT^7771000^Left~Anatomic codes - DICOM master list~^^~^^|"
    )
    assert "DICOM.SegmentAlgorithmType:AUTOMATIC|" in fields["Segment0_Tags"]
    assert fields["Segment1_Extent"] == "4 4 3 3 2 2"
    assert fields["Segment2_Extent"] == "0 -1 0 -1 0 -1"  # nothing of it in this volume
    assert "Segment3_ID" not in fields
    assert fields["Segmentation_MasterRepresentation"] == "Binary labelmap"
    assert fields["Segmentation_ContainedRepresentationNames"] == "Binary labelmap|"
    assert fields["Segmentation_ReferenceImageExtentOffset"] == "0 0 0"
    reference = fields["Segmentation_ConversionParameters"].split("|")[1].rstrip(";").split(";")
    assert [float(number) for number in reference] == [*np.eye(4).ravel(), 0, 7, 0, 5, 0, 3]
    assert {key: value for key, value in fields.items() if key.startswith("PPCMI_")} == {
        "PPCMI_model": "3",
        "PPCMI_task": "test@1",
    }


def test_a_text_cannot_break_out_of_its_field(tmp_path):
    label = replace(TASK.labels[0], name="a\\nb|c", type=Code("99TEST", "T^1", "one~two|three&four"))
    path = tmp_path / "x.seg.nrrd"
    provenance = {"note": "first\nSegment0_Name:=second"}
    write_segmentation(some_labels(a_geometry((3, 4, 5))), replace(TASK, labels=(label,) * 3), path, provenance)
    assert "~99TEST^T 1^one two three four~" in terminology_entry(label)
    header = path.read_bytes().split(b"\n\n")[0].decode().splitlines()
    assert [line for line in header if line.startswith("Segment0_Name:")] == ["Segment0_Name:=a\\\\nb|c"]
    assert "PPCMI_note:=first\\nSegment0_Name:=second" in header


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_same_labels_are_the_same_bytes_and_name_neither_place_nor_time(tmp_path, ending):
    labels = some_labels(a_geometry((3, 4, 5)))
    first = written(labels, tmp_path / f"Jane{ending}").read_bytes()
    assert written(labels, tmp_path / f"John{ending}").read_bytes() == first
    assert b"Jane" not in gzip.decompress(first) if ending == ".nii.gz" else b"Jane" not in first


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_older_result_is_replaced_in_one_step(tmp_path, ending):
    older, newer = (some_labels(a_geometry((3, 4, 5)), seed) for seed in (1, 2))
    path = written(older, tmp_path / f"x{ending}")
    inode = path.stat().st_ino
    written(newer, path)
    assert path.stat().st_ino != inode
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    np.testing.assert_array_equal(read_labels(path).voxels, newer.voxels)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_disk_that_fills_up_leaves_the_older_result_and_nothing_else(tmp_path, ending):
    path = written(some_labels(a_geometry((3, 4, 5))), tmp_path / f"x{ending}")
    before = path.read_bytes()
    large = some_labels(a_geometry((64, 64, 64)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(WriteError, match="cannot be written: File too large") as caught:
            written(large, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert str(tmp_path) not in str(caught.value)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_folder_that_is_not_there_or_is_a_file_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in ("missing", "file"):
        with pytest.raises(WriteError, match=r"^A file cannot be written: [^/]*\.$"):
            written(some_labels(a_geometry((3, 4, 5))), tmp_path / folder / "x.nii.gz")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_one_sentence(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(WriteError, match="Permission denied"):
        written(some_labels(a_geometry((3, 4, 5))), tmp_path / "x.nii.gz")


def test_other_endings_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"\.seg\.nrrd or \.nii\.gz"):
        written(some_labels(a_geometry((3, 4, 5))), tmp_path / "x.dcm")
    assert list(tmp_path.iterdir()) == []


def test_a_volume_too_long_for_nifti_is_refused_and_not_for_nrrd(tmp_path):
    labels = Volume(np.zeros((1, 1, 40000), np.uint8), a_geometry((1, 1, 40000)))
    with pytest.raises(GeometryError, match="32767"):
        written(labels, tmp_path / "x.nii.gz")
    check_file(written(labels, tmp_path / "x.seg.nrrd"), labels)


def test_values_beyond_the_task_are_a_mistake_of_the_caller(tmp_path):
    labels = Volume(np.full((2, 2, 2), 4, np.int64), a_geometry((2, 2, 2)))
    with pytest.raises(ValueError, match="0 to 3"):
        written(labels, tmp_path / "x.nii.gz")


def test_a_rotation_by_half_a_turn_keeps_its_axes(tmp_path):
    for axis in np.random.default_rng(0).standard_normal((20, 3)):
        turn = Rotation.from_rotvec(np.pi * (1 + 1e-4) * axis / np.linalg.norm(axis)).as_matrix()
        labels = some_labels(a_geometry((3, 4, 5), (0.8, 0.9, 3.0), turn, (10, -200, 30)))
        check_file(written(labels, tmp_path / "x.nii.gz"), labels)

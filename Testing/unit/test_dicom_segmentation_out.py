"""DICOM segmentations, read by readers that are not ours: pydicom with NumPy, highdicom, dcmqi, and dciodvfy."""

import json
from dataclasses import replace
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import UltrasoundImageStorage, generate_uid

from ppcmi.dicom.segmentation_out import (
    require_dicom,
    write_dicom_probabilities,
    write_dicom_segmentation,
)
from ppcmi.errors import ReadError, WriteError
from ppcmi.label_table import write_label_table
from ppcmi.sources import ImageSource
from ppcmi.task import Code, load_task, parse_task, task_to_json
from ppcmi.volume import Volume
from ppcmi.writing import terminology_entry
from support.dicom import write_multi_frame, write_series
from support.dicom_results import (
    PROVENANCE,
    dciodvfy_errors,
    dcmqi_points,
    files_in,
    in_order,
    places_on,
    planes_of,
    source_of,
)
from support.volumes import a_geometry, a_task, geometries

TASK = a_task(labels=2)
STUDY = {"StudyInstanceUID": generate_uid(), "FrameOfReferenceUID": generate_uid(), "PatientID": "4711"}


def some_labels(shape, seed=0):
    """Two structures in any pixel, on any plane but the first, where there are several."""
    labels = np.random.default_rng(seed).choice(np.uint8([0, 1, 2]), shape, p=(0.7, 0.2, 0.1))
    if len(labels) > 1:
        labels[0] = 0
    return labels


def a_series(folder, geometry=None, **changes):
    geometry = geometry or a_geometry((4, 6, 9), (0.7, 1.1, 2.5))
    attributes = {keyword: value for keyword, value in {**STUDY, **changes}.items() if value is not None}
    return source_of(*write_series(Volume(np.zeros(geometry.shape, np.int16), geometry), folder, **attributes))


def real_sources(data):
    """Name, source and shape of volumes of every kind that the samples have."""
    samples = data("dicom_samples")
    ct = files_in(samples / "ct3slice_with_seg")
    yield "CT with pixels that are not square", *source_of(*ct)
    yield "a single slice", *source_of(ct[1])
    yield "oblique MR", *source_of(*files_in(samples / "hippocrop_mr_dicom" / "study1"))
    yield "tilted and uneven", *source_of(*files_in(samples / "ct_head_gantry_tilt_ge"))
    xa = samples / "enhanced_multiframe_mr" / "Siemens" / "XA10"
    yield "one of several enhanced files", *source_of(xa / "6_2.dcm")
    philips = samples / "enhanced_multiframe_mr" / "Philips" / "IM_0027_fMAP.dcm"
    seen = set()

    def second_at_its_place(index, group):
        place = tuple(group.PlanePositionSequence[0].ImagePositionPatient)
        return place in seen or seen.add(place)

    yield "the second of two volumes in one file", *source_of(philips, chosen=second_at_its_place)


def check_planes(path, labels, source):
    """Every structure lies on exactly the frames it was found on, with the source's own numbers."""
    planes = planes_of(path)
    frames = {}
    for k, frame in enumerate(source.dicom.frames):
        header = pydicom.dcmread(frame.file, stop_before_pixels=True)
        number = frame.index + 1 if "NumberOfFrames" in header else None
        frames[str(header.SOPInstanceUID), number] = (k, frame)
    found = np.zeros_like(labels)
    for plane in planes:
        k, frame = frames[plane.refers_to]
        assert plane.on_its_pixels
        assert plane.position == tuple(frame.position)
        assert plane.orientation == tuple(source.dicom.frames[0].directions.ravel())
        assert plane.spacing == frame.spacing_mm
        assert not found[k][plane.pixels > 0].any()
        found[k][plane.pixels > 0] = plane.segment
    np.testing.assert_array_equal(found, labels)
    assert len(planes) == sum(len(np.setdiff1d(plane, 0)) for plane in labels)


def test_real_images_of_every_kind_have_their_structures_on_the_pixel_and_refer_to_the_right_frame(
    tmp_path, data_folder
):
    kinds = list(real_sources(data_folder))
    assert len(kinds) == 6
    for name, source, shape in kinds:
        path = tmp_path / f"{name}.dcm"
        labels = some_labels(shape)
        write_dicom_segmentation(labels, source, TASK, path, PROVENANCE)
        check_planes(path, labels, source)
        whose = {line for line in dciodvfy_errors(source.dicom.frames[0].file) if "Module=<Patient>" in line}
        assert set(dciodvfy_errors(path)) <= whose, name  # a source's own patient module stays as it is
        seen = highdicom.seg.segread(path).get_pixels_by_source_instance if shape[0] == 1 else None
        if seen is not None:
            uid = pydicom.dcmread(source.dicom.frames[0].file).SOPInstanceUID
            np.testing.assert_array_equal(seen([uid], combine_segments=True)[0], labels[0])


@pytest.mark.parametrize("study", ["ct3slice_with_seg", "hippocrop_mr_dicom/study1", "enhanced"])
def test_highdicom_and_dcmqi_find_the_structures_where_the_images_have_them(tmp_path, data_folder, study):
    samples = data_folder("dicom_samples")
    enhanced = [samples / "enhanced_multiframe_mr" / "Siemens" / "XA10" / "6_3.dcm"]
    source, shape = source_of(*(enhanced if study == "enhanced" else files_in(samples / study)))
    labels = some_labels(shape)
    path = tmp_path / "x.dcm"
    write_dicom_segmentation(labels, source, TASK, path, PROVENANCE)
    volume = highdicom.seg.segread(path).get_volume(combine_segments=True)
    found = dcmqi_points(path, tmp_path / "dcmqi")
    assert sorted(found) == [1, 2]
    for value, points in found.items():
        places = places_on(source, labels == value)
        assert points.shape == places.shape
        np.testing.assert_allclose(points, places, atol=0.002)
        by_highdicom = volume.map_indices_to_reference(np.argwhere(volume.array == value))
        np.testing.assert_allclose(in_order(by_highdicom), places, atol=0.002)


@given(geometries(low=3, high=8), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_any_orientation_position_and_size_of_pixels_is_the_source_s(tmp_path_factory, geometry, seed):
    folder = tmp_path_factory.mktemp("x")
    source, shape = a_series(folder / "series", geometry)
    labels = some_labels(shape, seed)
    labels[-1, 0, 0] = 1  # not empty
    write_dicom_segmentation(labels, source, TASK, folder / "x.dcm", PROVENANCE)
    check_planes(folder / "x.dcm", labels, source)


def test_frames_of_an_enhanced_file_are_referred_to_by_their_number_in_the_file(tmp_path):
    volume = Volume(np.zeros((4, 5, 6), np.uint16), a_geometry((4, 5, 6)))
    uid = {**STUDY, "Modality": "MR"}
    file = write_multi_frame(volume, tmp_path / "x.dcm", order=(2, 0, 3, 1), **uid)
    source, shape = source_of(file)
    assert [frame.index for frame in source.dicom.frames] == [1, 3, 0, 2]
    labels = np.zeros(shape, np.uint8)
    labels[1, 2, 3] = 1
    write_dicom_segmentation(labels, source, TASK, tmp_path / "seg.dcm", PROVENANCE)
    (plane,) = planes_of(tmp_path / "seg.dcm")
    assert plane.refers_to == (pydicom.dcmread(file).SOPInstanceUID, 4)
    assert plane.position[2] == 1.0


def test_a_segmentation_says_what_made_it_by_algorithm_version_and_codes(tmp_path, data_folder):
    source, shape = a_series(tmp_path / "series", SeriesNumber=5)
    task = load_task(Path(__file__).parents[2] / "Resources" / "Tasks" / "hippocampus-mr.json")
    write_dicom_segmentation(some_labels(shape), source, task, tmp_path / "x.dcm", PROVENANCE)
    file = pydicom.dcmread(tmp_path / "x.dcm")
    assert (file.Modality, file.SegmentationType, file.SeriesNumber) == ("SEG", "BINARY", 501)
    assert file.SeriesDescription == "PPCMI Anterior and posterior hippocampus on T1 MR"
    assert file.ContentLabel == "SEGMENTATION"
    assert file.SoftwareVersions == "0.1.0"
    front, back = file.SegmentSequence
    assert (front.SegmentNumber, front.SegmentLabel) == (1, "Anterior hippocampus")
    assert (back.SegmentNumber, back.SegmentLabel) == (2, "Posterior hippocampus")
    assert front.SegmentAlgorithmType == "AUTOMATIC"
    assert front.SegmentAlgorithmName == "PPCMI hippocampus-mr"
    algorithm = front.SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmVersion == "0.1.0 model 3 task 1"
    assert "profile=coarse" in algorithm.AlgorithmParameters
    kind = front.SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodeValue, kind.CodingSchemeDesignator, kind.CodeMeaning) == ("5366008", "SCT", "Hippocampus")
    assert front.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "123037004"
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Anterior"
    color = highdicom.color.CIELabColor.from_dicom_value(tuple(front.RecommendedDisplayCIELabValue))
    np.testing.assert_allclose(color.to_rgb(), (220, 110, 60), atol=1)


def test_a_structure_s_anatomic_region_is_in_every_format_that_has_one_and_dcmqi_reads_it(tmp_path):
    liver = Code("SCT", "10200004", "Liver")
    task = replace(TASK, labels=(replace(TASK.labels[0], region=liver), TASK.labels[1]))
    assert parse_task(task_to_json(task)) == task
    assert "region" not in task_to_json(TASK)
    assert terminology_entry(task.labels[0]).endswith("~SCT^10200004^Liver~^^")
    source, shape = a_series(tmp_path / "series")
    write_dicom_segmentation(some_labels(shape), source, task, tmp_path / "x.dcm", PROVENANCE)
    first, second = pydicom.dcmread(tmp_path / "x.dcm").SegmentSequence
    assert first.AnatomicRegionSequence[0].CodeMeaning == "Liver"
    assert "AnatomicRegionSequence" not in second
    assert dciodvfy_errors(tmp_path / "x.dcm") == []
    dcmqi_points(tmp_path / "x.dcm", tmp_path / "dcmqi")
    write_label_table(task, tmp_path / "x.labels.json")
    ours, its = (json.loads(path.read_text()) for path in (tmp_path / "x.labels.json", tmp_path / "dcmqi/x-meta.json"))
    region = ours["segmentAttributes"][0][0]["AnatomicRegionSequence"]
    assert region == its["segmentAttributes"][0][0]["AnatomicRegionSequence"]


def test_patient_and_study_are_the_source_s_word_for_word_whatever_its_encoding(tmp_path):
    identity = {
        "SpecificCharacterSet": ["", "ISO 2022 IR 87"],
        "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう",
        "PatientID": "00-47 11",
        "IssuerOfPatientID": "Ward",
        "PatientBirthDate": "19310228",
        "PatientSex": "X",  # not one of the standard's
        "PatientAge": "093Y",
        "StudyID": "S1",
        "StudyDate": "20240131",
        "StudyTime": "1050",
        "StudyDescription": "頭部",
        "AccessionNumber": "A-77",
        "ReferringPhysicianName": "Sato^A",
    }
    source, shape = a_series(tmp_path / "series", **identity)
    write_dicom_segmentation(some_labels(shape), source, TASK, tmp_path / "x.dcm", PROVENANCE)
    image = pydicom.dcmread(source.dicom.frames[0].file)
    result = pydicom.dcmread(tmp_path / "x.dcm")
    assert result.SpecificCharacterSet == "ISO_IR 192"
    for keyword in (*identity, *STUDY):
        if keyword != "SpecificCharacterSet":
            assert result[keyword].value == image[keyword].value, keyword
    assert "山田" in str(result.PatientName)
    references = result.ReferencedSeriesSequence[0]
    assert references.SeriesInstanceUID == image.SeriesInstanceUID
    assert len(references.ReferencedInstanceSequence) == shape[0]
    assert result.SeriesInstanceUID != image.SeriesInstanceUID


def test_a_source_that_leaves_identity_out_gives_a_segmentation_that_does_so(tmp_path):
    source, shape = a_series(tmp_path / "series", PatientID=None)
    write_dicom_segmentation(some_labels(shape), source, TASK, tmp_path / "x.dcm", PROVENANCE)
    result = pydicom.dcmread(tmp_path / "x.dcm")
    assert not result.PatientID
    assert not result.PatientName
    assert result.StudyInstanceUID == STUDY["StudyInstanceUID"]


def test_each_file_is_an_instance_and_a_series_of_its_own(tmp_path):
    source, shape = a_series(tmp_path / "series")
    files = []
    for name in ("a.dcm", "b.dcm"):
        write_dicom_segmentation(some_labels(shape), source, TASK, tmp_path / name, PROVENANCE)
        files.append(pydicom.dcmread(tmp_path / name))
    first, second = files
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.SeriesInstanceUID != second.SeriesInstanceUID
    assert first.PixelData == second.PixelData


def test_a_structure_that_was_not_found_is_described_and_has_no_frame(tmp_path):
    source, shape = a_series(tmp_path / "series")
    labels = np.zeros(shape, np.uint8)
    labels[1, 2, 3] = 2
    write_dicom_segmentation(labels, source, TASK, tmp_path / "x.dcm", PROVENANCE)
    assert [segment.SegmentNumber for segment in pydicom.dcmread(tmp_path / "x.dcm").SegmentSequence] == [1, 2]
    assert [plane.segment for plane in planes_of(tmp_path / "x.dcm")] == [2]
    assert list(dcmqi_points(tmp_path / "x.dcm", tmp_path / "dcmqi")) == [2]


def test_a_result_without_any_structure_is_a_valid_file_of_empty_frames(tmp_path, caplog):
    source, shape = a_series(tmp_path / "series")
    write_dicom_segmentation(np.zeros(shape, np.uint8), source, TASK, tmp_path / "x.dcm", PROVENANCE)
    planes = planes_of(tmp_path / "x.dcm")
    assert len(planes) == 2 * shape[0]
    assert not any(plane.pixels.any() for plane in planes)
    assert dcmqi_points(tmp_path / "x.dcm", tmp_path / "dcmqi") == {}
    assert caplog.text == ""


def test_probabilities_are_kept_in_steps_of_a_255th(tmp_path):
    source, shape = a_series(tmp_path / "series")
    probabilities = np.random.default_rng(0).dirichlet((3, 1, 1), shape).astype(np.float32)
    probabilities = np.moveaxis(probabilities, -1, 0)
    probabilities[1:, 0] = 0.001  # nothing to see on the first frame
    write_dicom_probabilities(probabilities, source, TASK, tmp_path / "x.dcm", PROVENANCE)
    file = pydicom.dcmread(tmp_path / "x.dcm")
    assert (file.SegmentationType, file.SegmentationFractionalType) == ("FRACTIONAL", "PROBABILITY")
    planes = planes_of(tmp_path / "x.dcm")
    uids = [str(pydicom.dcmread(frame.file).SOPInstanceUID) for frame in source.dicom.frames]
    assert len(planes) == 2 * (shape[0] - 1)
    for plane in planes:
        wanted = probabilities[plane.segment, uids.index(plane.refers_to[0])]
        np.testing.assert_allclose(plane.pixels / file.MaximumFractionalValue, wanted, atol=0.5 / 255 + 1e-6)


def test_an_ultrasound_image_without_a_place_in_space_is_referred_to_by_itself(tmp_path):
    volume = Volume(np.zeros((1, 5, 7), np.uint16), a_geometry((1, 5, 7)))
    nowhere = dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient", "SliceThickness"))
    changes = {"StudyInstanceUID": generate_uid(), "Modality": "US", "SOPClassUID": UltrasoundImageStorage, **nowhere}
    (file,) = write_series(volume, tmp_path / "us", **changes)
    source, shape = source_of(file)
    labels = some_labels(shape)
    write_dicom_segmentation(labels, source, TASK, tmp_path / "x.dcm", PROVENANCE)
    found = np.zeros_like(labels)
    for plane in planes_of(tmp_path / "x.dcm"):
        assert plane.refers_to == (pydicom.dcmread(file).SOPInstanceUID, None)
        found[0][plane.pixels > 0] = plane.segment
    np.testing.assert_array_equal(found, labels)
    assert "FrameOfReferenceUID" not in pydicom.dcmread(tmp_path / "x.dcm")


def test_names_and_codes_longer_than_dicom_has_room_for_are_cut_and_never_parted(tmp_path):
    source, shape = a_series(tmp_path / "series")
    code = Code("99TEST", "a-code-of-more-than-16-characters", "M" * 150)
    label = replace(TASK.labels[0], name="Lobe\\" + "é" * 30 + "x" * 150, type=code)
    task = replace(TASK, name="n" * 63, version="v" * 16, title="T" * 200, labels=(label, TASK.labels[1]))
    write_dicom_segmentation(some_labels(shape), source, task, tmp_path / "x.dcm", PROVENANCE)
    segment = pydicom.dcmread(tmp_path / "x.dcm").SegmentSequence[0]
    assert segment.SegmentLabel == "Lobe/" + "é" * 30 + "x" * 29  # characters, which dciodvfy takes for bytes
    assert segment.SegmentedPropertyTypeCodeSequence[0].LongCodeValue == code.value
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "M" * 64
    write_dicom_segmentation(
        some_labels(shape),
        source,
        replace(task, labels=(replace(label, name="x" * 150), *task.labels[1:])),
        tmp_path / "y.dcm",
        PROVENANCE,
    )
    assert dciodvfy_errors(tmp_path / "y.dcm") == []


def test_an_image_that_is_not_dicom_is_refused_before_anything_is_computed(tmp_path):
    with pytest.raises(ReadError, match="refers to DICOM images"):
        require_dicom(ImageSource(tmp_path / "x.nii.gz"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [({"StudyInstanceUID": None}, "not of one study"), ({"FrameOfReferenceUID": None}, "no frame of reference")],
)
def test_images_that_do_not_say_where_they_belong_are_refused(tmp_path, changes, sentence):
    source, shape = a_series(tmp_path / "series", **changes)
    with pytest.raises(ReadError, match=sentence):
        write_dicom_segmentation(some_labels(shape), source, TASK, tmp_path / "x.dcm", PROVENANCE)
    assert not (tmp_path / "x.dcm").exists()


def test_images_of_fewer_than_8_pixels_are_refused_and_those_of_8_are_not(tmp_path):
    small, _ = a_series(tmp_path / "small", a_geometry((2, 1, 7)))
    with pytest.raises(ReadError, match="fewer than 8 pixels"):
        write_dicom_segmentation(np.ones((2, 1, 7), np.uint8), small, TASK, tmp_path / "x.dcm", PROVENANCE)
    for pixels in (8, 9, 15):
        source, shape = a_series(tmp_path / f"{pixels}", a_geometry((3, 1, pixels)))
        labels = some_labels(shape)
        write_dicom_segmentation(labels, source, TASK, tmp_path / "x.dcm", PROVENANCE)
        check_planes(tmp_path / "x.dcm", labels, source)


def test_a_file_that_is_gone_when_the_result_is_written_is_one_sentence(tmp_path):
    source, shape = a_series(tmp_path / "series")
    source.dicom.frames[-1].file.unlink()
    with pytest.raises(ReadError, match=r"^A DICOM file of the image is damaged or has changed[^/]*$"):
        write_dicom_segmentation(some_labels(shape), source, TASK, tmp_path / "x.dcm", PROVENANCE)


def test_a_folder_that_is_not_there_is_a_write_error(tmp_path):
    source, shape = a_series(tmp_path / "series")
    with pytest.raises(WriteError):
        write_dicom_segmentation(some_labels(shape), source, TASK, tmp_path / "missing" / "x.dcm", PROVENANCE)


def test_labels_of_another_image_are_a_mistake_of_the_caller(tmp_path):
    source, shape = a_series(tmp_path / "series")
    for wrong in (some_labels((shape[0] - 1, *shape[1:])), some_labels((shape[0], shape[2], shape[1]))):
        with pytest.raises(ValueError, match="planes of"):
            write_dicom_segmentation(wrong, source, TASK, tmp_path / "x.dcm", PROVENANCE)

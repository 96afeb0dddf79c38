"""Studies of a real archive, segmented with a real server: over DICOMweb and by a node, each a program of its own."""

import re
import signal
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pydicom
import pytest
import SimpleITK

from ppcmi.archive.instance_files import series_name
from ppcmi.cli.main import main
from support.dicom_caller import NODE, call, store_as
from support.dicom_studies import PATIENT, phantoms, study_of, write_study
from support.orthanc import PASSWORD, USER, free_port, orthanc
from support.trained_site import PPCMI

FILED = ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID", "AccessionNumber", "StudyID")
"""What an archive files by."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    with orthanc(tmp_path_factory.mktemp("orthanc")) as server:
        yield server


@pytest.fixture
def login(tmp_path):
    (tmp_path / "password").write_text(PASSWORD + "\n")
    return ("--archive-user", USER, "--archive-password-file", tmp_path / "password")


@pytest.fixture
def phantom_study(archive, tmp_path):
    study = write_study(tmp_path / "study", phantoms(2))
    archive.add(*study.files)
    return study


def segmentations(archive, study, count):
    found = archive.wait_for(count, StudyInstanceUID=study.uid, Modality="SEG")
    return [pydicom.dcmread(pydicom.filebase.DicomBytesIO(archive.file(instance))) for instance in found]


def check_filed(segmentation, study):
    """It belongs to the patient and study of the images, word for word, and to a series of its own."""
    image = pydicom.dcmread(study.files[0], stop_before_pixels=True)
    for name in FILED:
        assert segmentation.get(name, "") == image.get(name, ""), name
    assert segmentation.SeriesInstanceUID not in study.series
    referenced = {str(item.SeriesInstanceUID) for item in segmentation.ReferencedSeriesSequence}
    assert referenced <= set(study.series)
    return referenced.pop()


def check_same_voxels(segmentation, result):
    """Every frame has its place; put together they are the labels of ``result``, computed from places alone."""
    expected = SimpleITK.ReadImage(str(result))
    labels = np.zeros(SimpleITK.GetArrayViewFromImage(expected).shape, int)
    planes = segmentation.pixel_array.reshape(-1, segmentation.Rows, segmentation.Columns)
    for plane, groups in zip(planes, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        position = groups.PlanePositionSequence[0].ImagePositionPatient
        first = expected.TransformPhysicalPointToContinuousIndex([float(value) for value in position])
        i, j, k = (round(value) for value in first)
        assert np.abs(np.subtract(first, (i, j, k))).max() < 1e-2
        assert (i, j) == (0, 0)
        labels[k][plane > 0] = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
    np.testing.assert_array_equal(labels, SimpleITK.GetArrayViewFromImage(expected))
    assert segmentation.SOPClassUID == pydicom.uid.SegmentationStorage


def segment(a_site, archive, study, login, output, *options):
    """What `ppcmi segment` prints of a study in the archive."""
    place = ("--from-dicomweb", archive.dicomweb, "--study", study.uid, *login)
    return a_site.command("segment", *a_site.options, *place, "-o", output, *options).splitlines()


def test_a_study_in_an_archive_is_segmented_and_its_results_are_filed_with_it(
    a_site, archive, phantom_study, login, tmp_path
):
    output = tmp_path / "out"
    assert segment(a_site, archive, phantom_study, login, output, "--store")[-1] == "2 results stored in the archive"
    for segmentation in segmentations(archive, phantom_study, 2):
        series = check_filed(segmentation, phantom_study)
        check_same_voxels(segmentation, output / f"{series_name(series)}.nii.gz")
        assert segmentation.pixel_array.any()
    assert not (output / ".ppcmi-fetched").exists()

    *_, summary, stored = segment(a_site, archive, phantom_study, login, output, "--store")
    assert summary.startswith("2 done before;")
    assert stored == "0 results stored in the archive"
    archive.wait_for(2, StudyInstanceUID=phantom_study.uid, Modality="SEG")


def test_a_real_study_gets_a_result_though_nothing_of_the_task_is_in_it(a_site, archive, data_folder, login, tmp_path):
    folder = data_folder("dicom_samples") / "hippocrop_mr_dicom" / "study2"
    study = study_of(sorted(folder.glob("*.dcm")))
    archive.add(*study.files)
    assert segment(a_site, archive, study, login, tmp_path, "--store")[-1] == "1 result stored in the archive"
    (segmentation,) = segmentations(archive, study, 1)
    check_same_voxels(segmentation, tmp_path / f"{series_name(check_filed(segmentation, study))}.nii.gz")


def test_one_series_of_a_study_is_segmented_where_it_is_named(a_site, archive, phantom_study, login, tmp_path):
    series = phantom_study.series[1]
    printed = segment(a_site, archive, phantom_study, login, tmp_path, "--series", series)
    assert {path.name for path in tmp_path.glob("*.seg.dcm")} == {f"{series_name(series)}.seg.dcm"}
    assert any(series_name(series) in line for line in printed)
    assert not any(uid in line for line in printed for uid in (phantom_study.uid, *phantom_study.series))
    assert archive.instances(StudyInstanceUID=phantom_study.uid, Modality="SEG") == []


# ---- the node


@contextmanager
def a_node(a_site, archive, folder, *options):
    """A node as a program; its process and port."""
    words = (*PPCMI, "node", *a_site.options, "--return-to", archive.return_address, "--port", "0", "-o", folder)
    process = a_site.start(*words, *options)
    try:
        line = process.stdout.readline()
        found = re.fullmatch(rf"Listening as {NODE} on 127\.0\.0\.1 port (\d+)\n", line)
        assert found, line + process.stderr.read()
        port = int(found[1])
        archive.know("ppcmi", NODE, port)
        yield process, port
    finally:
        process.kill()
        process.communicate()


def send_nonsense(port, file):
    """Status of an instance with a value that pydicom would warn of by quoting it."""
    dataset = pydicom.dcmread(file)
    dataset.add_new("StudyInstanceUID", "UI", f"../{PATIENT['PatientName']}")
    with call(port) as association:
        return store_as(association, dataset, dataset.SOPClassUID, dataset.SOPInstanceUID)


def ended(process):
    """What a node said until it was told to end."""
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    return out + err


def test_a_study_that_is_sent_to_a_node_comes_back_segmented(a_site, archive, phantom_study, tmp_path):
    study, folder = phantom_study, tmp_path / "node"
    with a_node(a_site, archive, folder, "--quiet-s", "1", "--keep") as (process, port):
        assert send_nonsense(port, study.files[0]) == 0xC000
        assert archive.send("ppcmi", archive.add(*study.files)).ok
        found = segmentations(archive, study, len(study.series))
        said = ended(process)
    results = list(folder.glob("studies/*/results/*.nii.gz"))
    assert len(results) == len(found) == len(study.series)
    for segmentation in found:
        check_filed(segmentation, study)
        own = next(
            path for path in folder.glob("studies/*/results/*.seg.dcm")
            if pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID == segmentation.SOPInstanceUID
        )  # fmt: skip
        check_same_voxels(segmentation, own.with_name(own.name.replace(".seg.dcm", ".nii.gz")))
    for identifying in (*PATIENT.values(), study.uid, *study.series, str(folder)):
        assert not identifying or identifying not in said
    assert "study 1: " in said


def test_a_node_that_was_killed_goes_on_with_what_it_had_received(a_site, archive, tmp_path):
    study = write_study(tmp_path / "study", phantoms(1))
    folder = tmp_path / "node"
    with a_node(a_site, archive, folder, "--quiet-s", "600") as (process, _):
        assert archive.send("ppcmi", archive.add(*study.files)).ok
        process.kill()
        process.wait()
    with a_node(a_site, archive, folder) as (process, _):
        lines = [process.stderr.readline() for _ in range(2)]
        assert lines[1].endswith("study 1: 1 result given back\n"), lines
        ended(process)
    segmentations(archive, study, 1)
    assert list((folder / "studies").iterdir()) == []


def test_a_node_says_in_how_many_images_it_found_nothing(a_site, archive, tmp_path):
    dark, bright = phantoms(2)
    study = write_study(tmp_path / "study", [replace(dark, voxels=np.zeros_like(dark.voxels)), bright])
    with a_node(a_site, archive, tmp_path / "node", "--quiet-s", "1") as (process, _):
        assert archive.send("ppcmi", archive.add(*study.files)).ok
        _, found, given_back = [process.stderr.readline() for _ in range(3)]
        ended(process)
    assert found.endswith("study 1: no structure was found in 1 image\n")
    assert given_back.endswith("study 1: 2 results given back\n")


def test_a_node_waits_for_an_archive_and_two_do_not_share_a_folder(a_site, tmp_path, capsys):
    nobody = f"NOBODY@127.0.0.1:{free_port()}"
    words = (*PPCMI, "node", *a_site.options, "--return-to", nobody, "--port", "0", "-o", tmp_path / "node")
    process = a_site.start(*words)
    try:
        assert process.stdout.readline().startswith("Listening")
        assert process.stderr.readline().endswith("Results wait until then.\n")
        assert main([str(word) for word in words[len(PPCMI) :]]) == 2
        assert capsys.readouterr().err == "ppcmi: Another node works in this folder; choose another one.\n"
        ended(process)
    finally:
        process.kill()

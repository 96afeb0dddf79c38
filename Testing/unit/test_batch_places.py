"""What a batch never writes over: labels that somebody drew, files of others, another task's results."""

import dataclasses

import pytest

from ppcmi import batch
from ppcmi.batch_images import find_batch_images
from ppcmi.batch_manifest import MANIFEST, Manifest
from ppcmi.batch_report import write_report
from ppcmi.codec.codec import Codec
from ppcmi.errors import WriteError
from ppcmi.pipeline import provenance_of
from support.batch_runs import Thresholds, segmented, write_scan
from support.private_link import HalvingServer, link_to, small_task


@pytest.fixture
def another_link(a_codec):
    """A link for a task with other structures."""
    task = small_task()
    liver = dataclasses.replace(task.labels[0], name="Liver")
    codec = Codec(dataclasses.replace(task, name="liver-mr", title="Liver in MR", labels=(liver,)), "autoencoder")
    return link_to(HalvingServer(task=codec.task.identity), codec)


@pytest.mark.parametrize("folder", ["labels", "label", "Labels"])
def test_the_labels_of_a_data_folder_are_no_place_for_results(folder, a_link, tmp_path):
    data = tmp_path / "data"
    for name in ("images", folder):
        (data / name).mkdir(parents=True)
    write_scan(data / "images" / "one.nii.gz", 1)
    (data / folder / "two.nii.gz").write_bytes(b"drawn by hand")
    images, _ = find_batch_images(data, data / folder)
    with pytest.raises(WriteError, match="labels of a data folder; choose another folder"):
        list(batch.segment_files(images, a_link, data / folder))
    assert [path.name for path in (data / folder).iterdir()] == ["two.nii.gz"]


@pytest.mark.parametrize("file", ["two.nii.gz", "two.seg.nrrd", "two.labels.json", "report/two.png", "report.html"])
def test_a_file_that_no_run_wrote_ends_the_run_before_anything_is_written(file, scans, a_link, tmp_path):
    output = tmp_path / "out"
    (output / file).parent.mkdir(parents=True)
    (output / file).write_bytes(b"somebody's")
    with pytest.raises(WriteError, match=r"1 file that no run .* choose another folder"):
        segmented(scans, a_link, output)
    assert [path for path in output.rglob("*") if path.is_file()] == [output / file]
    assert (output / file).read_bytes() == b"somebody's"


def test_other_files_in_the_folder_do_not_matter(scans, a_link, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "notes.txt").write_text("somebody's")
    assert segmented(scans[:1], a_link, output) == {"one": "done"}


def test_after_a_power_cut_between_two_files_a_rerun_knows_the_first_for_its_own(scans, a_link, tmp_path, monkeypatch):
    output, written = tmp_path / "out", []

    def cut(*arguments):
        if written:
            raise KeyboardInterrupt
        written.append(arguments)
        write(*arguments)

    write = batch.write_result
    monkeypatch.setattr(batch, "write_result", cut)
    with pytest.raises(KeyboardInterrupt):
        segmented(scans[:1], a_link, output)
    assert (output / "one.seg.nrrd").exists()
    assert not Manifest(output).records
    monkeypatch.undo()
    assert segmented(scans[:1], a_link, output) == {"one": "done"}


def test_another_task_does_not_overwrite_the_first_one_s_results(scans, a_link, another_link, tmp_path):
    output = tmp_path / "out"
    segmented(scans[:1], a_link, output)
    before = {path.name: path.read_bytes() for path in output.iterdir() if path.is_file()}
    for endings in ((".nii.gz",), (".confidence.nii.gz",)):
        with pytest.raises(WriteError, match="another task's results of these images; choose another folder"):
            segmented(scans, another_link, output, endings=endings)
    assert {path.name: path.read_bytes() for path in output.iterdir() if path.is_file()} == before
    for name in ("one.nii.gz", "one.seg.nrrd"):
        (output / name).unlink()
    assert segmented(scans[:1], another_link, output) == {"one": "done"}


def test_a_new_version_of_a_task_makes_its_results_anew(scans, a_link, tmp_path):
    codec = Codec(dataclasses.replace(small_task(), version="2"), "autoencoder")
    newer = link_to(HalvingServer(task=codec.task.identity), codec, decoder=Thresholds(codec))
    for link in (a_link, newer):
        assert segmented(scans[:1], link, tmp_path / "out") == {"one": "done"}


def test_the_report_of_a_task_says_nothing_of_another_task_s_structures(scans, a_link, another_link, tmp_path):
    output = tmp_path / "out"
    segmented(scans[:1], a_link, output)
    segmented(scans[1:2], another_link, output)
    records = Manifest(output).records.values()
    page = write_report(output, another_link.task, records, provenance_of(another_link)).read_text()
    assert 'id="two"' in page
    assert 'id="one"' not in page
    assert "1 volume segmented, 0 not." in page
    assert "Of another task or version the folder has 1 volume more." in page
    page = write_report(output, a_link.task, records, provenance_of(a_link)).read_text()
    assert 'id="two"' not in page


def test_a_manifest_with_a_result_that_was_only_begun_has_its_name_and_no_record(tmp_path):
    Manifest(tmp_path).begin("one", {"source": "/a/one.nii"})
    Manifest(tmp_path).begin("one", {"source": "/a/one.nii"})
    assert len((tmp_path / MANIFEST).read_text().splitlines()) == 1
    assert Manifest(tmp_path).sources == {"one": "/a/one.nii"}
    assert not Manifest(tmp_path).records

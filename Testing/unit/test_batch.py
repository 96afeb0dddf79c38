"""Many volumes into one folder: reruns, failures, formats."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from ppcmi.batch import segment_files
from ppcmi.batch_images import BatchImage, find_batch_images
from ppcmi.batch_manifest import MANIFEST, Manifest
from ppcmi.codec.refinement import SiteDecoder
from ppcmi.confidence import ENDING as CONFIDENCE
from ppcmi.errors import CancelledError, ConnectionFailedError, ServerRefusedError, UsageError, WriteError
from ppcmi.reading import read_labels, read_volume
from ppcmi.result_files import ENDINGS
from ppcmi.sources import ImageSource, find_sources
from ppcmi.volume import Volume
from support.batch_runs import segmented, write_scan
from support.dicom import write_series
from support.private_link import HalvingServer, link_to
from support.volumes import a_geometry


def test_what_is_done_is_skipped_until_the_scan_changes(scans, a_link, tmp_path):
    output = tmp_path / "out"
    assert segmented(scans[:2], a_link, output) == {"one": "done", "two": "done"}
    assert segmented(scans, a_link, output) == {"one": "skipped", "two": "skipped", "three": "done"}
    (output / "one.nii.gz").unlink()
    write_scan(scans[2], seed=9)
    assert segmented(scans, a_link, output) == {"one": "done", "two": "skipped", "three": "done"}
    for ending in ("nii.gz", "seg.nrrd"):
        assert {path.name for path in output.glob(f"*.{ending}")} == {f"{n}.{ending}" for n in ("one", "two", "three")}


def an_image_in_two_files(folder, header):
    """The header, and the file with the voxels."""
    image = SimpleITK.GetImageFromArray(np.random.default_rng(0).integers(0, 300, (4, 20, 22)).astype(np.float32))
    SimpleITK.WriteImage(image, str(folder / header))
    return folder / header, next(path for path in folder.iterdir() if path.suffix in (".raw", ".img"))


@pytest.mark.parametrize("header", ["a.mhd", "a.nhdr", "a.hdr"])
def test_a_scan_whose_voxels_changed_behind_their_header_is_made_anew(header, a_link, tmp_path):
    path, voxels = an_image_in_two_files(tmp_path, header)
    assert segmented([path], a_link, tmp_path / "out") == {"a": "done"}
    assert segmented([path], a_link, tmp_path / "out") == {"a": "skipped"}
    voxels.write_bytes(voxels.read_bytes()[::-1])
    os.utime(voxels, ns=(1, 1))  # a copy keeps the time of what it was made from
    assert segmented([path], a_link, tmp_path / "out") == {"a": "done"}


def test_a_refined_decoder_or_another_model_makes_results_anew(scans, a_codec, a_server, tmp_path):
    output, decoder = tmp_path / "out", SiteDecoder(a_codec)
    assert segmented(scans[:1], link_to(a_server, a_codec, decoder=decoder), output) == {"one": "done"}
    assert segmented(scans[:1], link_to(a_server, a_codec, decoder=SiteDecoder(a_codec)), output) == {"one": "skipped"}
    next(decoder.local.parameters()).data.add_(1e-3)
    assert segmented(scans[:1], link_to(a_server, a_codec, decoder=decoder), output) == {"one": "done"}
    assert segmented(scans[:1], link_to(a_server, a_codec, decoder=decoder, model=8), output) == {"one": "done"}


def test_every_event_says_how_many_volumes_are_still_to_be_done_after_it(scans, a_link, tmp_path):
    def to_do(*paths):
        items = segment_files([BatchImage(ImageSource(path)) for path in paths], a_link, tmp_path / "out")
        return {item.name: item.to_do_after for item in items}

    assert to_do(scans[1]) == {"two": 0}
    assert to_do(*scans) == {"one": 1, "two": 1, "three": 0}
    write_scan(scans[0], seed=9)
    assert to_do(*scans) == {"one": 0, "two": 0, "three": 0}


def test_a_volume_is_told_of_before_it_is_read(scans, a_link, tmp_path):
    scans[0].write_bytes(b"no image")
    first, second, *_ = segment_files([BatchImage(ImageSource(scans[0]))], a_link, tmp_path / "out")
    assert (first.progress, first.outcome, second.outcome) == (None, None, "failed")


def test_a_failure_goes_on_to_the_next_and_is_tried_again(scans, a_link, tmp_path):
    output = tmp_path / "out"
    scans[1].write_bytes(b"no image")
    assert segmented(scans, a_link, output) == {"one": "done", "two": "failed", "three": "done"}
    sentence = Manifest(output).records["two"].error
    assert "cannot be read" in sentence
    assert str(tmp_path) not in sentence
    assert not list(output.glob("two.*"))
    assert segmented(scans, a_link, output) == {"one": "skipped", "two": "failed", "three": "skipped"}
    write_scan(scans[1], seed=5)
    assert segmented(scans, a_link, output) == {"one": "skipped", "two": "done", "three": "skipped"}


def test_a_scan_that_is_gone_or_may_not_be_read_fails_alone(scans, a_link, tmp_path, monkeypatch):
    scans[0].unlink()
    opened = Path.open

    def refuse(self, *arguments, **options):
        if self == scans[1]:
            raise PermissionError(13, "Permission denied")
        return opened(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)  # root may read everything
    output = tmp_path / "out"
    assert segmented(scans, a_link, output) == {"one": "failed", "two": "failed", "three": "done"}
    assert "check its permissions" in Manifest(output).records["two"].error


class Refusing(HalvingServer):
    """Answers the first requests, then raises."""

    def __init__(self, error, task, answers=0):
        super().__init__(task=task)
        self.error, self.left = error, answers

    def answer(self, bundle, model):
        self.left -= 1
        if self.left < 0:
            raise self.error
        return super().answer(bundle, model)


ENDS_THE_RUN = [
    ConnectionFailedError("The server cannot be reached."),
    ServerRefusedError(401, "Not enrolled", "The token was revoked."),
    ServerRefusedError(404, "Not found", "There is no such model."),
    WriteError("No space left on device."),
    CancelledError("Cancelled."),
]


@pytest.mark.parametrize("error", ENDS_THE_RUN, ids=lambda error: f"{type(error).__name__} {error}")
def test_what_would_fail_for_all_ends_the_run_and_keeps_what_is_finished(error, scans, a_codec, tmp_path):
    output, task = tmp_path / "out", a_codec.task.identity
    link = link_to(Refusing(error, task, answers=2), a_codec)  # a scan of four slices is two bundles
    with pytest.raises(type(error)):
        segmented(scans, link, output)
    assert list(Manifest(output).records) == ["one"]
    assert (output / "one.nii.gz").exists()
    assert segmented(scans, link_to(HalvingServer(task=task), a_codec), output) == {
        "one": "skipped", "two": "done", "three": "done",
    }  # fmt: skip


@pytest.mark.parametrize(
    "error", [ServerRefusedError(422, "Not valid", ""), ServerRefusedError(503, "Busy", ""), ZeroDivisionError("?")]
)
def test_what_concerns_one_volume_fails_it_alone(error, scans, a_codec, tmp_path):
    link = link_to(Refusing(error, a_codec.task.identity), a_codec)
    assert set(segmented(scans, link, tmp_path / "out").values()) == {"failed"}


def test_an_answer_of_another_model_is_not_used(scans, a_codec, tmp_path):
    class Mixer(HalvingServer):
        def answer(self, bundle, model):
            return super().answer(bundle, model + 1)

    output = tmp_path / "out"
    assert segmented(scans[:1], link_to(Mixer(task=a_codec.task.identity), a_codec), output) == {"one": "failed"}
    assert "another model" in Manifest(output).records["one"].error
    assert list(output.glob("*.nrrd")) == []


def test_cancelling_keeps_what_is_finished_and_leaves_nothing_half_written(scans, a_link, tmp_path):
    output = tmp_path / "out"
    with pytest.raises(CancelledError):
        segmented(scans, a_link, output, cancelled=(output / "one.nii.gz").exists)
    assert sorted(path.name for path in output.iterdir()) == [
        "one.labels.json", "one.nii.gz", "one.seg.nrrd", MANIFEST, "report",
    ]  # fmt: skip
    assert segmented(scans, a_link, output) == {"one": "skipped", "two": "done", "three": "done"}


def test_a_result_never_takes_the_place_of_a_scan(scans, a_link):
    before = scans[0].read_bytes()
    with pytest.raises(WriteError, match="another folder"):
        segmented(scans[:1], a_link, scans[0].parent)
    assert scans[0].read_bytes() == before


def test_a_scan_of_a_very_long_name_is_segmented_like_the_others(scans, a_link, tmp_path):
    long = scans[0].rename(scans[0].with_name(f"{'x' * 235}.nii.gz"))
    outcomes = segmented([long, scans[1]], a_link, tmp_path / "out")
    assert list(outcomes.values()) == ["done", "done"]
    assert segmented([long, scans[1]], a_link, tmp_path / "out") == dict.fromkeys(outcomes, "skipped")


def test_a_name_that_the_disk_finds_too_long_fails_its_scan_alone(scans, a_link, tmp_path, monkeypatch):
    """As on an encrypted disk, which has fewer bytes for a name than others."""
    output = tmp_path / "out"
    opened, asked = os.open, Path.exists

    def refuse(path):
        if "two." in Path(path).name and output in Path(path).parents:
            raise OSError(errno.ENAMETOOLONG, "File name too long")

    monkeypatch.setattr(os, "open", lambda path, *rest, **options: refuse(path) or opened(path, *rest, **options))
    monkeypatch.setattr(Path, "exists", lambda self: refuse(self) or asked(self))
    assert segmented(scans, a_link, output) == {"one": "done", "two": "failed", "three": "done"}
    assert "too long for this disk" in Manifest(output).records["two"].error
    assert segmented(scans, a_link, output) == {"one": "skipped", "two": "failed", "three": "skipped"}


def test_a_file_in_the_place_of_the_output_folder_is_said(scans, a_link, tmp_path):
    (tmp_path / "README.md").touch()
    with pytest.raises(WriteError, match="a file of that name is there"):
        segmented(scans, a_link, tmp_path / "README.md")


def test_confidence_is_written_beside_the_mask_and_a_rerun_that_asks_for_it_makes_it(scans, a_link, tmp_path):
    output, endings = tmp_path / "out", (*ENDINGS, CONFIDENCE)
    assert segmented(scans[:1], a_link, output) == {"one": "done"}
    assert segmented(scans[:1], a_link, output, endings=endings) == {"one": "done"}
    confidence = read_volume(output / "one.confidence.nii.gz")
    assert confidence.geometry.matches(read_labels(output / "one.nii.gz").geometry)
    assert confidence.voxels.dtype == np.float32
    assert confidence.voxels.min() >= 0.33  # the test's decoder is sure of one in three; between pixels less
    assert confidence.voxels.max() == 1
    assert segmented(scans[:1], a_link, output, endings=endings) == {"one": "skipped"}
    assert segmented(scans[:1], a_link, output) == {"one": "skipped"}


def test_a_batch_without_any_dicom_image_is_refused_dicom_results_before_it_starts(scans, a_link, tmp_path):
    with pytest.raises(UsageError, match="none of these is one"):
        segmented(scans, a_link, tmp_path / "out", endings=(".nii.gz", ".seg.dcm"))
    assert not (tmp_path / "out").exists()


def test_an_image_whose_result_could_not_be_filed_fails_before_anything_of_it_is_sent(scans, a_link, tmp_path):
    volume = Volume(np.zeros((3, 16, 16), np.int16), a_geometry((3, 16, 16)))
    write_series(volume, tmp_path / "no-study")
    output = tmp_path / "out"
    images = [BatchImage(*find_sources(tmp_path / "no-study").images), BatchImage(ImageSource(scans[0]))]
    items = list(segment_files(images, a_link, output, endings=(".seg.dcm",)))
    assert {item.name: item.outcome for item in items} == {"no-study": "failed", "one": "failed"}
    records = Manifest(output).records
    assert "not of one study" in records["no-study"].error
    assert "which this is not" in records["one"].error
    assert {record.bytes_sent for record in records.values()} == {0}
    assert list(output.glob("*.dcm")) == []


def test_an_image_of_another_modality_is_refused_before_anything_of_it_leaves(a_link, tmp_path):
    voxels = np.random.default_rng(0).integers(0, 300, (5, 20, 22)).astype(np.int16)
    for modality in ("CT", "MR"):
        write_series(Volume(voxels, a_geometry(voxels.shape, (1.0, 1.0, 1.0))), tmp_path / modality, Modality=modality)
    images, _ = find_batch_images(tmp_path, tmp_path / "out")
    items = {item.name: item.record for item in segment_files(images, a_link, tmp_path / "out") if item.outcome}
    assert items["MR"].outcome == "done"
    assert items["CT"].outcome == "failed"
    assert items["CT"].error == "The volume is of modality CT, the task is for MR; choose another task."
    assert items["CT"].bytes_sent == 0


def test_series_of_a_study_are_images_each_and_one_that_is_refused_fails_alone(a_link, tmp_path):
    study, output = tmp_path / "study", tmp_path / "study" / "out"
    geometry = a_geometry((5, 20, 22), (1.0, 2.0, 3.0))
    voxels = np.random.default_rng(0).integers(0, 300, geometry.shape).astype(np.int16)
    for number in (1, 2):
        names = [f"{number}-{k}" for k in range(5)]
        paths = write_series(
            Volume(voxels, geometry), study, names=names, SeriesNumber=number, BurnedInAnnotation="YES", Modality="MR"
        )
    paths[2].unlink()

    def run():
        images, left_out = find_batch_images(study, output)
        assert not left_out
        items = segment_files(images, a_link, output)
        return {item.name: item.outcome for item in items if item.outcome is not None}

    assert run() == {"study-series1": "done", "study-series2": "failed"}
    records = Manifest(output).records
    assert "slices missing after slice 2" in records["study-series2"].error
    (warning,) = records["study-series1"].warnings
    assert "burnt into it" in warning
    assert read_volume(output / "study-series1.nii.gz").geometry.matches(geometry, 1e-3)
    assert run() == {"study-series1": "skipped", "study-series2": "failed"}

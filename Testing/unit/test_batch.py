"""Many volumes into one folder: reruns, failures, names, the manifest, lists, and the report."""

import json
import re
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import SimpleITK
import torch
from hypothesis import given
from hypothesis import strategies as st

from ppcmi.batch import segment_files
from ppcmi.batch_images import BatchImage, find_batch_images, result_names, without_repeats
from ppcmi.batch_manifest import MANIFEST, CaseRecord, Manifest
from ppcmi.batch_report import REPORT, write_report
from ppcmi.codec.refinement import SiteDecoder
from ppcmi.confidence import ENDING as CONFIDENCE
from ppcmi.errors import CancelledError, ConnectionFailedError, ReadError, ServerRefusedError, UsageError, WriteError
from ppcmi.pipeline import provenance_of
from ppcmi.reading import read_labels, read_volume
from ppcmi.result_files import ENDINGS
from ppcmi.sources import ImageSource, find_sources
from ppcmi.volume import Volume
from support.dicom import write_series
from support.private_link import HalvingServer, link_to, untrained_codec
from support.volumes import a_geometry


@pytest.fixture(scope="module")
def a_codec():
    return untrained_codec()


@pytest.fixture
def a_server(a_codec):
    return HalvingServer(task=a_codec.task.identity)


class Thresholds(SiteDecoder):
    """A decoder that finds the organ where the slice is bright, and the vessel where it is brightest."""

    def decode(self, latents, slices, profile):
        bright = slices[:, 0]
        shares = [bright < 0.5, (bright >= 0.5) & (bright < 0.9), bright >= 0.9, torch.zeros_like(bright)]
        return torch.stack([share.float() for share in shares], dim=1)


@pytest.fixture
def a_link(a_codec, a_server):
    return link_to(a_server, a_codec, decoder=Thresholds(a_codec))


@pytest.fixture
def scans(tmp_path):
    """Three small scans, their paths by name."""
    (tmp_path / "scans").mkdir()
    paths = [tmp_path / "scans" / f"{name}.nii.gz" for name in ("one", "two", "three")]
    for number, path in enumerate(paths):
        write_scan(path, number)
    return paths


def write_scan(path, seed):
    voxels = np.random.default_rng(seed).integers(0, 300, (4, 20, 22)).astype(np.float32)
    image = SimpleITK.GetImageFromArray(voxels)
    image.SetSpacing((1.0, 2.0, 3.0))
    SimpleITK.WriteImage(image, str(path))


def segmented(paths, link, output, **options):
    """Outcomes by name, in order."""
    items = segment_files([BatchImage(ImageSource(path)) for path in paths], link, output, **options)
    return {item.name: item.outcome for item in items if item.outcome is not None}


# ---- reruns and failures


def test_what_is_done_is_skipped_until_the_scan_changes(scans, a_link, tmp_path):
    output = tmp_path / "out"
    assert segmented(scans[:2], a_link, output) == {"one": "done", "two": "done"}
    assert segmented(scans, a_link, output) == {"one": "skipped", "two": "skipped", "three": "done"}
    (output / "one.nii.gz").unlink()
    write_scan(scans[2], seed=9)
    assert segmented(scans, a_link, output) == {"one": "done", "two": "skipped", "three": "done"}
    for ending in ("nii.gz", "seg.nrrd"):
        assert {path.name for path in output.glob(f"*.{ending}")} == {f"{n}.{ending}" for n in ("one", "two", "three")}


def test_a_refined_decoder_or_another_model_makes_results_anew(scans, a_codec, a_server, tmp_path):
    output, decoder = tmp_path / "out", SiteDecoder(a_codec)
    assert segmented(scans[:1], link_to(a_server, a_codec, decoder=decoder), output) == {"one": "done"}
    assert segmented(scans[:1], link_to(a_server, a_codec, decoder=SiteDecoder(a_codec)), output) == {"one": "skipped"}
    next(decoder.local.parameters()).data.add_(1e-3)
    assert segmented(scans[:1], link_to(a_server, a_codec, decoder=decoder), output) == {"one": "done"}
    assert segmented(scans[:1], link_to(a_server, a_codec, decoder=decoder, model=8), output) == {"one": "done"}


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


# ---- DICOM


def test_series_of_a_study_are_images_each_and_one_that_is_refused_fails_alone(a_link, tmp_path):
    study, output = tmp_path / "study", tmp_path / "study" / "out"
    geometry = a_geometry((5, 20, 22), (1.0, 2.0, 3.0))
    voxels = np.random.default_rng(0).integers(0, 300, geometry.shape).astype(np.int16)
    for number in (1, 2):
        names = [f"{number}-{k}" for k in range(5)]
        paths = write_series(
            Volume(voxels, geometry), study, names=names, SeriesNumber=number, BurnedInAnnotation="YES"
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


# ---- names


def named(*paths, known=None):
    return result_names([BatchImage(ImageSource(Path(path))) for path in paths], known)


def test_results_of_scans_with_the_same_name_do_not_overwrite_each_other():
    names = named("a/scan.nii.gz", "b/scan.mha", "b/c.d.nrrd", "x/b/scan.nii", "series")
    assert names == ["a-scan", "b-scan", "c.d", "b-scan-2", "series"]


def test_another_patient_s_results_from_an_earlier_run_are_not_overwritten(scans, a_link, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    write_scan(other / "one.nii.gz", seed=7)
    output = tmp_path / "out"
    segmented(scans[:1], a_link, output)
    before = (output / "one.nii.gz").read_bytes()
    assert segmented([other / "one.nii.gz"], a_link, output) == {"other-one": "done"}
    assert (output / "one.nii.gz").read_bytes() == before
    assert segmented([other / "one.nii.gz", scans[0]], a_link, output) == {"other-one": "skipped", "one": "skipped"}


def test_names_that_differ_in_case_alone_do_not_meet_on_a_disk_that_does_not_tell_them_apart():
    assert named("a/Scan.nii", "b/scan.nii") == ["Scan", "b-scan"]
    assert named("b/scan.nii", known={"SCAN": "/elsewhere/SCAN.nii"}) == ["b-scan"]


@given(
    st.lists(st.sampled_from(["a/x.nii", "b/x.nii", "c/a/x.nii", "x/x.nii", "a/X.mha", "a-x.nii"]), unique=True),
    st.dictionaries(st.sampled_from(["x", "a-x", "a-x-2", "X"]), st.sampled_from(["/q/x.nii", "/r/x.nii"]), max_size=3),
)
def test_no_two_images_ever_get_one_name(paths, known):
    names = named(*paths, known=known)
    assert len({name.casefold() for name in names}) == len(paths)
    assert not {name.casefold() for name in names} & {name.casefold() for name in known}


# ---- lists


def write_list(folder, text, encoding="utf-8"):
    path = folder / "worklist.csv"
    path.write_text(text, encoding=encoding)
    return path


def test_a_list_names_images_relative_to_itself_and_their_results(scans, a_link, tmp_path):
    rows = f"patient,image,name\nP1,scans/one.nii.gz,first\nP2,{scans[1]},\n,,\nP3,scans/gone.nii.gz,\n"
    images, left_out = find_batch_images(write_list(tmp_path, rows), tmp_path / "out")
    gone = tmp_path / "scans" / "gone.nii.gz"
    assert [(image.source.path, image.name) for image in images] == [
        (scans[0], "first"),
        (scans[1], None),
        (gone, None),
    ]
    assert not left_out
    items = segment_files(images, a_link, tmp_path / "out")
    assert {i.name: i.outcome for i in items if i.outcome} == {"first": "done", "two": "done", "gone": "failed"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("separator", [",", ";"])
def test_a_list_may_come_from_a_spreadsheet(encoding, separator, tmp_path):
    rows = separator.join(("image", "name")) + "\r\n" + separator.join(("scan.nii", "Müller")) + "\r\n"
    ((image,), _) = find_batch_images(write_list(tmp_path, rows, encoding), tmp_path)
    assert (image.source.path, image.name) == (tmp_path / "scan.nii", "Müller")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("file\nscan.nii\n", "no column 'image'"),
        ("", "no column 'image'"),
        ("image\n\n", "names no image"),
        ("image,name\na.nii,../up\n", "no file can have"),
        ("image,name\na.nii,.hidden\n", "no file can have"),
        ("image,name\na.nii,C:x\n", "no file can have"),
    ],
)
def test_a_list_that_cannot_be_used_is_one_sentence(text, reason, tmp_path):
    with pytest.raises(ReadError, match=reason):
        find_batch_images(write_list(tmp_path, text), tmp_path)


def test_bytes_that_are_no_text_are_no_list(tmp_path):
    path = tmp_path / "list.csv"
    path.write_bytes(bytes(range(128, 256)))
    with pytest.raises(ReadError, match="UTF-8"):
        find_batch_images(path, tmp_path)


def test_two_images_of_one_name_in_lists_are_refused():
    with pytest.raises(ReadError, match="same name"):
        result_names([BatchImage(ImageSource(Path(path)), name) for path, name in (("a.nii", "x"), ("b.nii", "X"))])


def test_an_image_that_is_given_twice_is_segmented_once(scans):
    once, again = ImageSource(scans[0]), ImageSource(scans[0].parent / ".." / "scans" / "one.nii.gz")
    (image,) = without_repeats([BatchImage(once), BatchImage(again, "mine"), BatchImage(once)])
    assert image.name == "mine"


# ---- the manifest


def test_a_manifest_that_was_cut_off_costs_one_case_not_the_run(scans, a_link, tmp_path):
    output = tmp_path / "out"
    segmented(scans[:2], a_link, output)
    manifest = output / MANIFEST
    manifest.write_text(manifest.read_text()[:-40])
    assert segmented(scans[:2], a_link, output) == {"one": "skipped", "two": "done"}
    assert segmented(scans[:2], a_link, output) == {"one": "skipped", "two": "skipped"}


def test_the_manifest_says_what_a_result_cost_and_came_from(scans, a_link, tmp_path):
    segmented(scans[:1], a_link, tmp_path / "out")
    (line,) = (tmp_path / "out" / MANIFEST).read_text().splitlines()
    record = json.loads(line)
    assert record["bytes_sent"] > 0
    assert record["made_from"]["model"] == "7"
    assert record["made_from"]["source"] == str(scans[0])
    assert record["seconds"]["encode"] > 0
    assert record["total_seconds"] >= sum(record["seconds"].values()) * 0.9
    assert record["slices"] == 4


lines = st.one_of(
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")),
    st.builds(
        json.dumps,
        st.dictionaries(
            st.sampled_from(["name", "outcome", "made_from", "error", "more"]),
            st.one_of(st.none(), st.integers(), st.just("done"), st.just({}), st.lists(st.integers(), max_size=1)),
        ),
    ),
)


@given(st.lists(lines), st.binary(max_size=30))
def test_no_line_of_a_manifest_is_fatal_and_a_good_one_is_found_among_them(tmp_path_factory, texts, end):
    folder = tmp_path_factory.mktemp("manifest")
    good = CaseRecord("ours", "done", {"model": "1"})
    content = "".join(f"{text}\n" for text in texts).encode() + end
    (folder / MANIFEST).write_bytes(content)
    manifest = Manifest(folder)
    manifest.append(good)
    assert Manifest(folder).records["ours"] == good == manifest.records["ours"]


# ---- volumes, pictures, the report


def test_volumes_in_the_manifest_are_those_of_the_mask_that_was_written(scans, a_link, tmp_path):
    segmented(scans[:1], a_link, tmp_path / "out")
    written = read_labels(tmp_path / "out" / "one.nii.gz")
    expected = {label.name: 0.006 * np.sum(written.voxels == label.value) for label in a_link.task.labels}
    assert sum(expected.values()) > 0
    assert Manifest(tmp_path / "out").records["one"].volumes_ml == pytest.approx(expected, abs=1e-3)


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def links(self):
        return [v for tag, attributes in self.tags for key, v in attributes.items() if key in ("src", "href")]


@pytest.fixture
def a_report(scans, a_link, tmp_path):
    """The page of two results and a failure, one of them of an awkward name."""
    awkward = scans[0].with_name("<b> & 100% #1?.nii.gz")
    scans[0].rename(awkward)
    scans[1].write_bytes(b"no image")
    segmented([awkward, *scans[1:]], a_link, tmp_path / "out")
    records = Manifest(tmp_path / "out").records.values()
    return write_report(tmp_path / "out", a_link.task, records, provenance_of(a_link))


def test_the_report_shows_every_volume_with_what_became_of_it(a_report):
    page = Page(a_report)
    assert a_report.name == REPORT
    for text in ("<b> & 100% #1?", "three", "two", "cannot be read", "stays at the site", "not a medical device"):
        assert text in " ".join(page.text.split())
    for text in ("model 7", "profile coarse", "2 volumes segmented, 1 not", "SimpleITK", "Organ", "kB"):
        assert text in page.text


def test_every_link_of_the_report_is_a_file_beside_it_and_nothing_is_loaded_from_elsewhere(a_report):
    links = Page(a_report).links()
    assert len(links) == 2 * (2 + 2)  # two files, the picture and a link to it
    for link in links:
        assert (a_report.parent / unquote(link)).is_file()
    content = a_report.read_text()
    assert not re.search(r"https?://|//\w|<script|@import|url\(", content)


def test_the_report_has_the_warnings_about_a_scan(a_report, a_link):
    records = list(Manifest(a_report.parent).records.values())
    sentence = "Names may be burnt into the pixels <here>."
    warned = [replace(record, warnings=[sentence]) if record.name == "three" else record for record in records]
    assert sentence not in Page(a_report).text
    assert Page(write_report(a_report.parent, a_link.task, warned, provenance_of(a_link))).text.count(sentence) == 1


def test_the_report_leaves_out_results_that_are_gone(a_report, a_link):
    (a_report.parent / "three.nii.gz").unlink()
    records = Manifest(a_report.parent).records.values()
    assert "three" not in Page(write_report(a_report.parent, a_link.task, records, provenance_of(a_link))).text


def test_the_picture_is_a_png_with_the_structures_colors(a_report, a_link):
    data = (a_report.parent / "report" / "three.png").read_bytes()
    picture = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(a_report.parent / "report" / "three.png")))
    assert data.startswith(b"\x89PNG")
    assert zlib.crc32(b"IEND") == int.from_bytes(data[-4:], "big")
    assert picture.shape == (400, 220, 3)  # 20 rows of 2 mm, 22 columns of 1 mm
    found = {tuple(int(c) for c in color) for color in np.unique(picture.reshape(-1, 3), axis=0)}
    assert found & {label.color for label in a_link.task.labels}

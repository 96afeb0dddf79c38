"""What a batch says of itself: the manifest, volumes, pictures and the report."""

import json
import re
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest
import SimpleITK
from hypothesis import given
from hypothesis import strategies as st

from ppcmi.batch_manifest import MANIFEST, CaseRecord, Manifest
from ppcmi.batch_report import REPORT, write_report
from ppcmi.pipeline import provenance_of
from ppcmi.reading import read_labels
from support.batch_runs import segmented


def test_a_manifest_that_was_cut_off_costs_one_case_not_the_run(scans, a_link, tmp_path):
    output = tmp_path / "out"
    segmented(scans[:2], a_link, output)
    manifest = output / MANIFEST
    manifest.write_text(manifest.read_text()[:-40])
    assert segmented(scans[:2], a_link, output) == {"one": "skipped", "two": "done"}
    assert segmented(scans[:2], a_link, output) == {"one": "skipped", "two": "skipped"}


def test_the_manifest_says_what_a_result_cost_and_came_from(scans, a_link, tmp_path):
    segmented(scans[:1], a_link, tmp_path / "out")
    begun, line = (tmp_path / "out" / MANIFEST).read_text().splitlines()
    record = json.loads(line)
    assert json.loads(begun)["made_from"] == record["made_from"]
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


def test_a_scan_in_which_nothing_was_found_is_done_and_known_by_its_record(scans, a_dark_scan, a_link, tmp_path):
    output = tmp_path / "out"
    scans[1].write_bytes(b"no image")
    outcomes = segmented([a_dark_scan, *scans], a_link, output)
    assert outcomes == {"dark": "done", "one": "done", "two": "failed", "three": "done"}
    found_nothing = {name: record.found_nothing for name, record in Manifest(output).records.items()}
    assert found_nothing == {"dark": True, "one": False, "two": False, "three": False}
    assert segmented([a_dark_scan], a_link, output) == {"dark": "skipped"}


def test_the_report_says_where_nothing_was_found(scans, a_dark_scan, a_link, tmp_path):
    output = tmp_path / "out"

    def text_of(*paths):
        segmented(paths, a_link, output)
        return Page(write_report(output, a_link.task, Manifest(output).records.values(), provenance_of(a_link))).text

    assert "No structure was found in it." not in (before := text_of(*scans[:2]))
    assert "2 volumes segmented, 0 not. For them" in before
    assert (after := text_of(a_dark_scan)).count("No structure was found in it.") == 1
    assert "3 volumes segmented, 0 not. In 1 of them no structure was found. For them" in after


def test_a_record_without_volumes_does_not_say_that_nothing_was_found():
    assert not CaseRecord("of an older version", "done", {}).found_nothing


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

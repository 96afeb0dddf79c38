"""Segments find their labels by codes and names, left is never right, and nothing is guessed or hidden."""

import dataclasses

import numpy as np
import pytest
import SimpleITK
from hypothesis import given
from hypothesis import strategies as st

from ppcmi.case_checks import Kind, check_case, check_labels, check_matching, check_overlap
from ppcmi.cli.main import main
from ppcmi.data_folders import CaseFiles
from ppcmi.errors import CasesFailedError, ReadError
from ppcmi.label_matching import Reason, SegmentFacts, match_segments, name_key
from ppcmi.label_overlap import OverlapError, combine_segments
from ppcmi.task import Code, Label
from ppcmi.task_labels import read_segments, read_task_labels
from ppcmi.task_profile import Membership
from ppcmi.volume import Volume
from ppcmi.writing import terminology_entry, write_segmentation
from support.private_link import TASK_FILE, small_task
from support.relay import relay_for
from support.volumes import a_geometry, a_task

ORGAN = Code("SCT", "123037004", "Anatomical Structure")
KIDNEY, LIVER = Code("SCT", "64033007", "Kidney"), Code("SCT", "10200004", "Liver")
LEFT, RIGHT = Code("SCT", "7771000", "Left"), Code("SCT", "24028007", "Right")
SLICER_DEFAULT = (
    "Segmentation category and type - 3D Slicer General Anatomy list~SCT^85756007^Tissue~SCT^85756007^Tissue~^^~"
    "Anatomic codes - DICOM master list~^^~^^"
)


def a_kidney_task(with_modifiers=True):
    def label(value, name, kind, modifier=None):
        return Label(value, name, (0, 0, 0), ORGAN, kind, modifier if with_modifiers else None)

    labels = (
        label(1, "Left kidney", KIDNEY, LEFT), label(2, "Right kidney", KIDNEY, RIGHT), label(3, "Liver", LIVER)
    )  # fmt: skip
    return dataclasses.replace(a_task(), labels=labels)


TASK = a_kidney_task()


def named(*names, terminology=""):
    return [SegmentFacts(f"Segment_{i}", name, terminology, i) for i, name in enumerate(names, start=1)]


def pairs(matching, segments):
    names = {segment.id: segment.name for segment in segments}
    return {m.label.name: names.get(m.segment) for m in matching.matches}


@pytest.mark.parametrize(
    "names",
    [
        ("Right kidney", "Left kidney", "Liver"),
        ("KIDNEY_RIGHT", "kidney_left", "LIVER"),
        ("kidney-r", "kidney-l", " liver "),
        ("RightKidney", "LeftKidney", "Liver."),
        ("rightkidney", "leftkidney", "liver"),
        ("R Kidney", "L. Kidney", "(Liver)"),
        ("Kidney (rt)", "Kidney [lt]", "Li\u0301ver"),
    ],
)
@pytest.mark.parametrize("default", ["", SLICER_DEFAULT])
def test_names_match_however_they_are_written(names, default):
    segments = named(*names, terminology=default)
    matching = match_segments(segments, TASK)
    assert pairs(matching, segments) == {"Left kidney": names[1], "Right kidney": names[0], "Liver": names[2]}
    assert {match.reason for match in matching.matches} == {Reason.NAME}
    assert not matching.unmatched


def test_codes_count_more_than_names():
    segments = [
        SegmentFacts("a", "Segment_1", terminology_entry(TASK.labels[1])),
        SegmentFacts("b", "linke Niere", terminology_entry(TASK.labels[0])),
        SegmentFacts("c", "Liver", terminology_entry(TASK.labels[2])),
    ]
    matching = match_segments(segments, TASK)
    assert [matching.segment_of(value) for value in (1, 2, 3)] == ["b", "a", "c"]
    assert {match.reason for match in matching.matches} == {Reason.TERMINOLOGY}


def test_codes_of_another_case_or_meaning_are_the_same_codes():
    entry = terminology_entry(TASK.labels[2]).replace("SCT^10200004^Liver", "sct^10200004^Foie")
    matching = match_segments([SegmentFacts("a", "?", entry)], TASK)
    assert matching.segment_of(3) == "a"


def test_a_kidney_without_a_side_is_neither():
    entry = terminology_entry(Label(1, "Kidney", (0, 0, 0), ORGAN, KIDNEY))
    matching = match_segments([SegmentFacts("a", "Kidney", entry)], TASK)
    assert not matching.found
    assert matching.unmatched == ("a",)


def test_a_name_that_contradicts_the_codes_side_is_left_to_the_user():
    segments = [SegmentFacts("a", "Right kidney", terminology_entry(TASK.labels[0]))]
    task = a_kidney_task(with_modifiers=False)
    assert match_segments(segments, TASK).segment_of(1) is None
    plain = terminology_entry(task.labels[0])
    matching = match_segments([SegmentFacts("a", "Kidney right", plain), SegmentFacts("b", "Left kidney", plain)], task)
    assert [matching.segment_of(value) for value in (1, 2)] == ["b", "a"]


@pytest.mark.parametrize("names", [("Liver", "liver"), ("Left kidney", "kidney left")])
def test_of_two_that_fit_none_is_taken(names):
    matching = match_segments(named(*names), TASK)
    assert not matching.found
    assert len(matching.unmatched) == 2


def test_two_with_the_same_codes_are_told_apart_by_name():
    entry = terminology_entry(TASK.labels[2])
    segments = [SegmentFacts("a", "Liver", entry), SegmentFacts("b", "Liver metastasis?", entry)]
    matching = match_segments(segments, TASK)
    assert matching.segment_of(3) == "a"
    assert matching.unmatched == ("b",)


@pytest.mark.parametrize(
    "entry", ["", "~", "a~b~c", "~~~~~~", "x~SCT^1~SCT^1~^^~y~^^~^^", "^" * 40, SLICER_DEFAULT + "~"]
)
def test_a_damaged_entry_is_as_good_as_none(entry):
    assert match_segments([SegmentFacts("a", "Liver", entry)], TASK).segment_of(3) == "a"
    assert match_segments([SegmentFacts("a", "?", entry)], TASK).segment_of(3) is None


words = st.text(st.characters(categories=["Lu", "Ll", "Nd"], max_codepoint=0x24F), min_size=2, max_size=8)


@given(
    first=words.filter(
        lambda word: name_key(word)[0] is None and len(name_key(word)[1]) == 1
    ),  # aR is two, the one a side
    left=st.sampled_from(["left", "L", "LT", "Left"]),
    right=st.sampled_from(["right", "R", "RT", "Right"]),
    form=st.sampled_from(["{0}_{1}", "{1} {0}", "{0} ({1})", "{1}.{0}", "{0}-{1}"]),
    other=st.sampled_from(["{0}_{1}", "{1} {0}", "{0} ({1})"]),
)
def test_left_is_never_right(first, left, right, form, other):
    assert name_key(form.format(first, left)) != name_key(other.format(first, right))
    assert name_key(form.format(first, left)) == name_key(other.format(first, left.upper()))
    task = a_kidney_task(with_modifiers=False)
    task = dataclasses.replace(task, labels=(dataclasses.replace(task.labels[0], name=f"{first} left"),))
    assert not match_segments(named(form.format(first, right)), task).found


def test_a_choice_is_kept_and_takes_a_segment_from_its_label():
    segments = named("Right kidney", "Left kidney", "Mass")
    matching = match_segments(segments, TASK).choose(3, "Segment_3")
    assert (matching.segment_of(3), matching.unmatched) == ("Segment_3", ())
    moved = matching.choose(3, "Segment_1")
    assert [moved.segment_of(value) for value in (1, 2, 3)] == ["Segment_2", None, "Segment_1"]
    assert moved.matches[2].reason is Reason.CHOSEN
    assert moved.unmatched == ("Segment_3",)
    assert moved.choose(3, None).unmatched == ("Segment_3", "Segment_1")
    assert matching.choose(1, "Segment_2").segment_of(1) == "Segment_2"
    for value, segment in ((9, "Segment_1"), (1, "Segment_9")):
        with pytest.raises(ValueError, match="no such"):
            matching.choose(value, segment)


def masks(*boxes):
    """Masks by value in a 10 x 10 x 10 volume from slices along the first axis."""
    result = {}
    for value, box in enumerate(boxes, start=1):
        result[value] = np.zeros((10, 10, 10), bool)
        result[value][box] = True
    return result


def test_segments_without_overlap_are_what_they_were():
    combined = combine_segments(masks(slice(0, 3), slice(5, 6)))
    assert (combined.overlapping, combined.labelled, dict(combined.overlaps)) == (0, 400, {})
    assert combined.voxels.dtype == np.uint8
    assert np.bincount(combined.voxels.ravel()).tolist() == [600, 300, 100]


def test_much_overlap_needs_the_users_order_and_little_goes_to_the_smaller():
    overlapping = masks(slice(0, 5), slice(4, 6))
    with pytest.raises(OverlapError, match="100 voxels"):
        combine_segments(overlapping)
    first, second = (combine_segments(overlapping, priority=order).voxels for order in ((1, 2), (2,)))
    assert (np.count_nonzero(first == 1), np.count_nonzero(first == 2)) == (500, 100)
    assert (np.count_nonzero(second == 1), np.count_nonzero(second == 2)) == (400, 200)
    a_little = masks(slice(0, 9), (9, 9))
    a_little[2][0, 0, 0] = True
    combined = combine_segments(a_little, most_overlap=0.01)
    assert combined.voxels[0, 0, 0] == 2
    assert dict(combined.overlaps) == {(1, 2): 1}
    (finding,) = check_overlap(combined, TASK)
    assert finding.sentence == "Left kidney and Right kidney overlap in 1 voxel."


def test_an_order_that_leaves_a_dispute_open_is_not_enough():
    three = masks(slice(0, 2), slice(4, 8), slice(6, 10))
    with pytest.raises(OverlapError):
        combine_segments(three, priority=(1,))
    assert combine_segments(three, priority=(3,)).voxels[6, 0, 0] == 3
    with pytest.raises(ValueError, match="one shape"):
        combine_segments({1: np.ones((2, 2, 2), bool), 2: np.ones((2, 2, 3), bool)})


@given(st.lists(st.lists(st.booleans(), min_size=8, max_size=8), min_size=1, max_size=4), st.permutations([1, 2, 3, 4]))
def test_every_voxel_gets_the_first_of_its_claimants(claims, order):
    given_masks = {value: np.array(row).reshape(2, 2, 2) for value, row in enumerate(claims, start=1)}
    combined = combine_segments(given_masks, priority=order)
    for place in np.ndindex(2, 2, 2):
        expected = next((v for v in order if v in given_masks and given_masks[v][place]), 0)
        assert combined.voxels[place] == expected
    assert combined.labelled == np.any(list(given_masks.values()), axis=0).sum()


def labels_in(shape=(12, 40, 40), **boxes):
    voxels = np.zeros(shape, np.uint8)
    for name, box in boxes.items():
        voxels[box] = int(name.removeprefix("value"))
    return Volume(voxels, a_geometry(shape))


def kinds(findings, prevents=None):
    return [f.kind for f in findings if prevents in (None, f.prevents)]


def test_a_good_case_has_no_findings():
    labels = labels_in(value1=np.s_[2:5], value2=np.s_[5:8], value3=np.s_[8:9])
    assert check_labels(labels.geometry, labels, TASK) == []


def test_what_makes_a_case_useless_is_found_and_prevents_its_export():
    labels = labels_in()
    assert kinds(check_labels(labels.geometry, labels, TASK), prevents=True) == [Kind.EMPTY]
    other = labels_in(value4=np.s_[2:5])
    assert Kind.UNKNOWN_VALUE in kinds(check_labels(other.geometry, other, TASK), prevents=True)
    elsewhere = a_geometry((12, 40, 40), origin=(5, 0, 0))
    assert kinds(check_labels(elsewhere, other, TASK), prevents=True) == [Kind.GEOMETRY]
    tiny = dataclasses.replace(TASK, slicing=dataclasses.replace(TASK.slicing, size=(32, 32), spacing_mm=(1.0, 1.0)))
    outside = labels_in((12, 80, 80), value1=np.s_[:, :10, :10])
    assert kinds(check_labels(outside.geometry, outside, tiny), prevents=True) == [Kind.CROPPED]


def test_what_is_only_odd_is_said_and_does_not_prevent():
    labels = labels_in(value1=np.s_[4:5], value3=np.s_[5:6])
    findings = check_labels(labels.geometry, labels, TASK)
    assert kinds(findings) == [Kind.LABEL_EMPTY, Kind.FEW_SLICES]
    assert "Right kidney does not occur" in findings[0].sentence
    assert "Only 2 of 12 slices" in findings[1].sentence
    assert not any(finding.prevents for finding in findings)
    single = labels_in((1, 40, 40), value1=np.s_[0, :9], value2=np.s_[0, 9:12], value3=np.s_[0, 20:])
    assert check_labels(single.geometry, single, TASK) == []


def test_a_label_without_a_segment_prevents_while_a_segment_is_left_that_might_be_it():
    matching = match_segments(named("Something", "Liver"), TASK)
    findings = check_matching(matching)
    assert kinds(findings, prevents=True) == [Kind.UNMATCHED_LABEL, Kind.UNMATCHED_LABEL]
    assert kinds(findings) == [Kind.UNMATCHED_LABEL, Kind.UNMATCHED_LABEL, Kind.UNMATCHED_SEGMENT]
    for match in matching.missing:
        matching = matching.choose(match.label.value, None)
    findings = check_matching(matching)
    assert kinds(findings) == [Kind.UNMATCHED_LABEL, Kind.UNMATCHED_LABEL, Kind.UNMATCHED_SEGMENT]
    assert not any(finding.prevents for finding in findings)
    alone = check_matching(match_segments(named("Liver"), TASK))
    assert kinds(alone) == [Kind.UNMATCHED_LABEL, Kind.UNMATCHED_LABEL]
    assert not any(finding.prevents for finding in alone)


def test_a_matching_without_any_label_prevents():
    findings = check_matching(match_segments(named("Something"), TASK))
    assert kinds(findings, prevents=True) == [Kind.UNMATCHED_LABEL]
    assert "Something" not in " ".join(finding.sentence for finding in findings)


def segmentation_file(path, labels, numbering, names=None):
    """A ``.seg.nrrd`` as 3D Slicer would save it with another order of segments than the task's."""
    task = small_task()
    write_segmentation(labels, task, path, {})
    image = SimpleITK.ReadImage(str(path))
    lookup = np.zeros(256, np.uint8)
    for value, number in numbering.items():
        lookup[value] = number
    renumbered = SimpleITK.GetImageFromArray(lookup[labels.voxels])
    renumbered.CopyInformation(image)
    for index, label in enumerate(task.labels):
        renumbered.SetMetaData(f"Segment{index}_ID", f"Segment_{index + 1}")
        renumbered.SetMetaData(f"Segment{index}_Name", (names or {}).get(label.value, label.name))
        renumbered.SetMetaData(f"Segment{index}_LabelValue", str(numbering[label.value]))
        if names is None:
            renumbered.SetMetaData(f"Segment{index}_Tags", f"A:b|TerminologyEntry:{terminology_entry(label)}|")
    SimpleITK.WriteImage(renumbered, str(path))
    return path


@pytest.fixture
def some_labels():
    return labels_in((6, 40, 40), value1=np.s_[1:5, 4:20], value2=np.s_[1:5, 22:30], value3=np.s_[1:5, 31:33])


@pytest.mark.parametrize("names", [None, {1: "organ", 2: "VESSEL", 3: "lesion "}])
def test_numbers_in_a_segmentation_file_count_by_what_they_are_called(some_labels, names, tmp_path):
    path = segmentation_file(tmp_path / "x.seg.nrrd", some_labels, {1: 3, 2: 1, 3: 7}, names)
    assert {segment.value for segment in read_segments(path)} == {1, 3, 7}
    labels = read_task_labels(path, small_task())
    np.testing.assert_array_equal(labels.voxels, some_labels.voxels)
    assert labels.geometry.matches(some_labels.geometry)


def test_segments_that_nobody_named_and_files_without_names_count_by_number(some_labels, tmp_path):
    names = {1: "Segment_1", 2: "Segment 2", 3: ""}
    path = segmentation_file(tmp_path / "x.seg.nrrd", some_labels, {1: 1, 2: 2, 3: 3}, names)
    np.testing.assert_array_equal(read_task_labels(path, small_task()).voxels, some_labels.voxels)
    write_segmentation(some_labels, small_task(), tmp_path / "x.nii.gz", {})
    np.testing.assert_array_equal(read_task_labels(tmp_path / "x.nii.gz", small_task()).voxels, some_labels.voxels)


def test_a_segment_that_may_be_a_missing_label_is_not_silently_background(some_labels, tmp_path):
    path = segmentation_file(
        tmp_path / "x.seg.nrrd", some_labels, {1: 1, 2: 2, 3: 3}, {1: "organ", 2: "vessel", 3: "Tumor Jane Doe"}
    )
    with pytest.raises(ReadError, match="Lesion") as caught:
        read_task_labels(path, small_task())
    assert "Jane" not in str(caught.value)


def test_a_folder_is_checked_by_command_before_it_is_exported(some_labels, tmp_path, capsys):
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    image = SimpleITK.GetImageFromArray(np.random.default_rng(1).random((6, 40, 40)).astype(np.float32))
    write_segmentation(some_labels, small_task(), tmp_path / "labels" / "good.nii.gz", {})
    image.CopyInformation(SimpleITK.ReadImage(str(tmp_path / "labels" / "good.nii.gz")))
    for name in ("good", "bad"):
        SimpleITK.WriteImage(image, str(tmp_path / "images" / f"{name}.nii.gz"))
    empty = Volume(np.zeros_like(some_labels.voxels), some_labels.geometry)
    write_segmentation(empty, small_task(), tmp_path / "labels" / "bad.nii.gz", {})
    case = CaseFiles("bad", tmp_path / "images" / "bad.nii.gz", tmp_path / "labels" / "bad.nii.gz")
    (finding,) = check_case(case, small_task())
    assert finding.prevents
    with relay_for(TASK_FILE.read_text()) as relay:
        site = relay.enrol(tmp_path, "Hospital A")
    site.add_task(small_task(), Membership("site", "two-layer", founder=True), bytes(32))
    code = main(["cohort", "check", "--task", "phantom", "--cases", str(tmp_path), "--site", str(site.folder)])
    out = capsys.readouterr().out
    assert code == CasesFailedError.exit_code
    assert "bad: cannot be exported" in out
    assert "1 of 2 labelled cases can be exported." in out

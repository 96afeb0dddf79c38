"""Which images a batch is of, and what their results are called: names and lists."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppcmi.batch import segment_files
from ppcmi.batch_images import LONGEST_NAME, BatchImage, find_batch_images, result_names, without_repeats
from ppcmi.errors import ReadError
from ppcmi.result_files import ALL_ENDINGS
from ppcmi.sources import ImageSource
from support.batch_runs import segmented, write_scan


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


@pytest.mark.parametrize("letter", ["x", "ü", "骨"])
def test_names_too_long_for_a_file_are_cut_by_their_bytes_and_stay_apart(letter, tmp_path):
    long = letter * (LONGEST_NAME // len(letter.encode()))
    names = named(f"a/{long}1.nii", f"a/{long}2.nii", f"b/{long}1.nii", f"{long}.nii")
    assert len({name.casefold() for name in names}) == 4
    assert names == named(f"a/{long}1.nii", f"a/{long}2.nii", f"b/{long}1.nii", f"{long}.nii")
    for name in names:
        assert len(name.encode()) <= LONGEST_NAME
        (tmp_path / f".{name}{max(ALL_ENDINGS, key=len)}.01234567.tmp").touch()
    assert names[3] == long


def test_a_long_name_in_a_list_is_cut_too(scans, tmp_path):
    ((image,), _) = find_batch_images(write_list(tmp_path, f"image,name\nscans/one.nii.gz,{'ü' * 300}\n"), tmp_path)
    (name,) = result_names([image])
    assert name.startswith("ü" * 80)
    assert len(name.encode()) <= LONGEST_NAME


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

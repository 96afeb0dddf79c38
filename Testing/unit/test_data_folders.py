import numpy as np
import pytest
import SimpleITK

from ppcmi.data_folders import find_cases
from ppcmi.errors import ReadError
from ppcmi.sources import find_images, find_sources
from support.dicom import write_series
from support.volumes import a_geometry, smooth_labels


@pytest.fixture
def a_folder(tmp_path):
    """Three images in two formats, labels of two of them, and a table."""
    for part, names in (("images", ("a.nii.gz", "b.c.nrrd", "d.mha")), ("labels", ("a.nrrd", "d.seg.nrrd"))):
        (tmp_path / part).mkdir()
        for name in names:
            save_image(tmp_path / part / name)
    (tmp_path / "images" / ".hidden.nii").touch()
    (tmp_path / "images" / "readme.txt").write_text("hello")
    (tmp_path / "split.csv").write_text("id,fold,site,age\na,train,A,61\nb.c,,B,\nunknown,test,C,50\n")
    return tmp_path


def save_image(path):
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((2, 3, 4), np.uint8)), str(path))


def test_cases_are_images_with_what_belongs_to_them(a_folder):
    first, second, third = find_cases(a_folder)
    assert (first.name, first.image.name, first.label.name) == ("a", "a.nii.gz", "a.nrrd")
    assert (first.fold, first.site, first.attributes) == ("train", "A", {"age": "61"})
    assert (second.name, second.label, second.fold, second.site) == ("b.c", None, None, "B")
    assert (third.name, third.label.name, third.fold, third.attributes) == ("d", "d.seg.nrrd", None, {})


def test_a_folder_named_label_and_no_table_will_do(a_folder):
    (a_folder / "labels").rename(a_folder / "label")
    (a_folder / "split.csv").unlink()
    assert [case.label is not None for case in find_cases(a_folder)] == [True, False, True]
    assert {case.fold for case in find_cases(a_folder)} == {None}


def test_a_dicom_folder_is_an_image(a_folder):
    series = a_folder / "images" / "series"
    write_series(smooth_labels(a_geometry((3, 8, 8)), 1, 0, 2.0), series)
    assert find_cases(a_folder)[-1].name == "series"
    assert find_images(series) == [series]
    assert [image.name for image in find_images(a_folder / "images")] == ["a.nii.gz", "b.c.nrrd", "d.mha", "series"]
    assert find_images(a_folder / "images" / "a.nii.gz") == [a_folder / "images" / "a.nii.gz"]


@pytest.mark.parametrize("comma", [",", ";"])
def test_a_table_from_a_spreadsheet_is_read(comma, a_folder):
    (a_folder / "split.csv").write_bytes(f"\ufeffid{comma}fold\r\na{comma}val\r\n".encode())
    assert find_cases(a_folder)[0].fold == "val"


def test_blanks_and_capitals_do_not_have_a_fold_ignored(a_folder):
    (a_folder / "split.csv").write_text("ID, Fold ,age\na , test, 61\nb.c,train,50\n")
    first, second, third = find_cases(a_folder)
    assert [case.fold for case in (first, second, third)] == ["test", "train", None]
    assert first.attributes == {"age": "61"}


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (b"id,fold\na.nii.gz,train\nd.mha,test\n", "names none of its images"),
        (b"name,fold\na,train\n", "no column 'id'"),
        (b"", "no column 'id'"),
        (b"id,fold\na,training\n", "in line 2 where 'fold' is train, val or test"),
        (b"id,fold\na,train\na,test\n", "names a case twice"),
        (b"id,fold\na\xff,train\n", "not a table of comma-separated UTF-8"),
        (b'id,fold\n"' + b"a" * 200_000, "not a table of comma-separated UTF-8"),
    ],
)
def test_a_table_that_is_wrong_is_one_sentence(a_folder, table, sentence):
    (a_folder / "split.csv").write_bytes(table)
    with pytest.raises(ReadError, match=sentence) as caught:
        find_cases(a_folder)
    assert str(a_folder) not in str(caught.value)


def test_two_images_of_one_name_are_refused(a_folder):
    save_image(a_folder / "images" / "a.mha")
    with pytest.raises(ReadError, match="same name but for their ending"):
        find_cases(a_folder)


def test_a_folder_that_is_not_there_is_said(tmp_path):
    with pytest.raises(ReadError, match="no such data folder"):
        find_cases(tmp_path / "nope")


def test_folders_without_images_are_refused(tmp_path):
    with pytest.raises(ReadError, match="no folder 'images'"):
        find_cases(tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(ReadError, match="no image of a known format"):
        find_cases(tmp_path)
    with pytest.raises(ReadError, match="no image at the place given"):
        find_images(tmp_path / "missing")


def test_images_are_found_in_folders_within_folders_but_not_among_the_results(a_folder):
    images = a_folder / "images"
    results, study = images / "results", images / "patient" / "study"
    for folder in (results, study, a_folder / "empty"):
        folder.mkdir(parents=True)
    save_image(results / "x.nii.gz")
    save_image(study / "x.nii.gz")
    found = [str(image.path.relative_to(images)) for image in find_sources(images, without=results).images]
    assert found == ["a.nii.gz", "b.c.nrrd", "d.mha", "patient/study/x.nii.gz"]
    with pytest.raises(ReadError, match="same folder"):
        find_sources(results, without=results)
    with pytest.raises(ReadError, match="no DICOM images and no files of another known format"):
        find_sources(a_folder / "empty", without=results)

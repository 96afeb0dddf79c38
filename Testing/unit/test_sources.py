"""Where images are found: any folder tree, by what files say; names, keys, and what is left out."""

import shutil

import numpy as np
import pytest
import SimpleITK
from pydicom.uid import (
    BasicTextSRStorage,
    EncapsulatedPDFStorage,
    MediaStorageDirectoryStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    VLWholeSlideMicroscopyImageStorage,
    generate_uid,
)

from ppcmi.errors import ReadError
from ppcmi.reading import read_image, read_volume
from ppcmi.sources import LABELS, find_sources, only_source
from ppcmi.volume import Volume
from support.dicom import write_series
from support.dicom_pictures import a_picture, save
from support.volumes import a_geometry


def a_scan(slices=4, seed=0):
    voxels = np.random.default_rng(seed).integers(0, 1000, (slices, 5, 6)).astype(np.int16)
    return Volume(voxels, a_geometry(voxels.shape, (1.0, 1.0, 2.0)))


def names_in(place, **options):
    return [source.name for source in find_sources(place, **options).images]


def test_files_of_a_series_are_one_image_wherever_they_lie_and_whatever_they_are_called(tmp_path):
    scan = a_scan(6)
    folder = tmp_path / "study"
    for number, path in enumerate(write_series(scan, folder, SeriesNumber=3)):
        place = folder / ("DISC1" if number % 2 else "DISC2/part")
        place.mkdir(parents=True, exist_ok=True)
        path.rename(place / f"{7 * number % 5}{number}")
    (source,) = find_sources(tmp_path).images
    assert (source.path, source.name, source.key) == (folder, "study", str(folder.resolve()))
    np.testing.assert_array_equal(read_image(source).volume.voxels, scan.voxels)


def test_series_in_one_folder_are_images_of_their_own_by_their_numbers(tmp_path):
    folder = tmp_path / "export"
    scans = {10: a_scan(seed=1), 2: a_scan(seed=2), None: a_scan(seed=3)}
    for number, scan in scans.items():
        write_series(scan, folder, names=[f"{number}-{k}" for k in range(4)], SeriesNumber=number or "")
    found = find_sources(tmp_path).images
    assert [source.name for source in found] == ["export-series2", "export-series10", "export-series"]
    assert len({source.key for source in found}) == 3
    assert all(source.key.startswith(f"{folder.resolve()}#") for source in found)
    for source, number in zip(found, (2, 10, None), strict=True):
        np.testing.assert_array_equal(read_image(source).volume.voxels, scans[number].voxels)
    again = find_sources(tmp_path).images
    assert [source.key for source in again] == [source.key for source in found]


def test_two_series_of_one_number_are_counted(tmp_path):
    for part in "ab":
        write_series(a_scan(), tmp_path / "x", names=[f"{part}{k}" for k in range(4)], SeriesNumber=5)
    assert names_in(tmp_path) == ["x-series5-1", "x-series5-2"]


def test_no_description_or_date_is_in_a_name(tmp_path):
    write_series(a_scan(), tmp_path / "x", SeriesDescription="MILLER HEAD", SeriesDate="20200101", PatientName="Miller")
    (source,) = find_sources(tmp_path).images
    assert source.name == "x"


@pytest.mark.parametrize("beginning", ["preamble", "meta", "data set"])
def test_files_without_preamble_or_ending_are_dicom_files_too(tmp_path, beginning):
    scan = a_scan()
    for path in write_series(scan, tmp_path / "x", names=["a", "b", "c", "d"]):
        content = path.read_bytes()
        if beginning == "meta":
            path.write_bytes(content[132:])
        elif beginning == "data set":
            data = content.index(b"\x08\x00\x16\x00")
            path.write_bytes(content[data:])
    if beginning == "data set":  # its encoding is then guessed, implicit or explicit
        assert read_volume(tmp_path / "x").voxels.shape == scan.voxels.shape
    np.testing.assert_array_equal(read_volume(tmp_path / "x").voxels, scan.voxels)


def test_what_is_no_image_is_left_out_with_its_reason(tmp_path):
    folder = tmp_path / "x"
    write_series(a_scan(), folder, SeriesNumber=1)
    gray, color = np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.uint8)
    others = {
        "seg": a_picture(gray, SegmentationStorage), "report": a_picture(gray, BasicTextSRStorage),
        "pdf": a_picture(gray, EncapsulatedPDFStorage), "screen": a_picture(gray, SecondaryCaptureImageStorage),
        "slide": a_picture(color, VLWholeSlideMicroscopyImageStorage), "private": a_picture(gray, "1.2.3.4.5"),
        "scout": a_picture(gray, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "map": a_picture(color),
    }  # fmt: skip
    for number, (name, dataset) in enumerate(others.items(), start=2):
        dataset.SeriesNumber = number
        save(dataset, folder / name)
    save(a_picture(gray, MediaStorageDirectoryStorage, Rows=None), folder / "DICOMDIR")
    found = find_sources(tmp_path)
    assert [source.name for source in found.images] == ["x"]
    reasons = {left.name: left.reason for left in found.left_out}
    for number, words in enumerate(
        ("belongs to one", "Basic Text SR", "Encapsulated PDF", "Secondary Capture", "VL Whole Slide", "not known",
         "localizer", "in color"), start=2,
    ):  # fmt: skip
        assert words in reasons[f"x-series{number}"]
    assert len(reasons) == len(others)
    for name in others:
        with pytest.raises(ReadError, match=r"^The DICOM [^\n]*\.$"):
            find_sources(folder / name)


def test_a_folder_of_other_objects_alone_has_no_images(tmp_path):
    for name, kind in (("a", BasicTextSRStorage), ("b", EncapsulatedPDFStorage)):
        save(a_picture(np.zeros((4, 4), np.uint8), kind), tmp_path / name)
    with pytest.raises(ReadError, match="no DICOM images to segment but other objects alone"):
        find_sources(tmp_path)


def test_a_damaged_file_refuses_the_volume_beside_it_and_no_other(tmp_path):
    for name in ("whole", "cut"):
        write_series(a_scan(), tmp_path / name)
    last = tmp_path / "cut" / "003.dcm"
    last.write_bytes(last.read_bytes()[:400])
    cut, whole = find_sources(tmp_path).images
    assert whole.refusal is None
    with pytest.raises(ReadError, match="damaged or cannot be opened, and may be part of the image"):
        read_image(cut)


def test_a_damaged_file_alone_is_an_image_that_cannot_be_read(tmp_path):
    (tmp_path / "x.dcm").write_bytes(b"no DICOM")
    (source,) = find_sources(tmp_path).images
    with pytest.raises(ReadError, match="has the name of a DICOM file but is none"):
        read_image(source)


def test_other_files_do_not_matter_and_loops_end(tmp_path):
    folder = tmp_path / "x"
    write_series(a_scan(), folder)
    (folder / "notes.txt").write_text("not an image")
    (folder / "empty").touch()
    (folder / ".hidden").write_bytes(bytes(200))
    (folder / "loop").symlink_to(tmp_path, target_is_directory=True)
    (folder / "itself").symlink_to(folder / "itself")
    found = find_sources(tmp_path)
    assert [source.name for source in found.images] == ["x"]
    assert not found.left_out


def test_a_single_frame_is_found_as_its_file_and_in_its_folder(tmp_path):
    (path,) = write_series(a_scan(1), tmp_path / "x", names=["IM0.dcm"])
    assert names_in(path) == ["IM0"]
    assert names_in(tmp_path) == ["x"]
    assert read_volume(path).voxels.shape == read_volume(tmp_path).voxels.shape == (1, 5, 6)


def test_images_of_all_formats_are_found_but_not_among_the_results(tmp_path, monkeypatch):
    write_series(a_scan(), tmp_path / "in" / "dicom")
    for name in ("a.nii.gz", "b.nrrd", "c.seg.nrrd"):
        (tmp_path / "in" / name).touch()
    results = tmp_path / "in" / "results"
    shutil.copytree(tmp_path / "in" / "dicom", results / "dicom")
    found = find_sources(tmp_path / "in", without=results)
    assert [source.name for source in found.images] == ["a", "b", "dicom"]
    assert [(left.name, left.reason) for left in found.left_out] == [
        ("c.seg.nrrd", "It is a segmentation, which belongs to an image.")
    ]
    monkeypatch.chdir(tmp_path / "in" / "dicom")
    assert names_in(type(tmp_path)(".")) == ["dicom"]


@pytest.mark.parametrize(
    ("header", "voxels"), [("a.mhd", "a.raw"), ("a.mhd", "a.zraw"), ("a.nhdr", "a.raw"), ("a.hdr", "a.img")]
)
def test_the_files_of_an_image_are_its_header_and_the_one_that_has_its_voxels(header, voxels, tmp_path):
    image = SimpleITK.GetImageFromArray(a_scan().voxels)
    SimpleITK.WriteImage(image, str(tmp_path / header), useCompression=voxels == "a.zraw")
    (source,) = find_sources(tmp_path).images
    assert source.files == (tmp_path / header, tmp_path / voxels)
    (tmp_path / voxels).unlink()
    assert source.files == (tmp_path / header,)  # that it cannot be read is seen when it is


@pytest.mark.parametrize("name", ["a.nii.gz", "a.mha", "a.nrrd"])
def test_an_image_in_one_file_has_no_other(name, tmp_path):
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(a_scan().voxels), str(tmp_path / name))
    (source,) = find_sources(tmp_path).images
    assert source.files == (tmp_path / name,)


@pytest.mark.parametrize("where", ["/etc/passwd", "../secret.raw", "LIST", "%d.raw"])
def test_a_header_that_names_a_file_elsewhere_is_not_followed(where, tmp_path):
    (tmp_path / "a.mhd").write_text(f"NDims = 3\nElementDataFile = {where}\n")
    (source,) = find_sources(tmp_path).images
    assert source.files == (tmp_path / "a.mhd",)


def test_the_one_image_of_a_folder_is_that_of_its_own_files(tmp_path):
    write_series(a_scan(), tmp_path)
    write_series(a_scan(), tmp_path / "other")
    assert only_source(tmp_path).path == tmp_path
    assert len(find_sources(tmp_path).images) == 2


def test_headers_alone_are_read_to_find_images(tmp_path):
    """A file whose pixels are gone is found; that it is cut off is seen when it is read."""
    for path in write_series(a_scan(), tmp_path):
        content = path.read_bytes()
        path.write_bytes(content[: content.rindex(b"\xe0\x7f\x10\x00") + 12])
    (source,) = find_sources(tmp_path).images
    assert source.refusal is None
    with pytest.raises(ReadError):
        read_image(source)


def test_uids_are_not_needed_to_tell_folders_apart(tmp_path):
    for name in ("a", "b"):
        write_series(a_scan(), tmp_path / name, SeriesInstanceUID="", SOPInstanceUID=generate_uid())
        for number, path in enumerate(sorted((tmp_path / name).iterdir())):
            if number:
                path.unlink()
    assert names_in(tmp_path) == ["a", "b"]


@pytest.mark.parametrize("name", ["labels", "label"])
def test_of_a_data_folder_the_labels_are_no_images(tmp_path, name):
    for folder in ("images", name):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "case_1.nii.gz").touch()
    found = find_sources(tmp_path)
    assert [source.path.parent.name for source in found.images] == ["images"]
    assert [(left.name, left.reason) for left in found.left_out] == [(name, LABELS)]
    assert names_in(tmp_path / name) == ["case_1"]  # given by itself, it is what somebody wants


def test_a_folder_that_is_called_labels_may_be_all_there_is(tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "scan.nii").touch()
    assert names_in(tmp_path) == ["scan"]

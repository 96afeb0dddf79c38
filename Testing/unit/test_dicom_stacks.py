"""Which frames make a volume: echoes, phases and directions apart, missing slices and copies noticed."""

from itertools import pairwise

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.sequence import Sequence as Items
from pydicom.uid import generate_uid

from ppcmi.errors import GeometryError, ReadError
from ppcmi.reading import read_image
from ppcmi.sources import find_sources
from ppcmi.volume import Volume
from support.dicom import write_multi_frame
from support.dicom_pictures import a_picture, save
from support.volumes import a_geometry

SLICES = 5


def write(folder, value, k, series="1.2.3", *, gap=2.0, **attributes):
    """A slice at place ``k`` all of whose pixels are ``value``."""
    attributes = {"SeriesInstanceUID": series, "ImagePositionPatient": [0, 0, k * gap], **attributes}
    picture = a_picture(np.full((4, 6), value, np.int16), **attributes)
    return save(picture, folder / f"{generate_uid()[-20:]}.dcm")


def volumes_in(folder):
    """For each image: the value of each of its slices, or the sentence that refuses it."""
    found = []
    for source in find_sources(folder).images:
        try:
            found.append(read_image(source).volume.voxels[:, 0, 0].tolist())
        except (ReadError, GeometryError) as error:
            found.append(str(error))
    return found


def of_stacks(*stacks):
    """Values that :func:`write` is given for slice ``k`` of each of the stacks."""
    return [[100 * stack + k for k in range(SLICES)] for stack in stacks]


@pytest.mark.parametrize(
    "tell_apart",
    [
        lambda stack, k: {"EchoTime": 4.6 + 10 * stack},
        lambda stack, k: {"EchoNumbers": stack, "AcquisitionNumber": k},
        lambda stack, k: {"ImageType": ["ORIGINAL", "PRIMARY", "MPRI"[stack], "NONE"]},
        lambda stack, k: {"DiffusionBValue": 500.0 * stack},
        lambda stack, k: {"SequenceName": f"*ep_b{stack}t"},
        lambda stack, k: {"TemporalPositionIdentifier": stack + 1},
        lambda stack, k: {"TriggerTime": 40.0 * stack},
        lambda stack, k: {"TriggerTime": 40.0 * stack + 3 * k},  # phases of each slice at times of its own
        lambda stack, k: {"AcquisitionNumber": stack},
        lambda stack, k: {"InversionTime": 100.0 + stack, "EchoTime": 3.0 + k},  # which differs from slice to slice
        lambda stack, k: {"FrameOfReferenceUID": f"1.2.{stack}"},
    ],
)
def test_images_at_one_place_are_told_apart_by_what_they_differ_in(tmp_path, tell_apart):
    for stack in (1, 2, 0):
        for k in range(SLICES):
            write(tmp_path, 100 * stack + k, k, **tell_apart(stack, k))
    assert sorted(volumes_in(tmp_path)) == of_stacks(0, 1, 2)
    assert {source.name for source in find_sources(tmp_path).images} == {
        f"{tmp_path.name}-series-{n}" for n in (1, 2, 3)
    }


def test_echoes_come_in_the_order_of_their_times_as_numbers(tmp_path):
    for stack, echo in enumerate((2.5, 10.0, 30.0)):
        for k in range(SLICES):
            write(tmp_path, 100 * stack + k, k, EchoTime=echo)
    assert volumes_in(tmp_path) == of_stacks(0, 1, 2)


def test_two_echoes_with_magnitude_and_phase_are_four_images(tmp_path):
    for echo in range(2):
        for part in range(2):
            for k in range(SLICES):
                kind = ["ORIGINAL", "PRIMARY", "MP"[part]]
                write(tmp_path, 100 * (2 * part + echo) + k, k, EchoTime=5.0 + echo, ImageType=kind)
    assert volumes_in(tmp_path) == of_stacks(0, 1, 2, 3)


def test_one_unweighted_volume_beside_three_directions_is_four_images(tmp_path):
    for stack in range(4):
        direction = {"DiffusionGradientOrientation": np.eye(3)[stack - 1].tolist()} if stack else {}
        for k in range(SLICES):
            write(tmp_path, 100 * stack + k, k, DiffusionBValue=1000.0 * (stack > 0), **direction)
    assert sorted(volumes_in(tmp_path)) == of_stacks(0, 1, 2, 3)


def test_an_attribute_that_varies_from_slice_to_slice_does_not_split_a_volume(tmp_path):
    for k in range(SLICES):
        kind = ["ORIGINAL", "PRIMARY", "AXIAL", *(["ADD"] if k % 2 else [])]
        write(tmp_path, k, k, AcquisitionNumber=k, TriggerTime=10.0 * k, EchoTime=3.0 + k, ImageType=kind)
    assert volumes_in(tmp_path) == of_stacks(0)


def test_two_scans_that_overlap_are_two_images_as_long_as_each_is_whole(tmp_path):
    for number, places in enumerate((range(4), range(2, 8))):
        for k in places:
            write(tmp_path, 100 * number + k, k, AcquisitionNumber=number)
    assert volumes_in(tmp_path) == [[0, 1, 2, 3], [102, 103, 104, 105, 106, 107]]


def test_an_echo_that_lacks_a_slice_in_its_middle_is_refused(tmp_path):
    for echo in range(2):
        for k in range(SLICES):
            if (echo, k) != (1, 2):
                write(tmp_path, 100 * echo + k, k, EchoTime=5.0 + echo)
    (sentence,) = volumes_in(tmp_path)
    assert "several images at one place (slice 1)" in sentence


def test_images_at_one_place_that_nothing_tells_apart_are_refused_with_the_place(tmp_path):
    for k in (0, 1, 2, 3, 3):
        write(tmp_path, k, k)
    (sentence,) = volumes_in(tmp_path)
    assert "several images at one place (slice 4) and does not say how they differ" in sentence


def test_images_a_hair_apart_are_at_one_place(tmp_path):
    for k in (0, 1, 1.002, 2, 2.998, 3):
        write(tmp_path, 0, k)
    (sentence,) = volumes_in(tmp_path)
    assert "several images at one place (slice 2)" in sentence


def test_slices_of_several_orientations_are_an_image_each(tmp_path):
    for number, orientation in enumerate(([1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1], [1, 0, 0, 0, 0, -1])):
        normal = np.cross(*np.reshape(orientation, (2, 3)))
        for k in range(3):
            place = (k * 5.0 * normal).tolist()
            write(tmp_path, 100 * number + k, 0, ImageOrientationPatient=orientation, ImagePositionPatient=place)
    assert sorted(volumes_in(tmp_path)) == [[100 * n + k for k in range(3)] for n in range(3)]


def test_a_film_of_a_volume_is_refused(tmp_path):
    for time in range(60):
        for k in range(2):
            write(tmp_path, time, k, TemporalPositionIdentifier=time + 1)
    (sentence,) = volumes_in(tmp_path)
    assert "60 volumes, as a film" in sentence


@settings(max_examples=20, deadline=None)
@given(st.integers(5, 12), st.data())
def test_missing_slices_are_named(tmp_path_factory, count, data):
    left = sorted(data.draw(st.sets(st.integers(1, count - 2), min_size=1, max_size=(count - 1) // 4)))
    folder = tmp_path_factory.mktemp("series")
    there = [k for k in range(count) if k not in left]
    for k in there:
        write(folder, k, k, SliceThickness=2.0)
    (sentence,) = volumes_in(folder)
    after = [number for number, (a, b) in enumerate(pairwise(there), start=1) if b > a + 1]
    assert f"missing after slice{'s' * (len(after) > 1)} {', '.join(map(str, after))};" in sentence


@pytest.mark.parametrize(
    ("thickness", "missing"), [((5, 5, 5, 5, 10, 10, 10), False), ((10,) * 7, True), ((None,) * 7, True)]
)
def test_slices_that_become_thicker_with_their_gaps_are_not_missing(tmp_path, thickness, missing):
    heights = (0, 5, 10, 15, 22.5, 32.5, 42.5) if thickness[0] == 5 else (0, 5, 10, 15, 20, 30, 40)
    for k, (height, thick) in enumerate(zip(heights, thickness, strict=True)):
        write(tmp_path, k, height, gap=1, SliceThickness=thick)
    (source,) = find_sources(tmp_path).images
    assert (source.refusal is not None) == missing
    if not missing:
        assert read_image(source).acquisition is not None


def test_copies_are_used_once_and_said(tmp_path):
    for k in range(SLICES):
        path = write(tmp_path / "a", k, k)
        (tmp_path / "b").mkdir(exist_ok=True)
        (tmp_path / "b" / path.name).write_bytes(path.read_bytes())
    found = find_sources(tmp_path)
    assert volumes_in(tmp_path) == of_stacks(0)
    (left_out,) = found.left_out
    assert left_out.reason == "5 DICOM files are copies of others; each image is used once."


def test_two_images_with_one_uid_are_refused(tmp_path):
    for k in range(SLICES):
        write(tmp_path, k, k, SOPInstanceUID="1.2.3.4" if k > 2 else f"1.2.{k}")
    (sentence,) = volumes_in(tmp_path)
    assert "same UID" in sentence


def test_images_of_different_pixel_size_are_refused(tmp_path):
    for k in range(SLICES):
        write(tmp_path, k, k, PixelSpacing=[1, 1] if k else [1, 1.1])
    (sentence,) = volumes_in(tmp_path)
    assert "differ in the size of their pixels" in sentence


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"PixelSpacing": None}, "does not say how large its pixels are"),
        ({"PixelSpacing": [0, 1]}, "does not say how large its pixels are"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "not perpendicular"),
        ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, "not perpendicular"),
        ({"ImagePositionPatient": None}, "do not say where they lie"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "mosaics"),
    ],
)
def test_one_image_that_cannot_lie_anywhere_refuses_its_series(tmp_path, changes, sentence):
    for k in range(SLICES):
        write(tmp_path, k, k, **(changes if k == 3 else {}))
    (found,) = volumes_in(tmp_path)
    assert sentence in found


# ---- multi-frame images


def a_scan(slices=6):
    geometry = a_geometry((slices, 4, 6), (1.0, 1.0, 2.0))
    return Volume(np.arange(slices * 24).reshape(geometry.shape).astype(np.uint16), geometry)


def regrouped(path, change):
    """Rewrite a multi-frame file after ``change(number, frame)`` of each frame's functional groups."""
    dataset = pydicom.dcmread(path)
    for number, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        change(number, frame)
    dataset.save_as(path)


def content(**values):
    item = pydicom.Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return Items([item])


@pytest.mark.parametrize("told_by", ["StackID", "TemporalPositionIndex", "DimensionIndexValues", "EffectiveEchoTime"])
def test_stacks_of_a_multi_frame_image_are_a_volume_each(tmp_path, told_by):
    scan = a_scan()
    path = write_multi_frame(scan, tmp_path / "frames.dcm", order=(0, 1, 2, 3, 4, 5, 3, 4, 5, 0, 1, 2))

    def change(number, frame):
        stack = 1 + number // 6
        if told_by == "EffectiveEchoTime":
            frame.MREchoSequence = content(EffectiveEchoTime=10.0 * stack)
        else:
            value = {"StackID": str(stack), "DimensionIndexValues": [1, stack, number]}.get(told_by, stack)
            frame.FrameContentSequence = content(**{told_by: value})

    regrouped(path, change)
    first, second = (read_image(source).volume for source in find_sources(path).images)
    for found in (first, second):
        np.testing.assert_array_equal(found.voxels, scan.voxels)
        assert found.geometry.matches(scan.geometry)


def test_a_concatenation_is_one_image_whatever_its_parts_are_called(tmp_path):
    scan = a_scan()
    whole = {"SeriesInstanceUID": "1.2.3", "ConcatenationUID": "1.2.3.4", "InConcatenationTotalNumber": 3}
    for part, name in enumerate("cab"):
        where = {"InConcatenationNumber": part + 1, "ConcatenationFrameOffsetNumber": 2 * part}
        path = write_multi_frame(scan, tmp_path / name, order=(2 * part, 2 * part + 1), **whole, **where)
    (source,) = find_sources(tmp_path).images
    np.testing.assert_array_equal(read_image(source).volume.voxels, scan.voxels)
    path.unlink()
    (source,) = find_sources(tmp_path).images
    with pytest.raises(ReadError, match="split over several files, and one of them is missing"):
        read_image(source)


def test_a_field_map_and_its_magnitude_are_two_images(data_folder):
    folder = data_folder("dicom_samples") / "enhanced_multiframe_mr" / "Philips"
    (path,) = folder.iterdir()
    dataset = pydicom.dcmread(path)
    pixels = dataset.pixel_array
    field, magnitude = (read_image(source).volume for source in find_sources(folder).images)
    # as dumped by a DICOM viewer: frames 0 to 31 are magnitude, 32 to 63 the field map with an intercept of -500
    np.testing.assert_allclose(magnitude.voxels, pixels[:32] * 1.27985347985347, rtol=1e-6)
    np.testing.assert_allclose(field.voxels, pixels[32:] * 0.24420024420024 - 500, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(field.geometry.ijk_to_ras[:3, 3], (127.24297738075, 119.77660465240, -38.35459083526))
    assert field.geometry.matches(magnitude.geometry)


def test_each_time_of_a_series_is_an_image(data_folder):
    folder = data_folder("dicom_samples") / "enhanced_multiframe_mr" / "Siemens" / "XA10"
    found = [read_image(source).volume for source in find_sources(folder).images]
    assert len(found) == 4
    for volume, path in zip(found, sorted(folder.iterdir()), strict=True):
        np.testing.assert_array_equal(volume.voxels, pydicom.dcmread(path).pixel_array)

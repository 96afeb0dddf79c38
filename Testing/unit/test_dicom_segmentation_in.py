"""DICOM Segmentations that highdicom and dcmqi wrote, onto the voxels of their images."""

import shutil

import numpy as np
import pydicom
import pytest
import SimpleITK
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pydicom.uid import generate_uid

from ppcmi.dicom.segmentation_in import read_dicom_segments
from ppcmi.errors import GeometryError, ReadError
from ppcmi.reading import read_image
from ppcmi.sources import only_source
from ppcmi.task_labels import read_segments
from ppcmi.volume import Volume, lps_from_ras
from support.dicom_labels import write_dicom_segments, write_study
from support.volumes import a_geometry, geometries


def an_image(folder, geometry=None, **changes):
    geometry = geometry or a_geometry((5, 12, 14), (0.7, 1.1, 2.5))
    files = write_study(Volume(np.zeros(geometry.shape, np.int16), geometry), folder, **changes)
    return files, only_source(folder)


def random_masks(shape, *names, seed=0):
    generator = np.random.default_rng(seed)
    return {name: generator.random(shape) < 0.3 for name in names}


def on_image(path, source, grid=None):
    """Masks by their segments' names, and whether they were taken at the nearest voxel."""
    file = read_dicom_segments(path, source)
    placed = file.masks_on(grid or read_image(source).volume.geometry, [segment.id for segment in file.segments])
    return {segment.name: placed.masks[segment.id] for segment in file.segments}, placed.nearest


@given(geometries(low=3, high=9), st.integers(0, 2**32 - 1))
@settings(max_examples=12, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
def test_overlapping_segments_on_any_grid_come_back_to_the_voxel(tmp_path_factory, geometry, seed):
    folder = tmp_path_factory.mktemp("x")
    files, source = an_image(folder / "image", geometry)
    masks = random_masks(geometry.shape, "one", "other", seed=seed)
    found, nearest = on_image(write_dicom_segments(folder / "seg.dcm", files, masks), source)
    image = read_image(source).volume.geometry
    for name, mask in masks.items():
        where = np.argwhere(mask)[:, ::-1]
        places = (geometry.ijk_to_ras @ np.c_[where, np.ones(len(where))].T)[:3]
        k, j, i = np.rint((np.linalg.inv(image.ijk_to_ras) @ np.vstack([places, np.ones(len(where))]))[2::-1]).astype(
            int
        )
        expected = np.zeros(image.shape, bool)
        expected[k, j, i] = True
        np.testing.assert_array_equal(found[name], expected)
    assert not nearest


def test_planes_without_a_segment_may_be_left_out_and_are_empty(tmp_path):
    files, source = an_image(tmp_path / "image")
    masks = {"one": np.zeros((5, 12, 14), bool)}
    masks["one"][3, 2:5, 6:9] = True
    path = write_dicom_segments(tmp_path / "seg.dcm", files, masks)
    assert pydicom.dcmread(path).NumberOfFrames == 1
    np.testing.assert_array_equal(on_image(path, source)[0]["one"], masks["one"])


def test_fractions_count_from_one_half(tmp_path):
    files, source = an_image(tmp_path / "image")
    fractions = np.random.default_rng(0).random((5, 12, 14)).astype(np.float32)
    path = write_dicom_segments(tmp_path / "seg.dcm", files, {"one": fractions}, "FRACTIONAL", max_fractional_value=200)
    np.testing.assert_array_equal(on_image(path, source)[0]["one"], np.around(fractions * 200) >= 100)


def test_a_label_map_segmentation_is_its_segments(tmp_path):
    files, source = an_image(tmp_path / "image")
    labels = np.random.default_rng(0).integers(0, 3, (5, 12, 14))
    masks = {"one": labels == 1, "other": labels == 2}
    path = write_dicom_segments(tmp_path / "seg.dcm", files, masks, "LABELMAP")
    found, _ = on_image(path, source)
    for name, mask in masks.items():
        np.testing.assert_array_equal(found[name], mask)


def test_run_lengths_are_read_as_well(tmp_path):
    files, source = an_image(tmp_path / "image")
    fractions = (np.random.default_rng(0).random((5, 12, 14)) > 0.5).astype(np.float32)
    path = write_dicom_segments(
        tmp_path / "seg.dcm", files, {"one": fractions}, "FRACTIONAL", transfer_syntax_uid=pydicom.uid.RLELossless
    )
    np.testing.assert_array_equal(on_image(path, source)[0]["one"], fractions > 0.5)


def test_the_slices_of_a_tilted_and_uneven_series_find_their_labels(tmp_path):
    geometry = a_geometry((6, 20, 20), (1.0, 1.0, 3.0))
    volume = Volume(np.zeros(geometry.shape, np.int16), geometry)
    files = write_study(volume, tmp_path / "image")
    heights = np.array([0.0, 3.0, 5.0, 8.0, 14.0, 20.0])
    for file, height in zip(files, heights, strict=True):
        dataset = pydicom.dcmread(file)
        dataset.ImagePositionPatient = [0.0, 0.3 * height, float(height)]
        dataset.save_as(file)
    source = only_source(tmp_path / "image")
    masks = {"one": np.zeros(geometry.shape, bool)}
    masks["one"][1:4, 5:9, 6:11] = True
    image = read_image(source)
    assert image.acquisition is not None
    found, nearest = on_image(write_dicom_segments(tmp_path / "s.dcm", files, masks), source, image.volume.geometry)
    assert nearest
    k, j, i = np.indices(image.volume.geometry.shape).reshape(3, -1)
    x, y, z = (lps_from_ras @ image.volume.geometry.ijk_to_ras @ np.stack([i, j, k, np.ones(i.shape)]))[:3]
    away = np.sort(np.abs(z[:, None] - heights), axis=1)
    index = np.abs(z[:, None] - heights).argmin(axis=1)
    row, column = 0.3 * heights[index] - y, np.rint(-x).astype(int)  # rows go to the front, columns to the right
    clear = (away[:, 1] - away[:, 0] > 0.1) & (np.abs(row % 1 - 0.5) > 0.02)  # not halfway between two
    row = np.rint(row).astype(int)
    within = (row >= 0) & (row < 20) & (column >= 0) & (column < 20)
    expected = within & masks["one"][index, row.clip(0, 19), column.clip(0, 19)]
    assert expected[clear].sum() >= 60
    np.testing.assert_array_equal(found["one"].ravel()[clear], expected[clear])


def test_a_segmentation_of_half_the_pixels_is_taken_at_the_nearest(tmp_path):
    """Made on a coarser series of the same study."""
    coarse = a_geometry((5, 6, 7), (2.0, 2.0, 2.0))
    fine = a_geometry((10, 12, 14), origin=(-0.5, -0.5, -0.5))
    files, _ = an_image(tmp_path / "coarse", coarse)
    _, source = an_image(tmp_path / "fine", fine)
    mask = np.random.default_rng(0).random(coarse.shape) < 0.5
    found, nearest = on_image(write_dicom_segments(tmp_path / "seg.dcm", files, {"one": mask}), source)
    expected = mask.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    assert nearest
    image = read_image(source).volume
    assert image.geometry.matches(fine)
    np.testing.assert_array_equal(found["one"], expected)


def test_another_frame_of_reference_is_another_image(tmp_path):
    files, _ = an_image(tmp_path / "image")
    _, other = an_image(tmp_path / "other", FrameOfReferenceUID=generate_uid())
    path = write_dicom_segments(tmp_path / "seg.dcm", files, random_masks((5, 12, 14), "one"))
    with pytest.raises(GeometryError, match="another frame of reference"):
        on_image(path, other)


def test_the_same_frame_of_reference_elsewhere_in_the_body_is_another_image(tmp_path):
    files, _ = an_image(tmp_path / "image")
    _, other = an_image(tmp_path / "other", a_geometry((5, 12, 14), origin=(0, 0, 300)))
    path = write_dicom_segments(tmp_path / "seg.dcm", files, random_masks((5, 12, 14), "one"))
    with pytest.raises(GeometryError, match="outside the image"):
        on_image(path, other)


def test_segments_say_what_they_are(tmp_path):
    files, _ = an_image(tmp_path / "image")
    path = write_dicom_segments(tmp_path / "seg.dcm", files, random_masks((5, 12, 14), "Liver"))
    (segment,) = read_segments(path)
    assert (segment.name, segment.value) == ("Liver", 1)
    assert segment.terminology.split("~")[1:3] == ["SCT^91772007^Organ", "SCT^10200004^Liver"]


def changed(path, change):
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda d: delattr(d, "PerFrameFunctionalGroupsSequence"),
        lambda d: d.PerFrameFunctionalGroupsSequence.pop(),
        lambda d: setattr(d, "PixelData", d.PixelData[:10]),
        lambda d: setattr(d, "NumberOfFrames", 10**6),
        lambda d: setattr(d, "Rows", 60000),
        lambda d: setattr(d, "Rows", 0),
        lambda d: delattr(d, "SharedFunctionalGroupsSequence"),
        lambda d: setattr(d, "BitsAllocated", 12),
        lambda d: setattr(d, "SegmentationType", "GUESSED"),
        lambda d: d.SegmentSequence.append(d.SegmentSequence[0]),
        lambda d: d.PerFrameFunctionalGroupsSequence[0].pop("PlanePositionSequence"),
        lambda d: setattr(d.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0], "PixelSpacing", [0.0, 1.0]),
        lambda d: setattr(
            d.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0],
            "ImageOrientationPatient",
            [1, 0, 0, 1, 0, 0],
        ),
    ],
)
def test_a_damaged_segmentation_is_refused_in_one_sentence(tmp_path, change):
    files, source = an_image(tmp_path / "image")
    path = write_dicom_segments(tmp_path / "Jane.dcm", files, random_masks((5, 12, 14), "one"))
    with pytest.raises(ReadError, match=r"^[A-Z][^\n]*\.$") as caught:
        read_dicom_segments(changed(path, change), source)
    assert "Jane" not in str(caught.value)


def test_segmentations_of_a_ct_agree_with_their_nrrd_twins_to_the_voxel(data_folder, tmp_path):
    folder = data_folder("dicom_samples") / "ct3slice_with_seg"
    for name in ("01.dcm", "02.dcm", "03.dcm"):
        shutil.copy(folder / name, tmp_path / name)
    source = only_source(tmp_path)
    grid = read_image(source).volume.geometry
    found, nearest = on_image(folder / "seg" / "liver.dcm", source, grid)
    assert not nearest
    twin = SimpleITK.ReadImage(str(folder / "seg" / "liver_seg.nrrd"))
    kji = np.argwhere(found["Liver"])
    lps = (lps_from_ras @ grid.ijk_to_ras @ np.c_[kji[:, ::-1], np.ones(len(kji))].T)[:3].T
    values = [twin[twin.TransformPhysicalPointToIndex(point.tolist())] for point in lps[::50]]
    assert set(values) == {1}
    assert len(kji) == np.count_nonzero(SimpleITK.GetArrayFromImage(twin))
    overlapping, nearest = on_image(folder / "seg" / "partial_overlaps.dcm", source, grid)
    assert not nearest
    frames = pydicom.dcmread(folder / "seg" / "partial_overlaps.dcm")
    of_segment = np.array(
        [f.SegmentIdentificationSequence[0].ReferencedSegmentNumber for f in frames.PerFrameFunctionalGroupsSequence]
    )
    for number, name in enumerate(("GREEN", "ORANGE", "PURPLE", "LIGHT_BLUE", "DARK_BLUE"), start=1):
        assert overlapping[name].sum() == frames.pixel_array[of_segment == number].sum() > 4000


@pytest.mark.parametrize("kind", ["image", "multiframe"])
@pytest.mark.parametrize("size", ["24x38x3", "23x38x3"])
def test_frames_whose_bits_end_in_the_middle_of_a_byte(data_folder, size, kind):
    folder = data_folder("dicom_samples") / "tiny_ct_multiframe_seg" / size
    source = only_source(folder / kind)
    found, nearest = on_image(folder / "seg" / "label.seg", source)
    assert not nearest
    twin = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(folder / "nrrd" / "label.nrrd")))
    np.testing.assert_array_equal(found["Liver"], twin > 0)

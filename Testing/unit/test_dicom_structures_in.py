"""Structure sets onto the voxels of their images, held against scikit-image and analytic shapes."""

import shutil

import numpy as np
import pydicom
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pydicom.uid import generate_uid
from skimage.measure import points_in_poly

from ppcmi.dicom.structures_in import read_dicom_structures
from ppcmi.errors import GeometryError, PpcmiError, ReadError
from ppcmi.reading import read_image
from ppcmi.sources import ImageSource, only_source
from ppcmi.task_labels import read_segments
from ppcmi.volume import Volume, lps_from_ras
from support.dicom_labels import STUDY, write_structures, write_study
from support.volumes import a_geometry, geometries, reoriented

SPACE = STUDY["FrameOfReferenceUID"]


def an_image(folder, geometry, **changes):
    write_study(Volume(np.zeros(geometry.shape, np.int16), geometry), folder, **changes)
    return only_source(folder)


def circle(x, y, radius, points=60):
    angles = np.linspace(0.01, 2 * np.pi + 0.01, points, endpoint=False)
    return np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)


def in_slice(geometry, points, k):
    """Points ``(n, 2)`` of columns and rows in slice ``k`` as LPS millimetres ``(n, 3)``."""
    indices = np.c_[points, np.full(len(points), k), np.ones(len(points))].T
    return (lps_from_ras @ geometry.ijk_to_ras @ indices)[:3].T


def on_image(path, source, grid):
    file = read_dicom_structures(path, source)
    placed = file.masks_on(grid, [segment.id for segment in file.segments])
    return {segment.name: placed.masks[segment.id] for segment in file.segments}


def by_scikit_image(shape, contours):
    rows, columns = np.indices(shape)
    centers = np.stack([columns.ravel(), rows.ravel()], axis=1)
    inside = np.zeros(shape, bool)
    for contour in contours:
        inside ^= points_in_poly(centers, contour).reshape(shape)
    return inside


@given(geometries(low=4, high=16), st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
def test_contours_on_any_grid_are_filled_where_scikit_image_fills_them(tmp_path_factory, geometry, seed):
    folder = tmp_path_factory.mktemp("x")
    generator = np.random.default_rng(seed)
    shape = geometry.shape[1:]
    expected = np.zeros(geometry.shape, bool)
    contours = []
    for k in generator.permutation(geometry.shape[0])[:3]:
        shapes = [generator.uniform((-1, -1), np.array(shape[::-1]), (7, 2)) for _ in range(2)]
        expected[k] = by_scikit_image(shape, shapes)
        contours += [in_slice(geometry, points, k) for points in shapes]
    if not expected.any():
        return
    source = an_image(folder / "image", geometry)
    path = write_structures(folder / "rt.dcm", {"one": contours}, series=source.dicom.series_uid)
    image = read_image(source).volume.geometry
    placed = on_image(path, source, image)["one"]
    # Voxels that an independent way says are inside, by their places in space.
    where = np.argwhere(expected)[:, ::-1]
    places = (geometry.ijk_to_ras @ np.c_[where, np.ones(len(where))].T)[:3]
    back = np.rint((np.linalg.inv(image.ijk_to_ras) @ np.vstack([places, np.ones(len(where))]))[:3]).astype(int)
    again = np.zeros(image.shape, bool)
    again[tuple(back[::-1])] = True
    np.testing.assert_array_equal(placed, again)
    without_dicom = on_image(path, None, geometry)["one"] if inside_share(contours, geometry) else expected
    np.testing.assert_array_equal(without_dicom, expected)


def inside_share(contours, geometry):
    """Whether all contour points lie within the grid, so that it needs no reference to belong to it."""
    points = np.concatenate(contours) @ lps_from_ras[:3, :3]
    indices = np.linalg.inv(geometry.ijk_to_ras) @ np.c_[points, np.ones(len(points))].T
    size = np.array(geometry.shape[::-1])[:, None]
    return bool(((indices[:3] > -0.5) & (indices[:3] < size - 0.5)).all())


def test_an_inner_contour_is_a_hole(tmp_path):
    geometry = a_geometry((3, 30, 30), (0.8, 0.8, 3.0))
    source = an_image(tmp_path / "image", geometry)
    shapes = [circle(15.2, 14.9, 9), circle(14.1, 15.3, 4)]
    path = write_structures(
        tmp_path / "rt.dcm", {"ring": [in_slice(geometry, points, 1) for points in shapes]}, space=SPACE
    )
    found = on_image(path, source, geometry)["ring"]
    np.testing.assert_array_equal(found[1], by_scikit_image((30, 30), shapes))
    assert not found[[0, 2]].any()


def test_a_nifti_image_that_is_stored_another_way_gets_its_contours(tmp_path):
    """Contours are axial; the image's slices are sagittal."""
    axial = a_geometry((6, 20, 24), (1.0, 1.2, 3.0))
    points = [in_slice(axial, circle(10.3, 9.1, 5), k) for k in range(6)]
    path = write_structures(tmp_path / "rt.dcm", {"one": points})
    expected = on_image(path, None, axial)["one"]
    assert expected.any()
    turned = reoriented(Volume(expected, axial), (2, 0, 1), (True, False, True))
    np.testing.assert_array_equal(on_image(path, ImageSource(tmp_path), turned.geometry)["one"], turned.voxels)


def test_a_ball_drawn_on_tilted_slices_is_a_ball_in_the_volume(tmp_path):
    geometry = a_geometry((12, 40, 40), (1.0, 1.0, 2.0))
    source = an_image(tmp_path / "image", geometry)
    for index, file in enumerate(sorted((tmp_path / "image").iterdir())):
        dataset = pydicom.dcmread(file)
        dataset.ImagePositionPatient = [0.0, 0.35 * 2 * index, 2.0 * index]
        dataset.save_as(file)
    source = only_source(tmp_path / "image")
    image = read_image(source)
    assert image.acquisition is not None
    center, radius = np.array([-20.0, -16.0, 11.0]), 8.0
    contours = []
    for z in 2.0 * np.arange(12):
        if (left := radius**2 - (z - center[2]) ** 2) > 0.5:
            contours.append(np.c_[circle(*center[:2], np.sqrt(left)), np.full(60, z)])
    path = write_structures(tmp_path / "rt.dcm", {"ball": contours}, series=source.dicom.series_uid)
    found = on_image(path, source, image.volume.geometry)["ball"]
    k, j, i = np.indices(found.shape).reshape(3, -1)
    lps = (lps_from_ras @ image.volume.geometry.ijk_to_ras @ np.stack([i, j, k, np.ones(i.shape)]))[:3].T
    ball = (np.linalg.norm(lps - center, axis=1) < radius).reshape(found.shape)
    assert 2 * np.count_nonzero(found & ball) / (found.sum() + ball.sum()) > 0.95


def test_contours_between_the_slices_are_another_images(tmp_path):
    geometry = a_geometry((4, 20, 20), (1.0, 1.0, 3.0))
    source = an_image(tmp_path / "image", geometry)
    path = write_structures(tmp_path / "rt.dcm", {"one": [in_slice(geometry, circle(9, 9, 5), 1.5)]}, space=SPACE)
    with pytest.raises(GeometryError, match="between the image's slices"):
        on_image(path, source, geometry)


def test_another_frame_of_reference_is_another_image_unless_the_series_is_named(tmp_path):
    geometry = a_geometry((4, 20, 20), (1.0, 1.0, 3.0))
    source = an_image(tmp_path / "image", geometry)
    contours = {"one": [in_slice(geometry, circle(9, 9, 5), 1)]}
    elsewhere = generate_uid()
    with pytest.raises(GeometryError, match="another frame of reference"):
        on_image(write_structures(tmp_path / "a.dcm", contours, space=elsewhere), source, geometry)
    named = write_structures(tmp_path / "b.dcm", contours, space=elsewhere, series=source.dicom.series_uid)
    assert on_image(named, source, geometry)["one"].any()


def test_points_are_no_segment_and_open_lines_beside_areas_are_refused(tmp_path):
    geometry = a_geometry((4, 20, 20), (1.0, 1.0, 3.0))
    contour = in_slice(geometry, circle(9, 9, 5), 1)
    points = write_structures(tmp_path / "points.dcm", {"marker": [contour]}, kind="POINT")
    assert read_segments(points) == ()
    dataset = pydicom.dcmread(write_structures(tmp_path / "mixed.dcm", {"one": [contour, contour]}))
    dataset.ROIContourSequence[0].ContourSequence[1].ContourGeometricType = "OPEN_PLANAR"
    dataset.save_as(tmp_path / "mixed.dcm")
    with pytest.raises(ReadError, match="open contours"):
        read_segments(tmp_path / "mixed.dcm")


@pytest.mark.parametrize(
    "change",
    [
        lambda d: setattr(d, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.2"),
        lambda d: setattr(d.ROIContourSequence[0].ContourSequence[0], "ContourData", [1.0, 2.0]),
        lambda d: delattr(d.ROIContourSequence[0].ContourSequence[0], "ContourData"),
        lambda d: delattr(d.ROIContourSequence[0], "ReferencedROINumber"),
        lambda d: d.StructureSetROISequence.append(d.StructureSetROISequence[0]),
    ],
)
def test_a_damaged_structure_set_is_refused_in_one_sentence(tmp_path, change):
    geometry = a_geometry((4, 20, 20), (1.0, 1.0, 3.0))
    path = write_structures(tmp_path / "Jane.dcm", {"one": [in_slice(geometry, circle(9, 9, 5), 1)]})
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)
    with pytest.raises(ReadError, match=r"^[A-Z][^\n]*\.$") as caught:
        read_dicom_structures(path, None)
    assert "Jane" not in str(caught.value)


@pytest.fixture
def a_phantom(data_folder, tmp_path):
    """Two slices of a CT, and the folder of structure sets that refer to its three."""
    folder = data_folder("dicom_samples") / "rtstruct_phantom"
    for name in ("ct_1.dcm", "ct_2.dcm"):
        shutil.copy(folder / name, tmp_path / name)
    return only_source(tmp_path), folder


@pytest.mark.parametrize("name", ["rt.dcm", "invalid_reference_rt.dcm", "empty/dummy_rt.dcm"])
def test_structures_of_a_phantom_are_filled_where_scikit_image_fills_them(a_phantom, name):
    """Their series is the image's; one has contours that name instances which do not exist, on a third slice."""
    source, folder = a_phantom
    grid = read_image(source).volume.geometry
    found = on_image(folder / name, source, grid)
    dataset = pydicom.dcmread(folder / name)
    lps_to_ijk = np.linalg.inv(lps_from_ras @ grid.ijk_to_ras)
    names = {structure.ROINumber: structure.ROIName for structure in dataset.StructureSetROISequence}
    for item in dataset.ROIContourSequence:
        for k in range(2):
            contours = []
            for contour in item.ContourSequence:
                points = np.array(contour.ContourData, float).reshape(-1, 3)
                indices = (lps_to_ijk @ np.c_[points, np.ones(len(points))].T)[:3].T
                if abs(indices[0, 2] - k) < 0.1:
                    contours.append(indices[:, :2])
            differ = found[names[item.ReferencedROINumber]][k] ^ by_scikit_image((512, 512), contours)
            assert differ.sum() <= 3  # centers on a line


def test_a_structure_set_without_a_reference_needs_to_lie_in_the_image(a_phantom):
    source, folder = a_phantom
    with pytest.raises(PpcmiError, match="outside the image"):
        on_image(folder / "non_existent_reference_rt.dcm", source, read_image(source).volume.geometry)


def test_an_image_is_no_structure_set(a_phantom):
    _, folder = a_phantom
    with pytest.raises(ReadError, match="no structure set"):
        read_dicom_structures(folder / "ct_1.dcm", None)

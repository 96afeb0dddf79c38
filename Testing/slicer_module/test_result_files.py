"""Results in Slicer: its own storage node reads a ``.seg.nrrd`` as it writes them, voxel for voxel, field by field."""

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from ppcmi.task import load_task
from ppcmi.volume import Geometry, Volume
from ppcmi.writing import terminology_entry, write_segmentation
from support.volumes import ORIENTATION_CODES, a_geometry, reoriented

TASK = load_task(Path(__file__).parents[2] / "Resources" / "Tasks" / "hippocampus-mr.json")
OBLIQUE = a_geometry(
    (4, 6, 8), (0.7, 1.2, 3.0), Rotation.from_euler("xyz", (10, 20, 30), degrees=True).as_matrix(), (10, -20, 30.5)
)


def some_labels(geometry=OBLIQUE):
    labels = np.zeros(geometry.shape, np.uint8)
    labels[1:3, 2:5, 3:8] = 1
    labels[2, 3, 4:6] = 2
    return Volume(labels, geometry)


def sheared(*, mirrored):
    matrix = np.diag([1.0, 1.2, -3.0 if mirrored else 3.0, 1.0])
    matrix[1, 2] = 0.9  # a tilted gantry
    return Geometry((4, 6, 8), matrix)


def loaded(path):
    """The node that Slicer makes of a file."""
    import slicer

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(path))
    assert storage.ReadData(node) == 1
    return node


def saved(node, path):
    """The file that Slicer makes of a node."""
    import slicer

    storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(path))
    assert storage.WriteData(node) == 1
    return path


def places_in_slicer(node, segment_id):
    """RAS places of a segment's voxels, from the node's own label map, extent and all."""
    import slicer
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    image = slicer.vtkOrientedImageData()
    assert node.GetBinaryLabelmapRepresentation(segment_id, image)
    to_world = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(to_world)
    matrix = np.array([[to_world.GetElement(row, column) for column in range(4)] for row in range(4)])
    voxels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])
    first = image.GetExtent()[::2]
    return in_order((np.argwhere(voxels > 0)[:, ::-1] + first) @ matrix[:3, :3].T + matrix[:3, 3])


def places(labels, value):
    matrix = labels.geometry.ijk_to_ras
    return in_order(np.argwhere(labels.voxels == value)[:, ::-1] @ matrix[:3, :3].T + matrix[:3, 3])


def in_order(points):
    return points[np.lexsort(np.round(points, 3).T)]


def fields(path):
    """The NRRD header: its lines of the format, and the key/value pairs."""
    lines = path.read_bytes().split(b"\n\n")[0].decode().splitlines()
    pairs = dict(line.split(":=", 1) for line in lines if ":=" in line)
    return [line for line in lines if ":=" not in line], pairs


def check_places(labels, path):
    write_segmentation(labels, TASK, path, {})
    node = loaded(path)
    for label in TASK.labels:
        found = places_in_slicer(node, f"Segment_{label.value}")
        assert found.shape == places(labels, label.value).shape
        np.testing.assert_allclose(found, places(labels, label.value), atol=1e-4)


def test_slicer_finds_every_voxel_where_it_is_in_each_orientation(slicer_host, tmp_path):
    labels = some_labels()
    for order, flips in ORIENTATION_CODES:
        check_places(reoriented(labels, order, flips), tmp_path / "x.seg.nrrd")


@pytest.mark.parametrize("mirrored", [False, True])
def test_slicer_keeps_sheared_grids_as_they_are(slicer_host, tmp_path, mirrored):
    check_places(some_labels(sheared(mirrored=mirrored)), tmp_path / "x.seg.nrrd")


def test_slicer_reads_a_single_slice_and_a_result_without_structures(slicer_host, tmp_path):
    check_places(Volume(some_labels().voxels[2:3], Geometry((1, 6, 8), OBLIQUE.ijk_to_ras)), tmp_path / "x.seg.nrrd")
    empty = tmp_path / "y.seg.nrrd"
    write_segmentation(Volume(np.zeros((4, 6, 8), np.uint8), OBLIQUE), TASK, empty, {})
    segmentation = loaded(empty).GetSegmentation()
    assert [segmentation.GetNthSegment(index).GetName() for index in range(2)] == [label.name for label in TASK.labels]


def test_slicer_shows_names_colors_and_terminology_of_the_task(slicer_host, tmp_path):
    path = tmp_path / "x.seg.nrrd"
    write_segmentation(some_labels(), TASK, path, {"task": TASK.identity})
    segmentation = loaded(path).GetSegmentation()
    assert segmentation.GetNumberOfSegments() == len(TASK.labels)
    for index, label in enumerate(TASK.labels):
        segment = segmentation.GetNthSegment(index)
        assert segment.GetName() == label.name
        assert segment.GetLabelValue() == label.value
        assert segment.GetTerminology() == terminology_entry(label)
        np.testing.assert_allclose(segment.GetColor(), np.array(label.color) / 255, atol=1e-6)
    reference = segmentation.GetConversionParameter("Reference image geometry").rstrip(";").split(";")
    numbers = [float(number) for number in reference]
    np.testing.assert_allclose(numbers, [*OBLIQUE.ijk_to_ras.ravel(), 0, 7, 0, 5, 0, 3])


def test_what_slicer_writes_of_a_result_has_the_same_fields(slicer_host, tmp_path):
    write_segmentation(some_labels(), TASK, tmp_path / "ours.seg.nrrd", {})
    header, pairs = fields(tmp_path / "ours.seg.nrrd")
    header_of_slicer, pairs_of_slicer = fields(saved(loaded(tmp_path / "ours.seg.nrrd"), tmp_path / "its.seg.nrrd"))
    numbers = ("space directions", "space origin")
    assert [line for line in header if not line.startswith(numbers)] == [
        line for line in header_of_slicer if not line.startswith(numbers)
    ]
    for name in numbers:
        ours, its = (next(line for line in h if line.startswith(name)) for h in (header, header_of_slicer))
        assert _numbers(ours) == pytest.approx(_numbers(its), abs=1e-9)
    assert pairs.keys() == pairs_of_slicer.keys()
    assert _own(pairs) == _own(pairs_of_slicer)
    reference = pairs["Segmentation_ConversionParameters"]
    assert reference in pairs_of_slicer["Segmentation_ConversionParameters"]  # beside parameters of its surfaces


def _numbers(line):
    return [float(number) for number in line.split(":")[1].translate(str.maketrans("(),", "   ")).split()]


def _own(pairs):
    """Without what Slicer says of its own memory: its extents are those of all segments that share a layer."""
    return {
        key: value
        for key, value in pairs.items()
        if key != "Segmentation_ConversionParameters" and not key.endswith("_Extent")
    }

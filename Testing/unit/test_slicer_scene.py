"""Scenes as 3D Slicer saves them (``.mrb``): made here by Slicer's own MRML where it is installed, and by hand."""

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from scipy.spatial.transform import Rotation

from ppcmi.data_folders import find_cases
from ppcmi.errors import GeometryError, PpcmiError, ReadError
from ppcmi.formats.itk_files import image_from_volume
from ppcmi.reading import read_image, read_volume
from ppcmi.sources import find_sources
from ppcmi.task_labels import read_labelled_case
from ppcmi.volume import Geometry, Volume
from ppcmi.writing import write_segmentation
from support.volumes import a_geometry, a_task

TURN = np.eye(4)
TURN[:3, :3] = Rotation.from_euler("xyz", (20, -10, 40), degrees=True).as_matrix()
TURN[:3, 3] = (5, -7, 30)
SHIFT = np.array([[1.0, 0, 0, 3], [0, 1, 0, -4], [0, 0, 1, 50], [0, 0, 0, 1]])

STORAGE = '<VolumeArchetypeStorage id="storage{0}" fileName="{1}" fileListMember0="{1}"></VolumeArchetypeStorage>'
VOLUME = '<Volume id="volume{0}" name="Jane" references="storage:storage{0};{1}"></Volume>'


def a_volume(seed=0):
    geometry = a_geometry((4, 5, 6), (0.7, 0.9, 2.5), origin=(-10.0, 20.5, 33.0))
    return Volume(np.random.default_rng(seed).integers(0, 1000, geometry.shape, dtype=np.int16), geometry)


def transform(name, matrix, above=""):
    numbers = " ".join(str(value) for value in np.ravel(matrix))
    reference = f"transform:{above};" if above else ""
    return (
        f'<LinearTransform id="{name}" references="{reference}" matrixTransformToParent="{numbers}"></LinearTransform>'
    )


def a_scene(path, body, files):
    """A scene by hand; ``files`` are volumes by the names that they have in it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as scene:
        scene.writestr("Scene/Scene.mrml", f'<?xml version="1.0"?><MRML version="Slicer">{body}</MRML>')
        for name, content in files.items():
            scene.writestr(f"Scene/{name}", nrrd(content, path.parent) if isinstance(content, Volume) else content)
    return path


def nrrd(volume, folder):
    place = folder / "member.nrrd"
    SimpleITK.WriteImage(image_from_volume(volume), str(place))
    content = place.read_bytes()
    place.unlink()
    return content


def one_volume(folder, references="", more="", volume=None):
    body = VOLUME.format(1, references) + STORAGE.format(1, "Data/Jane%20CT.nrrd") + more
    return a_scene(folder / "x.mrb", body, {"Data/Jane CT.nrrd": volume or a_volume()})


def check_same(found, voxels, matrix, atol=1e-6):
    np.testing.assert_array_equal(found.voxels, voxels)
    np.testing.assert_allclose(found.geometry.ijk_to_ras, matrix, atol=atol)


def test_a_scene_with_one_volume_is_that_volume(tmp_path):
    path = one_volume(tmp_path)
    check_same(read_volume(path), a_volume().voxels, a_volume().geometry.ijk_to_ras)
    (source,) = find_sources(path).images
    assert source.name == "x"


def test_each_volume_of_a_scene_is_an_image_and_no_name_of_a_node_is_shown(tmp_path):
    body = "".join(VOLUME.format(n, "") + STORAGE.format(n, f"Data/{n}.nrrd") for n in (1, 2))
    path = a_scene(tmp_path / "x.mrb", body, {"Data/1.nrrd": a_volume(1), "Data/2.nrrd": a_volume(2)})
    sources = find_sources(tmp_path).images
    assert [source.name for source in sources] == ["x-volume1", "x-volume2"]
    assert len({source.key for source in sources}) == 2
    for seed, source in enumerate(sources, start=1):
        np.testing.assert_array_equal(read_image(source).volume.voxels, a_volume(seed).voxels)
    with pytest.raises(ReadError, match="2 images"):
        read_volume(path)


def test_linear_transforms_put_a_volume_where_the_scene_has_it(tmp_path):
    more = transform("inner", TURN, above="outer") + transform("outer", SHIFT)
    path = one_volume(tmp_path, "transform:inner;", more)
    check_same(read_volume(path), a_volume().voxels, SHIFT @ TURN @ a_volume().geometry.ijk_to_ras)


@pytest.mark.parametrize(
    "more", ['<BSplineTransform id="t"></BSplineTransform>', '<LinearTransform id="t"></LinearTransform>', ""]
)
def test_other_transforms_are_refused(tmp_path, more):
    with pytest.raises(GeometryError, match="not linear; harden it"):
        read_volume(one_volume(tmp_path, "transform:t;", more))


def test_transforms_above_each_other_in_a_ring_are_refused(tmp_path):
    more = transform("one", TURN, above="other") + transform("other", SHIFT, above="one")
    with pytest.raises(ReadError, match="damaged"):
        read_volume(one_volume(tmp_path, "transform:one;", more))


@pytest.mark.parametrize(
    "place", ["../../secret.nrrd", "/etc/passwd", "%2e%2e/%2e%2e/secret.nrrd", "Data/missing.nrrd", "../Scene.mrml/.."]
)
def test_a_scene_reaches_no_file_outside_itself(tmp_path, place):
    (tmp_path / "secret.nrrd").write_bytes(b"NRRD0004")
    path = a_scene(tmp_path / "x.mrb", VOLUME.format(1, "") + STORAGE.format(1, place), {})
    with pytest.raises(ReadError, match="does not hold the volume's file"):
        read_volume(path)


def test_an_entity_that_blows_up_is_refused(tmp_path):
    lines = "".join(f'<!ENTITY a{n} "{"&a" + str(n - 1) + ";" if n else "ha"}' + "x" * 9 + '">' for n in range(9))
    with zipfile.ZipFile(tmp_path / "x.mrb", "w") as scene:
        scene.writestr("Scene/Scene.mrml", f"<!DOCTYPE MRML [{lines}]><MRML>&a8;</MRML>")
    with pytest.raises(ReadError, match="damaged"):
        read_volume(tmp_path / "x.mrb")


def test_what_is_no_scene_or_cut_off_is_one_sentence(tmp_path):
    whole = one_volume(tmp_path).read_bytes()
    for content in (b"PK\3\4" + bytes(100), whole[: len(whole) // 2], whole[:-10], b"text"):
        (tmp_path / "Jane.mrb").write_bytes(content)
        with pytest.raises(PpcmiError, match=r"^[A-Z][^\n]*\.$") as caught:
            read_volume(tmp_path / "Jane.mrb")
        assert "Jane" not in str(caught.value)
    with pytest.raises(ReadError, match="no volume"):
        read_volume(a_scene(tmp_path / "y.mrb", "", {}))


def test_a_scene_with_a_segmentation_is_a_labelled_case(tmp_path):
    (tmp_path / "images").mkdir()
    labels = Volume((a_volume().voxels % 3).astype(np.uint8), a_volume().geometry)
    write_segmentation(labels, a_task(), tmp_path / "s.seg.nrrd", {})
    body = VOLUME.format(1, "transform:t;") + STORAGE.format(1, "Data/1.nrrd") + transform("t", TURN)
    body += '<Segmentation id="s" references="storage:ss;transform:t;"></Segmentation>'
    body += '<SegmentationStorage id="ss" fileName="Data/S.seg.nrrd"></SegmentationStorage>'
    content = {"Data/1.nrrd": a_volume(), "Data/S.seg.nrrd": (tmp_path / "s.seg.nrrd").read_bytes()}
    a_scene(tmp_path / "images" / "x.mrb", body, content)
    (case,) = find_cases(tmp_path)
    image, found = read_labelled_case(case, a_task())
    check_same(image, a_volume().voxels, TURN @ a_volume().geometry.ijk_to_ras)
    check_same(found, labels.voxels, TURN @ labels.geometry.ijk_to_ras)


SAVED_BY_SLICER = """
import sys
import numpy as np
import slicer, vtk
from vtk.util.numpy_support import numpy_to_vtk
scene = slicer.vtkMRMLScene()
logic = slicer.vtkMRMLApplicationLogic()
logic.SetMRMLScene(scene)
scene.SetURL(sys.argv[1] + "/Scene.mrml")
scene.SetRootDirectory(sys.argv[1])
image = vtk.vtkImageData()
image.SetDimensions(6, 5, 4)
image.AllocateScalars(vtk.VTK_SHORT, 1)
image.GetPointData().SetScalars(numpy_to_vtk(np.arange(120, dtype=np.int16), deep=True))
volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Jane CT")
volume.SetAndObserveImageData(image)
volume.SetSpacing(0.7, 0.9, 2.5)
volume.SetOrigin(-10, 20.5, 33)
turn = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Turn")
matrix = vtk.vtkMatrix4x4()
matrix.DeepCopy([float(number) for number in sys.argv[2].split()])
turn.SetMatrixTransformToParent(matrix)
volume.SetAndObserveTransformNodeID(turn.GetID())
for node in (volume, turn):
    node.AddDefaultStorageNode()
assert logic.SaveSceneToSlicerDataBundleDirectory(sys.argv[1], None)
"""


def test_a_scene_that_slicers_own_mrml_saved_lies_where_slicer_has_it(tmp_path):
    pytest.importorskip("slicer")
    bundle = tmp_path / "Scene"
    bundle.mkdir()
    numbers = " ".join(str(value) for value in TURN.ravel())
    subprocess.run([sys.executable, "-c", SAVED_BY_SLICER, bundle, numbers], check=True, capture_output=True)
    with zipfile.ZipFile(tmp_path / "x.mrb", "w", zipfile.ZIP_DEFLATED) as scene:
        for file in sorted(Path(bundle).rglob("*.*")):
            scene.write(file, file.relative_to(tmp_path))
    plain = a_geometry((4, 5, 6), (0.7, 0.9, 2.5), origin=(-10.0, 20.5, 33.0))
    expected = Geometry(plain.shape, TURN @ plain.ijk_to_ras)
    check_same(
        read_volume(tmp_path / "x.mrb"), np.arange(120).reshape(4, 5, 6), expected.ijk_to_ras, atol=1e-4
    )  # 6 digits

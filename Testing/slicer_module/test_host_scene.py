"""The headless Slicer's scene, its files and its views behave as Slicer's do."""

import threading

import numpy as np
import pytest

from slicer_module.tiny_module import TINY, add_volume


def test_closing_the_scene_is_seen_by_the_module(slicer_host):
    import slicer

    tiny = slicer_host.load_module(TINY)
    slicer.mrmlScene.Clear(False)
    assert tiny.widget.events[-1] == "scene closes"


@pytest.mark.parametrize("extension", [".nrrd", ".nii.gz", ".mha"])
def test_a_volume_is_saved_exported_and_loaded(slicer_host, tmp_path, extension):
    import slicer.util

    voxels = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    to_ras = np.array([[-0.7, 0.0, 0.0, 10.0], [0.0, -0.8, 0.0, 20.0], [0.0, 0.0, 2.5, -30.0], [0.0, 0.0, 0.0, 1.0]])
    volume = slicer.util.addVolumeFromArray(voxels, to_ras, "Chest")
    exported, saved = str(tmp_path / f"exported{extension}"), str(tmp_path / f"saved{extension}")
    assert slicer.util.exportNode(volume, exported, {})
    assert volume.GetStorageNode() is None
    assert slicer.util.saveNode(volume, saved, {})
    for file in (exported, saved):
        loaded = slicer.util.loadVolume(file, {"name": "Again"})
        assert loaded.GetName().startswith("Again")
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(loaded), voxels)
        import vtk

        matrix = vtk.vtkMatrix4x4()
        loaded.GetIJKToRASMatrix(matrix)
        np.testing.assert_allclose(slicer.util.arrayFromVTKMatrix(matrix), to_ras, atol=1e-4)


def test_a_file_that_is_not_there_raises_on_loading(slicer_host, tmp_path):
    import slicer.util

    with pytest.raises(RuntimeError, match="Failed to load"):
        slicer.util.loadVolume(str(tmp_path / "none.nrrd"), {})


def test_a_segmentation_is_made_written_and_read(slicer_host, tmp_path):
    import slicer.util

    volume = add_volume("Chest")
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Parts")
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    node.GetSegmentation().AddEmptySegment("lung", "Lung", (1.0, 0.5, 0.0))
    mask = np.zeros((3, 4, 5), np.uint8)
    mask[1, 1:3, 2:4] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, "lung", volume)
    file = str(tmp_path / "parts.seg.nrrd")
    assert slicer.util.saveNode(node, file, {})
    loaded = slicer.util.loadSegmentation(file, {})
    assert loaded.GetSegmentation().GetSegment("lung").GetName() == "Lung"
    np.testing.assert_array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(loaded, "lung", volume), mask)


def test_the_subject_hierarchy_holds_volumes_and_segmentations(slicer_host):
    import slicer

    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "Study")
    volume = add_volume("Chest")
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Parts")
    for node in (volume, segmentation):
        hierarchy.SetItemParent(hierarchy.GetItemByDataNode(node), study)
    assert len(slicer.util.getSubjectHierarchyItemChildren(study)) == 2


def test_the_logics_of_slicers_own_modules_are_there(slicer_host):
    import slicer

    assert slicer.modules.volumes.logic().IsA("vtkSlicerVolumesLogic")
    assert slicer.modules.segmentations.logic().IsA("vtkSlicerSegmentationsModuleLogic")
    terminologies = slicer.modules.terminologies.logic()
    assert terminologies.GetNumberOfCategoriesInTerminology(
        "Segmentation category and type - 3D Slicer General Anatomy list"
    )


def test_slice_views_have_logics_that_show_the_volume(slicer_host):
    import slicer

    volume = add_volume("Chest")
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    logic = slicer.app.layoutManager().sliceWidget("Red").sliceLogic()
    assert logic.GetBackgroundLayer().GetVolumeNode() is volume
    logic.SetSliceOffset(1.0)
    assert logic.GetSliceOffset() == pytest.approx(1.0)


def test_the_scene_outside_the_main_thread_raises(slicer_host):
    import slicer

    errors = []

    def touch() -> None:
        try:
            slicer.mrmlScene.GetNumberOfNodes()
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=touch)
    thread.start()
    thread.join()
    assert errors
    assert slicer.mrmlScene is slicer_host.scene


def test_a_slice_and_the_surfaces_are_rendered_with_the_segmentation(slicer_host, tmp_path):
    import slicer.util
    from PIL import Image

    z, y, x = np.mgrid[:20, :32, :32]
    inside = np.hypot(np.hypot(x - 16, y - 16), z - 10) < 6
    volume = slicer.util.addVolumeFromArray((inside * 80 + 20).astype(np.int16), np.diag([-1.0, -1.0, 2.0, 1.0]), "V")
    volume.CreateDefaultDisplayNodes()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Parts")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    node.GetSegmentation().AddEmptySegment("ball", "Ball", (1.0, 0.0, 0.0))
    slicer.util.updateSegmentBinaryLabelmapFromArray(inside.astype(np.uint8), node, "ball", volume)
    node.CreateClosedSurfaceRepresentation()
    before = slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSliceNode")
    slicer_host.render_slice(tmp_path / "slice.png", volume, orientation="Sagittal", size=(200, 200))
    slicer_host.render_3d(tmp_path / "surface.png", size=(200, 200))
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSliceNode") == before
    for name in ("slice", "surface"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            red, green, _ = np.asarray(picture.convert("RGB")).astype(int)[100, 100]
            assert red - green > 80

"""Label maps into segmentation nodes, and segments of segmentation nodes as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import slicer
import vtk

from PPCMISegmentLib import VolumeNodes

if TYPE_CHECKING:
    from ppcmi.label_matching import SegmentFacts
    from ppcmi.task import Label, Task
    from ppcmi.volume import Volume

PROVENANCE = "PPCMI."
"""Start of the node attributes that say what made a segmentation."""

ALGORITHM_TAG, ALGORITHM = "DICOM.SegmentAlgorithmName", "PPCMI"
GRID_TOLERANCE = 0.05
"""Voxels by which two grids may differ and still be the same."""


def addSegmentation(
    labels: Volume,
    task: Task,
    volumeNode: slicer.vtkMRMLScalarVolumeNode,
    provenance: Mapping[str, str],
    name: str,
) -> slicer.vtkMRMLSegmentationNode:
    """A new segmentation of ``volumeNode``, beside it in subject hierarchy and under its transform.

    :param labels: on the volume's own grid; a label without a voxel gets no segment, as DICOM SEG knows no empty ones.
    :param provenance: kept as attributes of the node; nothing secret.
    """
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", slicer.mrmlScene.GenerateUniqueName(name))
    try:
        node.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
        node.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
        _importLabels(labels, task, volumeNode, node)
        for key, value in provenance.items():
            node.SetAttribute(PROVENANCE + key, value)
        node.CreateDefaultDisplayNodes()
        _placeBeside(volumeNode, node)
    except Exception:
        slicer.mrmlScene.RemoveNode(node)  # half a result must not stay in the scene
        raise
    return node


def earlierResult(volumeNode: slicer.vtkMRMLScalarVolumeNode, task: Task) -> slicer.vtkMRMLSegmentationNode | None:
    """The newest segmentation that this module made of the volume for the task, or None."""
    for node in reversed(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")):
        reference = node.GetNodeReference(slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole())
        if reference is volumeNode and node.GetAttribute(PROVENANCE + "task") == task.identity:
            return node
    return None


def replaceSegments(
    node: slicer.vtkMRMLSegmentationNode,
    labels: Volume,
    task: Task,
    volumeNode: slicer.vtkMRMLScalarVolumeNode,
    provenance: Mapping[str, str],
) -> None:
    """Put the result into an earlier result's node; its segments before that stay in a hidden backup node beside it.

    Segments that are not the task's own, such as ones that a user drew, stay as they are.
    """
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    backup = slicer.mrmlScene.AddNewNodeByClass(
        "vtkMRMLSegmentationNode", slicer.mrmlScene.GenerateUniqueName(f"{node.GetName()} backup")
    )
    backup.GetSegmentation().DeepCopy(node.GetSegmentation())
    backup.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
    backup.SetAndObserveTransformNodeID(node.GetTransformNodeID())
    backup.CreateDefaultDisplayNodes()
    backup.SetDisplayVisibility(False)
    hierarchy.SetItemParent(
        hierarchy.GetItemByDataNode(backup), hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node))
    )
    for label in task.labels:
        node.GetSegmentation().RemoveSegment(segmentId(label))
    _importLabels(labels, task, volumeNode, node)
    for key, value in provenance.items():
        node.SetAttribute(PROVENANCE + key, value)


def segmentId(label: Label) -> str:
    """The segment's id, the same in every segmentation of a task and in files that ``ppcmi`` writes."""
    return f"Segment_{label.value}"


def segmentationNodes() -> list[slicer.vtkMRMLSegmentationNode]:
    """Segmentations of the scene, in its order."""
    nodes = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    return [node for node in nodes if not node.GetHideFromEditors()]


def referenceVolume(node: slicer.vtkMRMLSegmentationNode) -> slicer.vtkMRMLScalarVolumeNode | None:
    """The image that a segmentation says it was made on."""
    role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    reference = node.GetNodeReference(role)
    return reference if reference is not None and reference.GetClassName() == "vtkMRMLScalarVolumeNode" else None


def segmentFacts(node: slicer.vtkMRMLSegmentationNode) -> list[SegmentFacts]:
    """What its segments are called."""
    from ppcmi.label_matching import SegmentFacts

    segmentation = node.GetSegmentation()
    segments = [(id_, segmentation.GetSegment(id_)) for id_ in segmentation.GetSegmentIDs()]
    return [SegmentFacts(id_, segment.GetName() or "", segment.GetTerminology() or "") for id_, segment in segments]


def madeByThisModule(node: slicer.vtkMRMLSegmentationNode, segmentIds: Sequence[str]) -> bool:
    """Whether one of the segments is a result of a model, as it was made or edited since."""
    text = vtk.reference("")
    segments = [node.GetSegmentation().GetSegment(id_) for id_ in segmentIds]
    return any(segment.GetTag(ALGORITHM_TAG, text) and str(text) == ALGORITHM for segment in segments)


def changedAt(node: slicer.vtkMRMLSegmentationNode) -> int:
    """A number that grows when segments are added, renamed or edited."""
    segmentation = node.GetSegmentation()
    parts = [segmentation.GetSegment(id_) for id_ in segmentation.GetSegmentIDs()]
    images = [node.GetBinaryLabelmapInternalRepresentation(id_) for id_ in segmentation.GetSegmentIDs()]
    return max(part.GetMTime() for part in [segmentation, *parts, *images] if part is not None)


def segmentMask(
    node: slicer.vtkMRMLSegmentationNode, segmentId: str, volumeNode: slicer.vtkMRMLScalarVolumeNode
) -> np.ndarray:
    """A segment as bool ``(k, j, i)`` on the volume's grid, the nearest voxel where its own grid is another.

    :raises ReadError: if it has no voxels of its own, such as a surface alone.
    """
    from ppcmi.errors import ReadError

    try:
        return slicer.util.arrayFromSegmentBinaryLabelmap(node, segmentId, volumeNode).astype(bool)
    except RuntimeError as error:
        raise ReadError("A segment cannot be made voxels; convert the segmentation to a binary labelmap.") from error


def ownMm3(node: slicer.vtkMRMLSegmentationNode, segmentId: str) -> float:
    """How large a segment is on its own grid, before anything is resampled."""
    image = node.GetBinaryLabelmapInternalRepresentation(segmentId)
    if image is None or image.GetPointData().GetScalars() is None:
        return 0.0
    value = node.GetSegmentation().GetSegment(segmentId).GetLabelValue()
    voxels = np.count_nonzero(slicer.util.arrayFromSegmentInternalBinaryLabelmap(node, segmentId) == value)
    return float(voxels * abs(np.linalg.det(_imageToWorld(image)[:3, :3])))


def liesOnGrid(node: slicer.vtkMRMLSegmentationNode, volumeNode: slicer.vtkMRMLScalarVolumeNode) -> bool:
    """Whether every segment's own voxels are voxels of the volume, so that nothing need be resampled."""
    if volumeNode.GetImageData() is None or node.GetTransformNodeID() != volumeNode.GetTransformNodeID():
        return False
    images = [node.GetBinaryLabelmapInternalRepresentation(id_) for id_ in node.GetSegmentation().GetSegmentIDs()]
    filled = [image for image in images if image is not None and image.GetNumberOfPoints()]
    toVolume = np.linalg.inv(VolumeNodes.ijkToRas(volumeNode))
    last = np.array(volumeNode.GetImageData().GetDimensions()) - 1
    for image in filled:
        between = toVolume @ _imageToWorld(image)
        offset = between[:3, 3]
        extent = np.array(image.GetExtent()).reshape(3, 2) + np.rint(offset)[:, None]
        if not (
            np.allclose(between[:3, :3], np.eye(3), atol=GRID_TOLERANCE / max(1, *last))
            and np.allclose(offset, np.rint(offset), atol=GRID_TOLERANCE)
            and (extent[:, 0] >= 0).all()
            and (extent[:, 1] <= last).all()
        ):
            return False
    return bool(filled)


def addConfidence(
    confidence: np.ndarray, volumeNode: slicer.vtkMRMLScalarVolumeNode, name: str
) -> slicer.vtkMRMLScalarVolumeNode:
    """A volume of the probabilities float32 ``(k, j, i)`` of the chosen labels, on the volume's grid, beside it."""
    node = _volumeLike(confidence, volumeNode, name, "vtkMRMLScalarVolumeNode")
    _placeBeside(volumeNode, node)
    return node


def _imageToWorld(image: slicer.vtkOrientedImageData) -> np.ndarray:
    """4 x 4 float64 from indices within the image's extent to the segmentation's coordinates."""
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def _importLabels(
    labels: Volume, task: Task, volumeNode: slicer.vtkMRMLScalarVolumeNode, node: slicer.vtkMRMLSegmentationNode
) -> None:
    """Add a segment for each label that occurs, named, colored and coded as the task says."""
    from ppcmi.writing import terminology_entry

    present = [label for label in task.labels if (labels.voxels == label.value).any()]
    ids = vtk.vtkStringArray()
    for label in task.labels:
        ids.InsertNextValue(segmentId(label) if label in present else "")  # an empty id leaves that value out
    for label in present:
        segment = slicer.vtkSegment()
        segment.SetName(label.name)
        segment.SetColor(*(channel / 255 for channel in label.color))
        segment.SetTerminology(terminology_entry(label))
        segment.SetTag("DICOM.SegmentAlgorithmType", "AUTOMATIC")
        segment.SetTag(ALGORITHM_TAG, ALGORITHM)
        node.GetSegmentation().AddSegment(segment, segmentId(label))
    if not present:
        return
    labelmap = _volumeLike(labels.voxels, volumeNode, "PPCMI labels", "vtkMRMLLabelMapVolumeNode")
    try:
        logic = slicer.modules.segmentations.logic()
        if not logic.ImportLabelmapToSegmentationNode(labelmap, node, ids):
            raise RuntimeError("The labels could not be imported into the segmentation.")
    finally:
        display = labelmap.GetDisplayNode()
        slicer.mrmlScene.RemoveNode(labelmap)
        if display is not None:
            slicer.mrmlScene.RemoveNode(display)


def _volumeLike(
    voxels: np.ndarray, volumeNode: slicer.vtkMRMLScalarVolumeNode, name: str, className: str
) -> slicer.vtkMRMLScalarVolumeNode:
    """A node of ``voxels`` on the grid and under the transform of ``volumeNode``."""
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    node = slicer.util.addVolumeFromArray(np.ascontiguousarray(voxels), matrix, name, className)
    node.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
    return node


def _placeBeside(volumeNode: slicer.vtkMRMLScalarVolumeNode, node: slicer.vtkMRMLDisplayableNode) -> None:
    """Under the same study in subject hierarchy, which DICOM export asks for."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    hierarchy.SetItemParent(
        hierarchy.GetItemByDataNode(node), hierarchy.GetItemParent(hierarchy.GetItemByDataNode(volumeNode))
    )

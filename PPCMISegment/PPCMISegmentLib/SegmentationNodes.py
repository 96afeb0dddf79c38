"""Label maps into segmentation nodes, and segments of segmentation nodes as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import slicer
import vtk

if TYPE_CHECKING:
    from ppcmi.task import Label, Task
    from ppcmi.volume import Volume

PROVENANCE = "PPCMI."
"""Start of the node attributes that say what made a segmentation."""


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


def labelsFromSegments(
    node: slicer.vtkMRMLSegmentationNode, segmentIds: Sequence[str], volumeNode: slicer.vtkMRMLScalarVolumeNode
) -> list[np.ndarray]:
    """Each segment as bool ``(k, j, i)`` on the volume's grid; segments may overlap."""
    return [slicer.util.arrayFromSegmentBinaryLabelmap(node, id_, volumeNode).astype(bool) for id_ in segmentIds]


def addConfidence(
    confidence: np.ndarray, volumeNode: slicer.vtkMRMLScalarVolumeNode, name: str
) -> slicer.vtkMRMLScalarVolumeNode:
    """A volume of the probabilities float32 ``(k, j, i)`` of the chosen labels, on the volume's grid, beside it."""
    node = _volumeLike(confidence, volumeNode, name, "vtkMRMLScalarVolumeNode")
    _placeBeside(volumeNode, node)
    return node


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
        segment.SetTag("DICOM.SegmentAlgorithmName", "PPCMI")
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

"""The subject hierarchy follows the scene: in Slicer a Qt plugin logic does that, which the wheel does not have."""

from typing import Any

import slicer
import vtk

_OWNERS = {
    "vtkMRMLSegmentationNode": "Segmentations",
    "vtkMRMLLabelMapVolumeNode": "LabelMaps",
    "vtkMRMLVolumeNode": "Volumes",
    "vtkMRMLModelNode": "Models",
    "vtkMRMLTransformNode": "Transforms",
    "vtkMRMLTableNode": "Tables",
    "vtkMRMLTextNode": "Texts",
    "vtkMRMLPlotChartNode": "Charts",
    "vtkMRMLPlotSeriesNode": "PlotSeries",
}


class SubjectHierarchyFollower:
    """Gives every visible data node an item under the scene's, and takes the item away with the node."""

    def __init__(self, scene: Any) -> None:
        self._scene = scene
        scene.AddObserver(scene.NodeAddedEvent, self._added)
        scene.AddObserver(scene.NodeAboutToBeRemovedEvent, self._removed)
        scene.AddObserver(scene.EndImportEvent, lambda *_: self._add_missing())

    def _hierarchy(self) -> Any:
        return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self._scene)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _added(self, _scene: Any, _event: str, node: Any) -> None:
        if not self._scene.IsImporting():
            self._add(node)

    def _add(self, node: Any) -> None:
        owner = next((name for kind, name in _OWNERS.items() if node.IsA(kind)), None)
        hierarchy = self._hierarchy()
        if owner and not node.GetHideFromEditors() and not hierarchy.GetItemByDataNode(node):
            hierarchy.CreateItem(hierarchy.GetSceneItemID(), node, owner)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _removed(self, _scene: Any, _event: str, node: Any) -> None:
        if self._scene.IsClosing() or node.IsA("vtkMRMLSubjectHierarchyNode"):
            return
        item = self._hierarchy().GetItemByDataNode(node)
        if item:
            self._hierarchy().RemoveItem(item, False, False)

    def _add_missing(self) -> None:
        for index in range(self._scene.GetNumberOfNodes()):
            self._add(self._scene.GetNthNode(index))

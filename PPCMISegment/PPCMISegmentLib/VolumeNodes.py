"""Volume nodes of the scene as volumes of ``ppcmi``: voxels copied, IJK to RAS as the node states it.

A parent transform is left alone: what is made of a volume is placed under the same transform. Only where it bends space
would slices no longer be flat, and the volume is refused.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import slicer

if TYPE_CHECKING:
    from ppcmi.task import Task
    from ppcmi.volume import Geometry, Volume

MODALITY_ATTRIBUTE = "DICOM.Modality"
MARKED_SLICES = 32


def scalarVolumeNodes() -> list[slicer.vtkMRMLScalarVolumeNode]:
    """Images of the scene that could be segmented, in the scene's order; label maps and color images are none."""
    nodes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    return [
        node for node in nodes if node.GetClassName() == "vtkMRMLScalarVolumeNode" and not node.GetHideFromEditors()
    ]


def shapeOf(node: slicer.vtkMRMLScalarVolumeNode) -> tuple[int, int, int] | None:
    """Voxels along ``(k, j, i)`` without reading them, or None if the node has no image."""
    image = node.GetImageData()
    return None if image is None else tuple(reversed(image.GetDimensions()))


def geometryOf(node: slicer.vtkMRMLScalarVolumeNode) -> Geometry:
    """Shape and IJK to RAS of a node that has an image.

    :raises GeometryError: if the affine is not usable, or a dimension is empty.
    """
    from ppcmi.volume import Geometry

    return Geometry(shapeOf(node), ijkToRas(node))


def volumeFromNode(node: slicer.vtkMRMLScalarVolumeNode, task: Task) -> Volume:
    """A copy of the node's voxels ``(k, j, i)`` with its IJK to RAS, in the node's own coordinates.

    :raises ReadError: if it is empty, has a color or vector at each voxel, or is of another modality than the task's.
    :raises GeometryError: if its affine is not usable or a non-linear transform lies above it.
    """
    from ppcmi.errors import GeometryError, ReadError
    from ppcmi.volume import Volume

    image = node.GetImageData()
    if image is None or image.GetPointData().GetScalars() is None:
        raise ReadError("The volume has no image; load it again.")
    if image.GetNumberOfScalarComponents() != 1:
        raise ReadError("The volume is in color or has several values at each voxel; segment a gray-scale volume.")
    task.require_modality(modalityOf(node))
    transform = node.GetParentTransformNode()
    if transform is not None and not transform.IsTransformToWorldLinear():
        raise GeometryError(
            "The volume lies under a non-linear transform, so its slices are not flat; harden the transform on a copy "
            "or take the volume out of it."
        )
    voxels = np.array(slicer.util.arrayFromVolume(node), copy=True)  # threads must not read memory that VTK may free
    return Volume(voxels, geometryOf(node))


def markOf(node: slicer.vtkMRMLScalarVolumeNode) -> str:
    """Eight hexadecimal digits that tell one patient's volume from another's of the same name, in every session.

    They are made of the affine and of slices across the whole volume, and stay at the site.
    """
    digest = hashlib.sha256(ijkToRas(node).tobytes())
    voxels = slicer.util.arrayFromVolume(node)
    for slice_ in voxels[:: max(1, len(voxels) // MARKED_SLICES)]:
        digest.update(np.ascontiguousarray(slice_).tobytes())
    return digest.hexdigest()[:8]


def modalityOf(node: slicer.vtkMRMLScalarVolumeNode) -> str | None:
    """The DICOM modality (C.7.3.1.1.1) where the volume was loaded from DICOM, else None."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = hierarchy.GetItemByDataNode(node) if hierarchy is not None else 0
    return hierarchy.GetItemAttribute(item, MODALITY_ATTRIBUTE) or None if item else None


def ijkToRas(node: slicer.vtkMRMLScalarVolumeNode) -> np.ndarray:
    """4 x 4 float64 from voxel indices to RAS millimetres, without parent transforms."""
    import vtk

    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)

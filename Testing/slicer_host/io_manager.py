"""`slicer.app.coreIOManager()`: nodes and scenes from and to files, by Slicer's own storage nodes and logics."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import slicer
from PySide6 import QtCore

# File type -> extensions it reads, in the order in which they are tried.
_READERS: dict[str, tuple[str, ...]] = {
    "SceneFile": (".mrml", ".mrb"),
    "SegmentationFile": (".seg.nrrd", ".seg.nhdr", ".seg.vtm"),
    "ModelFile": (".vtk", ".vtp", ".stl", ".ply", ".obj"),
    "TransformFile": (".h5", ".tfm"),
    "TableFile": (".csv", ".tsv"),
    "TextFile": (".txt", ".json", ".xml"),
    "VolumeFile": (".nrrd", ".nhdr", ".nii.gz", ".nii", ".mha", ".mhd", ".dcm", ".tif", ".tiff", ".png", ".jpg"),
}
_NODE_CLASSES = {
    "ModelFile": "vtkMRMLModelNode",
    "TransformFile": "vtkMRMLTransformNode",
    "TableFile": "vtkMRMLTableNode",
    "TextFile": "vtkMRMLTextNode",
    "SegmentationFile": "vtkMRMLSegmentationNode",
}
_VOLUME_OPTIONS = {"labelmap": 1, "center": 2, "singleFile": 4, "autoWindowLevel": 8, "discardOrientation": 16}
_AUTO_WINDOW_LEVEL = 8
# Slicer takes these from ITK's factories, which the wheel registers only as they are used.
_VOLUME_FORMATS = [
    "NRRD (.nrrd)",
    "NRRD (.nhdr)",
    "MetaImage (.mha)",
    "MetaImage (.mhd)",
    "NIfTI (.nii)",
    "NIfTI (.nii.gz)",
    "VTK (.vtk)",
    "TIFF (.tif)",
    "PNG (.png)",
]


class IOManager(QtCore.QObject):
    """qSlicerCoreIOManager over the scene's storage nodes."""

    cpp_class_name: ClassVar[str] = "qSlicerIOManager"
    newFileLoaded = QtCore.Signal("QVariantMap")
    fileSaved = QtCore.Signal("QVariantMap")

    def __init__(self, scene: Any, logics: Mapping[str, Any]) -> None:
        super().__init__()
        self._scene, self._logics = scene, logics

    def fileType(self, file_name: str) -> str:
        """Name the kind of file by its extension, as `loadNodes` takes it."""
        lower = Path(file_name).name.lower()
        for file_type, extensions in _READERS.items():
            if lower.endswith(extensions):
                return file_type
        return "VolumeFile" if Path(file_name).is_file() and "." not in lower else "NoFile"

    def loadNodes(
        self, file_type: str, properties: Mapping[str, Any], loaded: Any = None, messages: Any = None
    ) -> bool:
        """Load a file; give True and fill `loaded` where it worked."""
        file_name = str(properties["fileName"])
        if file_type == "SceneFile":
            return self._load_scene(file_name, clear=bool(properties.get("clear", False)))
        if not Path(file_name).exists():
            return False
        node = self._load_volume(file_name, properties) if file_type == "VolumeFile" else None
        node = node or (self._load_by_storage(file_type, file_name, properties) if file_type in _NODE_CLASSES else None)
        if node is None:
            return False
        if loaded is not None:
            loaded.AddItem(node)
        return True

    def _load_volume(self, file_name: str, properties: Mapping[str, Any]) -> Any:
        options = sum(bit for name, bit in _VOLUME_OPTIONS.items() if properties.get(name))
        if "autoWindowLevel" not in properties:
            options |= _AUTO_WINDOW_LEVEL
        name = properties.get("name") or Path(file_name).name.split(".")[0]
        node = self._logics["Volumes"].AddArchetypeVolume(file_name, name, options)
        if node is not None and properties.get("show", True):
            app_logic = self._logics["Volumes"].GetMRMLApplicationLogic()
            app_logic.GetSelectionNode().SetActiveVolumeID(node.GetID())
            app_logic.PropagateVolumeSelection()
        return node

    def _load_by_storage(self, file_type: str, file_name: str, properties: Mapping[str, Any]) -> Any:
        name = properties.get("name") or Path(file_name).name.split(".")[0]
        if file_type == "SegmentationFile":
            color = self._scene.GetNodeByID(str(properties.get("colorNodeID", "")))
            return self._logics["Segmentations"].LoadSegmentationFromFile(
                file_name, bool(properties.get("autoOpacities", True)), name, color
            )
        node = self._scene.AddNewNodeByClass(_NODE_CLASSES[file_type], self._scene.GenerateUniqueName(name))
        node.AddDefaultStorageNode(file_name)
        if not node.GetStorageNode().ReadData(node):
            self._scene.RemoveNode(node)
            return None
        if isinstance(node, slicer.vtkMRMLDisplayableNode):
            node.CreateDefaultDisplayNodes()
        return node

    def _load_scene(self, file_name: str, *, clear: bool) -> bool:
        if file_name.lower().endswith(".mrb"):
            return bool(self._scene.ReadFromMRB(file_name, clear))
        self._scene.SetURL(file_name)
        return bool(self._scene.Connect() if clear else self._scene.Import())

    def fileWriterFileType(self, node: Any, _format: str = "") -> str:
        """Name the writer that `saveNodes` uses for a node."""
        storage = node.CreateDefaultStorageNode() if isinstance(node, slicer.vtkMRMLStorableNode) else None
        if storage is None:
            return "NoFile"
        storage.UnRegister(None)
        return "SegmentationFile" if node.IsA("vtkMRMLSegmentationNode") else "NodeFile"

    def fileWriterExtensions(self, node: Any) -> list[str]:
        """Give the formats a node can be written in, as "NRRD (.nrrd)"."""
        if node.IsA("vtkMRMLVolumeNode"):
            return _VOLUME_FORMATS
        storage = node.CreateDefaultStorageNode()
        storage.UnRegister(None)
        types = storage.GetSupportedWriteFileTypes()
        return [types.GetValue(i) for i in range(types.GetNumberOfValues())]

    def extractKnownExtension(self, file_name: str, node: Any) -> str:
        """Give the longest extension of the file name in which the node can be written, "" where there is none."""
        format_helper = slicer.vtkDataFileFormatHelper
        known = [format_helper.GetFileExtensionFromFormatString(f) for f in self.fileWriterExtensions(node)]
        return max((e for e in known if file_name.lower().endswith(e.lower())), key=len, default="")

    def saveNodes(self, file_type: str, properties: Mapping[str, Any], messages: Any = None) -> bool:
        """Write the scene ("SceneFile") or one node, whose storage node keeps the file name."""
        file_name = str(properties["fileName"])
        if file_type == "SceneFile":
            return self._save_scene(file_name)
        node = self._scene.GetNodeByID(properties["nodeID"])
        if node is None or file_type == "NoFile":
            return False
        if node.GetStorageNode() is None:
            node.AddDefaultStorageNode()
        storage = node.GetStorageNode()
        storage.SetFileName(file_name)
        storage.SetUseCompression(int(properties.get("useCompression", True)))
        return bool(storage.WriteData(node))

    def _save_scene(self, file_name: str) -> bool:
        if file_name.lower().endswith(".mrb"):
            return bool(self._scene.WriteToMRB(file_name, None))
        if file_name.lower().endswith(".mrml"):
            self._scene.SetURL(file_name)
            return bool(self._scene.Commit())
        return bool(self._logics["Application"].SaveSceneToSlicerDataBundleDirectory(file_name, None))

    def exportNodes(
        self, node_ids: list[str], file_names: list[str], properties: Any, harden: bool, messages: Any = None
    ) -> bool:
        """Write nodes without touching their own storage nodes; `properties` is one mapping for all."""
        if harden:
            raise NotImplementedError("The test host does not export in world coordinates.")
        return all(
            self._export(self._scene.GetNodeByID(node_id), str(file_name), properties)
            for node_id, file_name in zip(node_ids, file_names, strict=True)
        )

    def _export(self, node: Any, file_name: str, properties: Mapping[str, Any]) -> bool:
        storage = node.CreateDefaultStorageNode()
        storage.UnRegister(None)
        storage.SetScene(self._scene)
        storage.SetFileName(file_name)
        storage.SetUseCompression(int(properties.get("useCompression", True)))
        return bool(storage.WriteData(node))

"""Volumes and the segmentation of a scene that 3D Slicer saved as one file, ``.mrb``.

It is a ZIP file of a scene description (MRML, XML) and the files that it names. Each scalar volume is an image. Linear
transforms above it count, as they say where it lies in the scene; any other transform is refused. Nothing is unpacked
but the one file that is read, into a private temporary folder that is gone at once.

MRML: https://slicer.readthedocs.io/en/latest/developer_guide/mrml_overview.html.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote
from xml.parsers import expat

import numpy as np

from ppcmi.errors import GeometryError, ReadError
from ppcmi.formats.declared_size import require_plausible_size
from ppcmi.volume import Geometry, Matrix

SCENE_ENDING = ".mrb"
READ_ENDINGS = (".seg.nrrd", ".nrrd", ".nii.gz", ".nii", ".mha")
LARGEST_DESCRIPTION = 1 << 25
MOST_TRANSFORMS = 32
LINEAR = "LinearTransform"

DAMAGED = "The scene is damaged or cut off; save it again from 3D Slicer."

Read = TypeVar("Read")


@dataclass(frozen=True, eq=False)
class SceneItem:
    """A volume or segmentation of a scene.

    :param member: of the ZIP file that it lies in.
    :param to_world: 4 x 4, from its own RAS millimetres to the scene's.
    """

    member: str
    to_world: Matrix

    def placed(self, geometry: Geometry) -> Geometry:
        """Its geometry where transforms put it."""
        return Geometry(geometry.shape, self.to_world @ geometry.ijk_to_ras)


def scene_marks(path: Path) -> tuple[str, ...]:
    """What tells the scene's volumes apart, in the scene's order; one empty mark if there is only one.

    :raises ReadError: if it is no scene, damaged, or without a volume.
    """
    return tuple(_marked_volumes(_description(path)))


def scene_volume(path: Path, mark: str) -> SceneItem:
    """One of the scene's volumes.

    :raises ReadError: if it is not there, or the scene is damaged.
    :raises GeometryError: if a transform above it is not linear.
    """
    scene = _description(path)
    volumes = _marked_volumes(scene)
    if mark not in volumes:
        raise ReadError("The scene has changed: the volume is not in it any more.")
    return _item(scene, volumes[mark])


def scene_segmentation(path: Path) -> SceneItem:
    """The scene's one segmentation.

    :raises ReadError: if it has none or several, or is damaged.
    :raises GeometryError: if a transform above it is not linear.
    """
    scene = _description(path)
    found = _nodes_of(scene, "Segmentation")
    if len(found) != 1:
        raise ReadError(f"The scene has {len(found)} segmentations; save the one to use as a file of its own.")
    return _item(scene, found[0])


def read_member(path: Path, item: SceneItem, read: Callable[[Path], Read]) -> Read:
    """What ``read`` makes of a file in the scene.

    :raises ReadError: if the file is missing, damaged, or of a format that has its voxels elsewhere.
    """
    ending = next((ending for ending in READ_ENDINGS if item.member.lower().endswith(ending)), None)
    if ending is None:
        raise ReadError("The scene holds the volume in a format that is not read; save the volume as NRRD.")
    try:
        with zipfile.ZipFile(path) as scene, tempfile.TemporaryDirectory(prefix="ppcmi-") as folder:
            info = scene.getinfo(item.member)
            require_plausible_size(info.compress_size, info.file_size)
            place = Path(folder) / f"item{ending}"
            with scene.open(info) as packed, place.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
            return read(place)
    except (KeyError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ReadError(DAMAGED) from error


@dataclass(frozen=True, eq=False)
class _Scene:
    """Nodes by id, in the scene's order, each its element's name and attributes; ``members`` of the ZIP file."""

    nodes: Mapping[str, tuple[str, Mapping[str, str]]]
    folder: str
    members: frozenset[str]


def _description(path: Path) -> _Scene:
    try:
        with zipfile.ZipFile(path) as scene:
            descriptions = [info for info in scene.infolist() if info.filename.lower().endswith(".mrml")]
            if len(descriptions) != 1:
                raise ReadError(DAMAGED)
            with scene.open(descriptions[0]) as stream:
                text = stream.read(LARGEST_DESCRIPTION + 1)
            members = frozenset(scene.namelist())
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ReadError(DAMAGED) from error
    if len(text) > LARGEST_DESCRIPTION:
        raise ReadError("The scene's description is far larger than 3D Slicer writes it; save the volume as a file.")
    return _Scene(_nodes(text), posixpath.dirname(descriptions[0].filename), members)


def _nodes(text: bytes) -> dict[str, tuple[str, Mapping[str, str]]]:
    """Elements that have an id. A document type, which scenes do not have, could blow up in memory."""
    nodes: dict[str, tuple[str, Mapping[str, str]]] = {}

    def start(name: str, attributes: Mapping[str, str]) -> None:
        if "id" in attributes:
            nodes.setdefault(attributes["id"], (name, attributes))

    def refuse(*_: object) -> None:
        raise ReadError(DAMAGED)

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(text, True)
    except (expat.ExpatError, ValueError) as error:
        raise ReadError(DAMAGED) from error
    return nodes


def _nodes_of(scene: _Scene, name: str) -> list[Mapping[str, str]]:
    return [attributes for kind, attributes in scene.nodes.values() if kind == name]


def _marked_volumes(scene: _Scene) -> dict[str, Mapping[str, str]]:
    volumes = _nodes_of(scene, "Volume")
    if not volumes:
        raise ReadError("The scene has no volume; save the volume to segment as a file of its own.")
    if len(volumes) == 1:
        return {"": volumes[0]}
    return {f"volume{number}": volume for number, volume in enumerate(volumes, start=1)}


def _item(scene: _Scene, node: Mapping[str, str]) -> SceneItem:
    _, storage = scene.nodes.get(_reference(node, "storage"), ("", {}))
    names = {unquote(value) for key, value in storage.items() if key == "fileName" or key.startswith("fileListMember")}
    if len(names) != 1:
        raise ReadError("The scene holds the volume in no file, or in several; save it as one NRRD file.")
    member = posixpath.normpath(posixpath.join(scene.folder, names.pop()))
    if member.startswith(("/", "..")) or member not in scene.members:
        raise ReadError("The scene does not hold the volume's file; save it again from 3D Slicer.")
    return SceneItem(member, _to_world(scene, node))


def _to_world(scene: _Scene, node: Mapping[str, str]) -> Matrix:
    """Product of the transforms above a node, the outermost first."""
    to_world: Matrix = np.eye(4)
    for _ in range(MOST_TRANSFORMS):
        above = _reference(node, "transform")
        if not above:
            return to_world
        kind, node = scene.nodes.get(above, ("", {}))
        if kind != LINEAR or "matrixTransformToParent" not in node:
            raise GeometryError("The volume has a transform in the scene that is not linear; harden it in 3D Slicer.")
        try:
            matrix = np.array(node["matrixTransformToParent"].split(), dtype=np.float64).reshape(4, 4)
        except ValueError as error:
            raise ReadError(DAMAGED) from error
        to_world = matrix @ to_world
    raise ReadError(DAMAGED)


def _reference(node: Mapping[str, str], role: str) -> str:
    """Id that a node refers to, in either of the two ways that scenes have; empty if there is none."""
    found = re.search(rf"(?:^|;)\s*{role}:([^;\s]+)", node.get("references", ""))
    return found[1] if found else node.get(f"{role}NodeRef", "")

"""The panel *What leaves*: one slice, the numbers that would be sent, and the best picture that needs no inner key."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import slicer
from slicer.i18n import tr as _

from PPCMISegmentLib import VolumeNodes
from PPCMISegmentLib.Dependencies import Dependencies, DependencyError
from PPCMISegmentLib.SegmentLogic import SegmentLogic
from PPCMISegmentLib.SiteAccess import SiteAccess
from PPCMISegmentLib.Steps import Steps, inBackground, sentenceOf

if TYPE_CHECKING:
    from ppcmi.preview import Preview
    from ppcmi.slicing import SliceGrid
    from ppcmi.task import Task

PICTURE_PIXELS = 150
PROFILES = ("coarse", "minimal", "full")
VIEWS = {"axial": "Red", "sagittal": "Yellow", "coronal": "Green"}


class PreviewPanel:
    """Widgets of the panel; nothing it does sends a latent.

    :param resourcePath: the module's own.
    """

    def __init__(
        self, resourcePath: Callable[[str], str], site: SiteAccess, logic: SegmentLogic, dependencies: Dependencies
    ) -> None:
        self._site, self._logic, self._dependencies = site, logic, dependencies
        self._tasks: list[Task] = []
        self._steps = Steps()
        self.widget = slicer.util.loadUI(resourcePath("UI/PreviewPanel.ui"))
        self.ui = slicer.util.childWidgetVariables(self.widget)
        self.widget.setMRMLScene(slicer.mrmlScene)
        for key, text in zip(PROFILES, (_("Coarse (usual)"), _("Minimal"), _("Full")), strict=True):
            self.ui.profileSelector.addItem(text, key)
        self.ui.previewButton.connect("clicked()", self.onPreviewButton)
        self.ui.fromViewButton.connect("clicked()", self.onFromViewButton)
        self.ui.volumeSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.onVolumeChanged)
        self.ui.taskSelector.connect("currentIndexChanged(int)", self.onGridChanged)
        self._tag = slicer.mrmlScene.AddObserver(slicer.vtkMRMLScene.StartCloseEvent, self._onSceneStartClose)

    def close(self) -> None:
        """End what is under way and let go of the scene."""
        self._steps.cancel()
        slicer.mrmlScene.RemoveObserver(self._tag)

    def refresh(self) -> None:
        """List the site's tasks."""
        chosen = self.ui.taskSelector.currentData
        self._tasks = []
        if self._site.isSetUp and not self._dependencies.missing():
            try:
                self._tasks = [part.task for part in self._site.profile().tasks()]
            except Exception as error:
                self.ui.messageLabel.text = sentenceOf(error)
        self.ui.taskSelector.clear()
        for task in self._tasks:
            self.ui.taskSelector.addItem(task.title, task.name)
        self.ui.taskSelector.currentIndex = max(0, self.ui.taskSelector.findData(chosen)) if self._tasks else -1
        self.onGridChanged()

    def onVolumeChanged(self, _node: object = None) -> None:
        """Pictures of one patient must not stand under another's name."""
        self._forget()
        self.onGridChanged()

    def _onSceneStartClose(self, _caller: object, _event: str) -> None:
        self._forget()

    def _forget(self) -> None:
        """End what is under way, and show no picture."""
        self._steps.cancel()
        for label in (
            self.ui.imagePicture, self.ui.imageCaption, self.ui.leavingPicture, self.ui.leavingCaption,
            self.ui.serverPicture, self.ui.serverCaption, self.ui.meaningLabel,
        ):  # fmt: skip
            label.text = ""
        self._finish("")

    def onGridChanged(self, _value: object = None) -> None:
        """Another volume or task has other slices."""
        grid = self._grid()
        self.ui.previewButton.enabled = grid is not None
        self.ui.fromViewButton.enabled = grid is not None
        self.ui.sliceSlider.maximum = 0 if grid is None else len(grid) - 1
        self.ui.sliceSlider.value = 0 if grid is None else len(grid) // 2

    def onFromViewButton(self) -> None:
        """The slice at the center of the slice view that shows the task's orientation.

        Views show the world; slices are cut in the volume's own space, which transforms may have moved.
        """
        from ppcmi.preview import nearest_slice

        grid, task, node = self._grid(), self._task(), self.ui.volumeSelector.currentNode()
        layout = slicer.app.layoutManager()
        if grid is None or task is None or node is None or layout is None:
            return
        view = layout.sliceWidget(VIEWS[task.slicing.axis]).mrmlSliceNode()
        toRas = slicer.util.arrayFromVTKMatrix(view.GetSliceToRAS())
        center = [0.0, 0.0, 0.0]
        node.TransformPointFromWorld(toRas[:3, 3], center)
        self.ui.sliceSlider.value = nearest_slice(grid, tuple(center))

    def onPreviewButton(self) -> None:
        """Protect the slice and show the pictures."""
        task, node = self._task(), self.ui.volumeSelector.currentNode()
        if task is None or node is None or self._steps.running:
            return
        try:
            self._dependencies.ensure()
            volume = VolumeNodes.volumeFromNode(node, task)
        except DependencyError as error:
            self.ui.messageLabel.text = str(error)
            return
        except Exception as error:
            self.ui.messageLabel.text = sentenceOf(error)
            return
        index, profileName = int(self.ui.sliceSlider.value), self.ui.profileSelector.currentData

        def preview() -> Preview:
            from ppcmi.consortium import ensure_codec
            from ppcmi.preview import preview_slice
            from ppcmi.protection import protection_of
            from ppcmi.scales import Profile
            from ppcmi.slicing import VolumeSlices

            site = self._site.profile()
            part = site.task(task.name)
            codec = ensure_codec(site.client(), part)
            (picture,) = VolumeSlices(volume, task)[index : index + 1]
            return preview_slice(picture, codec, protection_of(site, part, codec.fingerprint, Profile(profileName)))

        self.ui.messageLabel.text = _("Encoding and protecting the slice; nothing is sent.")
        self.ui.previewButton.enabled = False
        self._steps.start(
            inBackground(self._logic.worker, preview),
            onEvent=lambda _none: None,
            onDone=self._show,
            onError=lambda error: self._finish(sentenceOf(error)),
        )

    def _show(self, preview: Preview) -> None:
        shown = (
            (self.ui.imagePicture, preview.image),
            (self.ui.leavingPicture, preview.leaving),
            (self.ui.serverPicture, preview.server.picture),
        )
        for label, picture in shown:
            label.text = pictureTag(picture)
        self.ui.imageCaption.text = _("<b>The slice.</b> It stays here.")
        self.ui.leavingCaption.text = _("<b>What leaves:</b> {count:,} numbers, {size:.1f} kB.").format(
            count=preview.numbers, size=preview.bytes / 1000
        )
        self.ui.serverCaption.text = _(
            "<b>What the server can make of it</b> without the inner key: correlation {value:.2f} with the slice."
        ).format(value=preview.server.correlation)
        self.ui.meaningLabel.text = _(
            "Whoever sees the numbers on their way, without any key, gets a correlation of {outsider:.2f}, about what "
            "noise gives. The server undoes its own layer; the inner key stays with the consortium. With images of the "
            "same kind the server could train a decoder and see more than this picture shows: the numbers are data "
            "about a patient."
        ).format(outsider=preview.outsider.correlation)
        self._finish("")

    def _finish(self, message: str) -> None:
        self.ui.messageLabel.text = message
        self.ui.previewButton.enabled = self._grid() is not None

    def _task(self) -> Task | None:
        index = self.ui.taskSelector.currentIndex
        return self._tasks[index] if 0 <= index < len(self._tasks) else None

    def _grid(self) -> SliceGrid | None:
        """How the task cuts the volume, or None where there is no task or no volume that it can cut."""
        task, node = self._task(), self.ui.volumeSelector.currentNode()
        if task is None or node is None or VolumeNodes.shapeOf(node) is None:
            return None
        from ppcmi.errors import PpcmiError
        from ppcmi.slicing import slice_grid

        try:
            return slice_grid(VolumeNodes.geometryOf(node), task.slicing)
        except PpcmiError as error:
            self.ui.messageLabel.text = str(error)
            return None


def pictureTag(picture: np.ndarray) -> str:
    """A gray picture ``(h, w)`` in 0..1 as rich text for a label, without a file that could be left behind."""
    from ppcmi.png import encode_png

    pixels = np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    encoded = base64.b64encode(encode_png(pixels)).decode()
    scale = PICTURE_PIXELS / max(pixels.shape)
    height, width = (round(size * scale) for size in pixels.shape)
    return f'<img src="data:image/png;base64,{encoded}" width="{width}" height="{height}">'

"""The panel *Segment privately*: volumes in a queue, one button, what leaves, progress, results."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import qt
import slicer
from slicer.i18n import tr as _

from PPCMISegmentLib import VolumeNodes
from PPCMISegmentLib.Dependencies import Dependencies, DependencyError
from PPCMISegmentLib.DeviceSelector import DeviceSelector
from PPCMISegmentLib.SegmentLogic import Choices, QueueEvent, SegmentLogic
from PPCMISegmentLib.Settings import Settings
from PPCMISegmentLib.SiteAccess import SiteAccess, TaskOffer
from PPCMISegmentLib.Steps import Steps, sentenceOf
from PPCMISegmentLib.VolumeQueue import VolumeQueue

if TYPE_CHECKING:
    from ppcmi.pipeline import Progress
    from PPCMISegmentLib.ParameterNode import PPCMISegmentParameterNode
    from PPCMISegmentLib.SegmentLogic import CaseResult


class SegmentPanel:
    """Widgets of the panel, and the run that is under way.

    :param resourcePath: the module's own.
    :param site: where the site profile is.
    :param dependencies: asked for when the button is clicked, never before.
    """

    def __init__(
        self, resourcePath: Callable[[str], str], site: SiteAccess, logic: SegmentLogic, dependencies: Dependencies
    ) -> None:
        self._site, self._logic, self._dependencies, self._settings = site, logic, dependencies, Settings()
        self._run, self._asking = Steps(), Steps()
        self._offers: list[TaskOffer] = []
        self._parameterNode: PPCMISegmentParameterNode | None = None
        self._started, self._failed, self._empty = 0.0, 0, 0
        self.widget = slicer.util.loadUI(resourcePath("UI/SegmentPanel.ui"))
        self.ui = slicer.util.childWidgetVariables(self.widget)
        self._queue = VolumeQueue(self.ui.volumesTable, self._showWhatLeaves)
        self.ui.resultsTable.verticalHeader().setVisible(False)
        self.ui.resultsTable.horizontalHeader().setStretchLastSection(True)
        self._device = DeviceSelector(self.ui.deviceSelector, self._settings)
        self._fillQuantizationSelector()
        self.ui.segmentButton.connect("clicked()", self.onSegmentButton)
        self.ui.refreshButton.connect("clicked()", self.refresh)
        self.ui.taskSelector.connect("currentIndexChanged(int)", self.onTaskChanged)
        self.ui.outputSelector.connect("currentIndexChanged(int)", self.onChoiceChanged)
        self.ui.confidenceCheckBox.connect("toggled(bool)", self.onChoiceChanged)
        self.ui.show3DCheckBox.connect("toggled(bool)", self.onChoiceChanged)

    # ---- life

    def close(self) -> None:
        """End what is under way and let go of the scene."""
        self._asking.cancel()
        self._run.cancel()
        self._queue.close()

    def setParameterNode(self, parameterNode: PPCMISegmentParameterNode | None) -> None:
        """Show the scene's choices; None before a scene closes, which ends a run."""
        if parameterNode is None:
            self._showMessage("")  # what was said was about the patient whose scene is closed
            self._stop(_("Cancelled, as the scene was closed; nothing was written."))
            self._clearResults()
        self._parameterNode = None
        if parameterNode is not None:
            self.ui.outputSelector.currentIndex = int(parameterNode.replaceEarlier)
            self.ui.confidenceCheckBox.checked = parameterNode.withConfidence
            self.ui.show3DCheckBox.checked = parameterNode.show3D
            self._selectTask(parameterNode.taskName or self._settings.text("task"))
        self._parameterNode = parameterNode
        self._queue.refresh()

    def refresh(self) -> None:
        """List the site's tasks, and ask the server in the background which of them have an active model."""
        if self._run.running:
            return
        self._device.refresh()
        self._asking.cancel()
        if not self._site.isSetUp:
            self._showOffers([])
            self.ui.siteLabel.text = _('This workstation belongs to no site yet; the tab "Site" sets it up.')
            return
        if self._dependencies.missing():
            self._showOffers([])
            self.ui.siteLabel.text = _('Some Python packages are missing; the tab "Site" installs them.')
            return
        try:
            self._showOffers([TaskOffer(part) for part in self._site.profile().tasks()])
            name = self._site.profile().identity.site_name
        except Exception as error:
            self.ui.siteLabel.text = sentenceOf(error)
            return
        self.ui.siteLabel.text = _("{site}; asking its server...").format(site=name)

        def show(offers: list[TaskOffer]) -> None:
            self.ui.siteLabel.text = _("{site}; its server answers.").format(site=name)
            self._showOffers(offers)

        def showError(error: Exception) -> None:
            self.ui.siteLabel.text = _("{site}. {problem}").format(site=name, problem=sentenceOf(error))

        self._asking.start(
            self._site.offersSteps(self._logic.network), onEvent=lambda event: None, onDone=show, onError=showError
        )

    # ---- choices

    def _fillQuantizationSelector(self) -> None:
        for key, text in (
            ("i4", _("4 bits a value")),
            ("i8", _("8 bits a value")),
            ("f16", _("16 bits a value")),
            ("f32", _("32 bits a value")),
        ):
            self.ui.quantizationSelector.addItem(text, key)
        selector = self.ui.quantizationSelector
        selector.currentIndex = max(0, selector.findData(self._settings.text("quantization")))
        selector.connect("currentIndexChanged(int)", self.onChoiceChanged)

    def onChoiceChanged(self, _value: object = None) -> None:
        """Remember what was chosen: in the scene what belongs to it, the rest in the settings."""
        self._settings.keep("quantization", self.ui.quantizationSelector.currentData)
        if self._parameterNode is not None:
            self._parameterNode.replaceEarlier = self.ui.outputSelector.currentIndex == 1
            self._parameterNode.withConfidence = self.ui.confidenceCheckBox.checked
            self._parameterNode.show3D = self.ui.show3DCheckBox.checked
        self._showWhatLeaves()

    def onTaskChanged(self, _index: int = 0) -> None:
        """Show the task's labels, and what would leave."""
        offer = self._offer()
        if offer is not None:
            self._settings.keep("task", offer.task.name)
            if self._parameterNode is not None:
                self._parameterNode.taskName = offer.task.name
        self.ui.labelsLabel.text = (
            ""
            if offer is None
            else "   ".join(
                f'<span style="color:rgb{label.color}">&#9632;</span>&nbsp;{label.name}' for label in offer.task.labels
            )
        )
        self._showWhatLeaves()

    def _showOffers(self, offers: list[TaskOffer]) -> None:
        chosen = self._offer()
        name = chosen.task.name if chosen else self._settings.text("task")
        self._offers = offers
        blocked = self.ui.taskSelector.blockSignals(True)
        self.ui.taskSelector.clear()
        for offer in offers:
            self.ui.taskSelector.addItem(offer.task.title, offer.task.name)
        self.ui.taskSelector.blockSignals(blocked)
        self._selectTask(name)

    def _selectTask(self, name: str) -> None:
        self.ui.taskSelector.currentIndex = max(0, self.ui.taskSelector.findData(name)) if self._offers else -1
        self.onTaskChanged()

    def _offer(self) -> TaskOffer | None:
        index = self.ui.taskSelector.currentIndex
        return self._offers[index] if 0 <= index < len(self._offers) else None

    def _showWhatLeaves(self) -> None:
        """The line under the button, and whether it can be clicked."""
        if self._run.running:
            return
        offer, nodes = self._offer(), self._queue.checkedNodes()
        reason = self._reasonNotToStart(offer, nodes)
        self.ui.segmentButton.enabled = reason is None
        self.ui.segmentButton.toolTip = reason or _("Segment the checked volumes with the help of the site's server.")
        self.ui.leavesLabel.text = reason or self._whatLeaves(offer, nodes)

    def _reasonNotToStart(self, offer: TaskOffer | None, nodes: list[slicer.vtkMRMLScalarVolumeNode]) -> str | None:
        if offer is None:
            return _('There is no task to choose from; the tab "Site" founds or joins one.')
        if offer.asked and offer.model is None:
            return _("The server has no active model for this task yet; ask its operator.")
        if not self._queue.nodes():
            return _("Load a volume first.")
        return None if nodes else _("Check at least one volume.")

    def _whatLeaves(self, offer: TaskOffer, nodes: list[slicer.vtkMRMLScalarVolumeNode]) -> str:
        from ppcmi.quantization import Quantization
        from ppcmi.scales import Profile
        from ppcmi.what_leaves import NOTHING_LEAVES, Sending, segmentation_leaves, what_goes, what_stays

        profile = offer.profile or Profile.COARSE
        if not offer.part.asks_server(profile):
            return NOTHING_LEAVES
        geometries = [VolumeNodes.geometryOf(node) for node in nodes if VolumeNodes.shapeOf(node) is not None]
        quantization = Quantization(self.ui.quantizationSelector.currentData)
        sending = Sending.of(offer.part, profile, quantization)
        leaving = segmentation_leaves(geometries, offer.task, sending)
        return " ".join([*what_goes(leaving), what_stays(leaving)])

    # ---- the run

    def onSegmentButton(self) -> None:
        """Start, or cancel what is under way."""
        if self._run.running:
            self._stop(_("Cancelled; what was finished before is kept."))
            return
        try:
            self._dependencies.ensure()
        except DependencyError as error:
            self._showMessage(str(error))
            return
        nodes, offer = self._queue.checkedNodes(), self._offer()
        if offer is None or not nodes:
            return
        self._asking.cancel()
        choices = Choices(
            offer.task.name,
            device=self._device.chosen,
            quantization=self.ui.quantizationSelector.currentData,
            replaceEarlier=self.ui.outputSelector.currentIndex == 1,
            withConfidence=self.ui.confidenceCheckBox.checked,
        )
        self._clearResults()
        self._setRunning(True)
        self._failed = self._empty = 0
        for node in nodes:
            self._queue.setStatus(node, _("waiting"))
        self._run.start(
            self._logic.queueSteps(nodes, choices, mayUseCpu=self._mayUseCpu),
            onEvent=self._showEvent,
            onDone=lambda _none: self._finish(self._summary()),
            onError=lambda error: self._finish(sentenceOf(error)),
        )

    def _summary(self) -> str:
        said = [_("Done.")]
        if self._failed:
            text = _("{count} of the volumes could not be segmented; the table says why.")
            said = [text.format(count=self._failed)]
        if self._empty:
            said.append(_("No structure was found in {count} of the volumes.").format(count=self._empty))
        return " ".join(said)

    def _mayUseCpu(self) -> bool:
        return slicer.util.confirmYesNoDisplay(
            _("The graphics card's memory is too small for this volume. Go on with the processor, which is slower?")
        )

    def _showEvent(self, event: QueueEvent) -> None:
        if event.state == "connecting":
            self._showMessage(_("Connecting to the server and loading the codec..."))
        elif event.state == "working":
            if event.progress is None:
                self._started = time.monotonic()
            else:
                self._showProgress(event.progress)
            self._queue.setStatus(event.volumeNode, _("working"))
        elif event.state == "failed":
            self._failed += 1
            self._queue.setStatus(event.volumeNode, sentenceOf(event.error))
        elif event.result is not None:
            done = _("done, {size} sent")
            if event.result.foundNothing:
                self._empty += 1
                done = _("done, no structure was found in it, {size} sent")
            self._queue.setStatus(event.volumeNode, done.format(size=_size(event.result.progress.bytes_sent)))
            self._queue.uncheck(event.volumeNode)
            self._showResult(event.result)

    def _showProgress(self, progress: Progress) -> None:
        self.ui.progressBar.maximum = max(1, progress.total)
        self.ui.progressBar.value = progress.done
        passed = time.monotonic() - self._started
        left = passed / progress.done * (progress.total - progress.done) if progress.done else None
        doing = {
            "slice": _("Slicing"), "encode": _("Encoding"), "map": _("Waiting for the server"),
            "decode": _("Decoding"), "restore": _("Restoring the volume's grid"),
        }[progress.stage]  # fmt: skip
        text = _("{doing}: {done} of {total} slices, {sent} sent").format(
            doing=doing, done=progress.done, total=progress.total, sent=_size(progress.bytes_sent)
        )
        self._showMessage(text if left is None else text + _(", about {seconds:.0f} s left").format(seconds=left + 1))

    def _showResult(self, result: CaseResult) -> None:
        table = self.ui.resultsTable
        table.setRowCount(len(result.volumesMl))
        for row, (name, milliliters) in enumerate(result.volumesMl.items()):
            text = f"{milliliters:.2f}" if milliliters else _("not found")
            table.setItem(row, 0, qt.QTableWidgetItem(name))
            table.setItem(row, 1, qt.QTableWidgetItem(text))
        table.resizeColumnsToContents()
        table.setFixedHeight(table.horizontalHeader().height + sum(map(table.rowHeight, range(table.rowCount))) + 2)
        table.visible = True
        self.ui.show3DButton.setSegmentationNode(result.segmentationNode)
        self.ui.show3DButton.visible = True
        if self.ui.show3DCheckBox.checked:
            result.segmentationNode.CreateClosedSurfaceRepresentation()

    def _clearResults(self) -> None:
        self.ui.resultsTable.setRowCount(0)
        self.ui.resultsTable.visible = False
        self.ui.show3DButton.setSegmentationNode(None)
        self.ui.show3DButton.visible = False

    def _stop(self, message: str) -> None:
        if self._run.running:
            self._run.cancel()
            self._finish(message)

    def _finish(self, message: str) -> None:
        self._queue.clearStatus({_("waiting"), _("working")})
        self._setRunning(False)
        self._showMessage(message)

    def _setRunning(self, running: bool) -> None:
        self.ui.segmentButton.text = _("Cancel") if running else _("Segment privately")
        self.ui.progressBar.visible = running
        self.ui.progressBar.value = 0
        for widget in (self.ui.taskSelector, self.ui.refreshButton, self.ui.advancedCollapsibleButton):
            widget.enabled = not running
        self._queue.setEditable(not running)
        if running:
            self.ui.segmentButton.toolTip = _("End after the present batch; results that are finished stay.")
            self.ui.segmentButton.enabled = True
        else:
            self._showWhatLeaves()

    def _showMessage(self, text: str) -> None:
        self.ui.messageLabel.text = text


def _size(count: int) -> str:
    """A number of bytes that were sent."""
    from ppcmi.wording import megabytes

    return megabytes(count) if count else _("nothing")

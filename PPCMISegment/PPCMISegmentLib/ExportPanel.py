"""The panel *Export*: labelled cases, checked, to a file or to the server, after a question that says what leaves."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import qt
import slicer
from slicer.i18n import tr as _

from PPCMISegmentLib.CaseDetails import CaseDetails
from PPCMISegmentLib.CasePair import CasePair
from PPCMISegmentLib.CasePairs import CasePairs
from PPCMISegmentLib.CohortUpload import CohortUpload
from PPCMISegmentLib.Consent import ConsentQuestion
from PPCMISegmentLib.Dependencies import Dependencies, DependencyError
from PPCMISegmentLib.ExportLogic import ExportEvent, ExportLogic, ExportResult
from PPCMISegmentLib.ExportOptions import ExportOptions
from PPCMISegmentLib.PrivacyCheckSection import PrivacyCheckSection
from PPCMISegmentLib.SegmentLogic import SegmentLogic
from PPCMISegmentLib.Settings import Settings
from PPCMISegmentLib.SiteAccess import SiteAccess
from PPCMISegmentLib.Steps import Steps, sentenceOf

if TYPE_CHECKING:
    from ppcmi.task_profile import TaskProfile

SCENE, FOLDER = "scene", "folder"
BAR_PARTS = 1000


class ExportPanel:
    """Widgets of the panel, and the export or upload that is under way.

    :param resourcePath: the module's own.
    """

    def __init__(
        self, resourcePath: Callable[[str], str], site: SiteAccess, logic: SegmentLogic, dependencies: Dependencies
    ) -> None:
        self._site, self._dependencies, self._settings = site, dependencies, Settings()
        self._logic, self._consent = ExportLogic(site.folder, logic.worker), ConsentQuestion(site)
        self._run = Steps()
        self._doing: Literal["nothing", "exporting", "finishing", "sending"] = "nothing"
        self._parts: list[TaskProfile] = []
        self._problem = ""
        self.widget = slicer.util.loadUI(resourcePath("UI/ExportPanel.ui"))
        details = slicer.util.loadUI(resourcePath("UI/CaseDetails.ui"))
        slicer.util.findChild(self.widget, "caseCollapsibleButton").layout().addWidget(details)
        self.ui = slicer.util.childWidgetVariables(self.widget)
        self.pairs = CasePairs(self.ui.casesTable, logic.worker, self._showWhatLeaves, self._showPair)
        self._details = CaseDetails(self.ui, self.pairs.changed)
        self._options = ExportOptions(self.ui, self._settings, self._showWhatLeaves)
        self.privacy = PrivacyCheckSection(
            resourcePath, site, logic.worker, dependencies, self.pairs, self._options.chooseProfile
        )
        self.ui.privacyCollapsibleButton.layout().addWidget(self.privacy.widget)
        self._upload = CohortUpload(
            self.ui, site, self._logic, self._run,
            onStarted=self._onSending, onMessage=self._showMessage, onFinished=self._finish,
        )  # fmt: skip
        self.ui.sourceSelector.addItem(_("The scene"), SCENE)
        self.ui.sourceSelector.addItem(_("A folder"), FOLDER)
        self.ui.exportButton.connect("clicked()", self.onExportButton)
        self.ui.taskSelector.connect("currentIndexChanged(int)", self.onCasesChanged)
        self.ui.sourceSelector.connect("currentIndexChanged(int)", self.onCasesChanged)
        self.ui.folderPathLineEdit.connect("currentPathChanged(QString)", self.onCasesChanged)
        self.ui.agreedCollapsibleButton.connect("contentsCollapsed(bool)", self.onAgreedOpened)
        self._tag = slicer.mrmlScene.AddObserver(slicer.vtkMRMLScene.StartCloseEvent, self._onSceneStartClose)
        self._showDoing("nothing")

    # ---- life

    def close(self) -> None:
        """End what is under way and let go of the scene."""
        self._run.cancel()
        self.privacy.close()
        self.pairs.close()
        self._upload.close()
        self._logic.close()
        slicer.mrmlScene.RemoveObserver(self._tag)

    def refresh(self) -> None:
        """List the site's tasks and the cases, and what was not sent to its end."""
        if self._run.running:
            return
        self._parts, self._problem = [], ""
        if not self._site.isSetUp:
            self._problem = _('This workstation belongs to no site yet; the tab "Site" sets it up.')
        elif self._dependencies.missing():
            self._problem = _('Some Python packages are missing; the tab "Site" installs them.')
        else:
            try:
                self._parts = self._site.profile().tasks()
                self._upload.refresh()
            except Exception as error:
                self._problem = sentenceOf(error)
        selector, chosen = self.ui.taskSelector, self.ui.taskSelector.currentData or self._settings.text("task")
        blocked = selector.blockSignals(True)
        selector.clear()
        for part in self._parts:
            selector.addItem(part.task.title, part.task.name)
        selector.currentIndex = max(0, selector.findData(chosen)) if self._parts else -1
        selector.blockSignals(blocked)
        self.onCasesChanged()
        self.onAgreedOpened()

    def _onSceneStartClose(self, _caller: object, _event: str) -> None:
        if self._doing == "exporting" and self.ui.sourceSelector.currentData == SCENE:
            self._stop(_("Cancelled, as the scene was closed; nothing was exported."))

    # ---- what would be exported

    def onCasesChanged(self, _value: object = None) -> None:
        """List the cases of the scene or of the folder."""
        part, folder = self._part(), self.ui.folderPathLineEdit.currentPath.strip()
        self._options.showChoicesOf(part)
        fromFolder = self.ui.sourceSelector.currentData == FOLDER
        self.ui.folderRow.visible = fromFolder
        self.privacy.show(part)
        if part is None or (fromFolder and not folder):
            self.pairs.clear()
        elif fromFolder:
            self.pairs.showFolder(Path(folder), part.task)
        else:
            self.pairs.showScene(part.task)

    def onAgreedOpened(self, _collapsed: bool = False) -> None:
        """Show the log's last entries."""
        if not self.ui.agreedCollapsibleButton.collapsed:
            self.ui.agreedText.setPlainText(self._consent.lastEntries())

    def _part(self) -> TaskProfile | None:
        index = self.ui.taskSelector.currentIndex
        return self._parts[index] if 0 <= index < len(self._parts) else None

    def _showPair(self, pair: CasePair | None) -> None:
        self.ui.caseCollapsibleButton.visible = pair is not None
        if pair is not None:
            self.ui.caseCollapsibleButton.text = _("Chosen case: {name}").format(name=pair.imageName)
        self._details.show(pair)

    def _showWhatLeaves(self) -> None:
        """The line under the button, and whether it can be clicked."""
        self.privacy.showCases()
        if self._run.running:
            return
        reason, text = self._reasonNotToStart(), ""
        if reason is None:
            try:
                text = self._whatLeaves()
            except Exception as error:
                reason = sentenceOf(error)
        self.ui.exportButton.text = _("Export and send...") if self._options.toServer else _("Export to a file...")
        self.ui.exportButton.enabled = reason is None
        self.ui.exportButton.toolTip = reason or _("Before anything is written or sent you are asked.")
        self.ui.leavesLabel.text = escape(reason or text)

    def _reasonNotToStart(self) -> str | None:
        if self._problem or self.pairs.problem:
            return self._problem or self.pairs.problem
        if self._part() is None:
            return _('There is no task to choose from; the tab "Site" founds or joins one.')
        if self.pairs.checking:
            return _("Checking the cases...")
        return None if self.pairs.usablePairs() else self._reasonForNoCase()

    def _reasonForNoCase(self) -> str:
        if self.pairs.checkedPairs():
            return _("None of the checked cases can be exported; the table says why.")
        if self.pairs.pairs():
            return _("Check at least one case.")
        if self.ui.sourceSelector.currentData == FOLDER:
            return _('Choose a folder with "images" and "labels" in it.')
        return _("Load a volume and its segmentation first, or choose a folder.")

    def _whatLeaves(self) -> str:
        from ppcmi.what_leaves import what_goes, what_stays

        leaving = self._logic.leavingOf(self.pairs.geometries(), self._options.choices(self._part()))
        left = len(self.pairs.checkedPairs()) - leaving.cases
        note = [_("Checked cases that cannot be exported stay out: {count}.").format(count=left)] if left else []
        return " ".join([*note, *what_goes(leaving), what_stays(leaving)])

    # ---- the export

    def onExportButton(self) -> None:
        """Ask and start, or cancel what is under way."""
        if self._doing == "sending":
            self._stop(_("Cancelled; what the server has stays there, and the rest can be sent later."))
        elif self._run.running:
            self._stop(_("Cancelled; no file was written and nothing was sent."))
        else:
            try:
                self._ask()
            except DependencyError as error:
                self._showMessage(str(error))
            except Exception as error:
                self._showMessage(sentenceOf(error))
            self.onAgreedOpened()

    def _ask(self) -> None:
        """Have the user agree to what leaves, and start."""
        self._dependencies.ensure()
        part, pairs, cases = self._part(), self.pairs.usablePairs(), self.pairs.labelledCases()
        if part is None or not cases:
            return
        choices, toServer = self._options.choices(part), self._options.toServer
        leaving = self._logic.leavingOf(self.pairs.geometries(), choices)
        if self._consent.wantsPrivacyCheck(part, leaving.sending.profile):
            self.ui.privacyCollapsibleButton.collapsed = False
            self.privacy.start()
            self._showMessage(_("Nothing was written or sent. Export once the privacy check is done."))
            return
        path = self._upload.newPath() if toServer else self._askPath()
        if path is None:
            return
        if not self._consent.agreed("upload" if toServer else "export", leaving):
            self._upload.close()
            self._showMessage(_("Nothing was written or sent."))
            return
        unusable = [pair for pair in self.pairs.checkedPairs() if pair not in pairs]
        leftOut = {pair.imageName: pair.status for pair in unusable}
        self.ui.summaryLabel.text = ""
        self._showDoing("exporting")
        self._run.start(
            self._logic.exportSteps(cases, choices, path),
            onEvent=lambda event: self._showExport(event, pairs),
            onDone=lambda result: self._exported(result, leftOut, toServer),
            onError=lambda error: self._finish(sentenceOf(error)),
        )

    def _askPath(self) -> Path | None:
        name = qt.QFileDialog.getSaveFileName(
            slicer.util.mainWindow(), _("Export to a file"), "cohort.ppcmi", _("Cohort (*.ppcmi)")
        )
        if not name:
            return None
        return Path(name) if name.endswith(".ppcmi") else Path(f"{name}.ppcmi")

    def _showExport(self, event: ExportEvent, pairs: list[CasePair]) -> None:
        if event.state == "opening":
            self._showMessage(_("Loading the codec..."))
        elif event.state == "finishing":
            self._showDoing("finishing")
            self._showMessage(_("Finishing the file..."))
        elif event.state == "skipped":
            self.pairs.setNote(pairs[event.case], _("left out: {reason}").format(reason=event.skipped))
        elif event.state == "added":
            self.pairs.setNote(pairs[event.case], _("exported"))
            self.pairs.uncheck(pairs[event.case])
        else:
            self.pairs.setNote(pairs[event.case], _("working"))
            self.ui.progressBar.maximum = BAR_PARTS * len(pairs)
            share = event.encoded / event.total if event.total else 0.0
            self.ui.progressBar.value = round(BAR_PARTS * (event.case + share))
            self._showMessage(_progressText(event, len(pairs)))

    def _exported(self, result: ExportResult, leftOut: dict[str, str], toServer: bool) -> None:
        self.ui.summaryLabel.text = _summary(result, {**leftOut, **result.skipped})
        if not toServer:
            self._finish(_("Done: the file is written."))
            return
        try:
            self._upload.send(result.path, result.leaving)
        except Exception as error:
            self._finish(sentenceOf(error))

    def _onSending(self) -> None:
        self._showDoing("sending")

    # ---- the end

    def _stop(self, message: str) -> None:
        self._run.cancel()
        self._finish(message)

    def _finish(self, message: str) -> None:
        for pair in self.pairs.pairs():
            if pair.note == _("working"):
                self.pairs.setNote(pair, "")
        self._showDoing("nothing")
        self.refresh()
        self._showMessage(message)

    def _showDoing(self, doing: Literal["nothing", "exporting", "finishing", "sending"]) -> None:
        self._doing, idle = doing, doing == "nothing"
        self.ui.progressBar.visible = not idle
        if doing != "finishing":
            self.ui.progressBar.value = 0
        for widget in (self.ui.choicesWidget, self.ui.advancedCollapsibleButton, self.ui.waitingRow):
            widget.enabled = idle
        self.pairs.setEditable(idle)
        self._details.setEditable(idle)
        if idle:
            self._showWhatLeaves()
        else:
            self.ui.exportButton.text = _("Cancel")
            self.ui.exportButton.toolTip = _("End at once. A file that is not whole is removed.")
            self.ui.exportButton.enabled = doing != "finishing"  # then there is nothing left to cancel

    def _showMessage(self, text: str) -> None:
        self.ui.messageLabel.text = escape(text)


def _progressText(event: ExportEvent, cases: int) -> str:
    """How far the export is; slices are encoded several times where encodings are augmented."""
    from ppcmi.wording import megabytes

    where = _("Case {number} of {count}").format(number=event.case + 1, count=cases)
    so_far = _("so far {slices} slices, {size}").format(slices=event.slices, size=megabytes(event.bytesWritten))
    if event.state == "reading" or not event.total:
        return _("{where}: reading; {so_far}").format(where=where, so_far=so_far)
    doing = _("{done} of {total} encodings").format(done=event.encoded, total=event.total)
    return f"{where}: {doing}; {so_far}"


def _summary(result: ExportResult, leftOut: dict[str, str]) -> str:
    """What was exported and what was left out, as rich text."""
    from ppcmi.wording import counted, megabytes

    leaving = result.leaving
    lines = [
        _("<b>Exported:</b> {cases}, {slices}, each {times}, {size}; profile {profile}.").format(
            cases=counted(leaving.cases, "case"),
            slices=counted(leaving.slices, "slice"),
            times=counted(leaving.times, "time"),
            size=megabytes(leaving.bytes),
            profile=leaving.sending.profile,
        )
    ]
    if leftOut:
        lines.append(_("<b>Left out:</b>"))
        lines += [f"&#8226; {escape(name)}: {escape(reason)}" for name, reason in leftOut.items()]
    return "<br>".join(lines)

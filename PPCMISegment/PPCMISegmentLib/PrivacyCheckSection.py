"""Section *Privacy check* of the panel *Export*: attack what would leave, here, and choose a profile knowing that.

It runs in a child process, so Slicer stays usable, and it ends with Slicer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import qt
import slicer
from slicer.i18n import tr as _

from ppcmi.errors import PpcmiError
from PPCMISegmentLib.CasePair import WRONG
from PPCMISegmentLib.CasePairs import CasePairs
from PPCMISegmentLib.Dependencies import Dependencies, DependencyError
from PPCMISegmentLib.DeviceSelector import DeviceSelector
from PPCMISegmentLib.PrivacyCheckSteps import LEFT_OUT, CheckResult, patientsOf, privacyCheckSteps
from PPCMISegmentLib.PrivacyCheckTable import PrivacyCheckTable
from PPCMISegmentLib.Settings import Settings
from PPCMISegmentLib.SiteAccess import SiteAccess
from PPCMISegmentLib.Steps import Steps, sentenceOf

if TYPE_CHECKING:
    from ppcmi.privacy_check import PrivacyCheck
    from ppcmi.privacy_words import Notice
    from ppcmi.task_profile import TaskProfile

QUICK, FULL = "quick", "full"
KEY = "privacyCheckAttacks"
BAR_PARTS = 1000
NOTICE_STYLE = "margin-top:0px; margin-bottom:4px"


class PrivacyCheckSection:
    """Widgets of the section, and the check that is under way.

    :param resourcePath: the module's own.
    :param pairs: the panel's cases; those that are checked and usable are taken.
    :param onUse: called with the profile that a user chose.
    """

    def __init__(
        self,
        resourcePath: Callable[[str], str],
        site: SiteAccess,
        worker: Executor,
        dependencies: Dependencies,
        pairs: CasePairs,
        onUse: Callable[[str], None],
    ) -> None:
        self._site, self._worker, self._dependencies, self._pairs = site, worker, dependencies, pairs
        self._settings, self._run = Settings(), Steps()
        self._part: TaskProfile | None = None
        self._shown: TaskProfile | None = None
        self._made: _Made | None = None
        self.widget = slicer.util.loadUI(resourcePath("UI/PrivacyCheckPanel.ui"))
        self.ui = slicer.util.childWidgetVariables(self.widget)
        self._table = PrivacyCheckTable(self.ui, onUse)
        self._device = DeviceSelector(self.ui.deviceSelector, self._settings)
        for key, text in ((QUICK, _("Quick, minutes")), (FULL, _("Full, hours without a GPU"))):
            self.ui.attacksSelector.addItem(text, key)
        self.ui.attacksSelector.currentIndex = max(0, self.ui.attacksSelector.findData(self._settings.text(KEY)))
        self.ui.attacksSelector.connect("currentIndexChanged(int)", self._onAttacksChosen)
        self.ui.checkButton.connect("clicked()", self.onCheckButton)
        self.ui.saveReportButton.connect("clicked()", self.onSaveReportButton)
        self._showRunning()

    @property
    def running(self) -> bool:
        """Whether a check is under way."""
        return self._run.running

    def close(self) -> None:
        """End what is under way."""
        self._run.cancel()

    def show(self, part: TaskProfile | None) -> None:
        """Show a task's last check; while one is under way its messages stay, and the task is shown afterwards."""
        self._part = part
        if self._run.running:
            return
        if not _isSameTask(part, self._shown):
            self.ui.messageLabel.text = ""
        self._shown = part
        self._device.refresh()
        check = None
        try:
            check = self._lastCheck(part)
        except Exception as error:
            self.ui.messageLabel.text = escape(sentenceOf(error))
        self._table.show(check)
        if self._made is not None and check is not None and self._made.check == check.name:
            for event in self._made.pictures:
                self._table.addPictures(event)
        self.ui.stateLabel.text = escape(_stateText(part, check))
        self.ui.noticesLabel.text = "".join(map(_noticeText, check.notices)) if check else ""
        self.ui.noticesLabel.visible = bool(self.ui.noticesLabel.text)
        self._showRunning()

    def showCases(self) -> None:
        """Other cases are chosen."""
        if not self._run.running:
            self._showRunning()

    # ---- the check

    def onCheckButton(self) -> None:
        """Check what is chosen, or cancel the check."""
        if self._run.running:
            self._run.cancel()
            self._finish(_("Cancelled; the last check is as it was, and the copies are removed."))
        else:
            self.start()

    def start(self) -> None:
        """Check the chosen cases of the task; installs what it needs after asking."""
        part, pairs = self._part, self._pairs.usablePairs()
        if part is None or not pairs or self._run.running or self._reasonForNoCheck():
            return
        try:
            self._dependencies.ensure()
            self._dependencies.ensureForPrivacyCheck()
            cases, patients = self._pairs.labelledCases(), patientsOf(pairs)
        except DependencyError as error:
            self.ui.messageLabel.text = escape(str(error))
            return
        except Exception as error:
            self.ui.messageLabel.text = escape(sentenceOf(error))
            return
        self._made = _Made(part)
        self.ui.messageLabel.text = ""
        self._run.start(
            privacyCheckSteps(self._words(part), cases, patients, part.task, self._worker),
            onEvent=partial(self._onEvent, self._made),
            onDone=partial(self._onDone, self._made),
            onError=lambda error: self._finish(sentenceOf(error)),
        )
        self._showRunning()

    def _words(self, part: TaskProfile) -> Sequence[str]:
        attacks, site = str(self.ui.attacksSelector.currentData).split(), str(self._site.folder)
        words = ["audit", "--task", part.task.name, "--site", site, "--device", self._device.chosen]
        return [*words, "--attacks", *attacks]

    def _onEvent(self, made: _Made, event: Mapping[str, Any] | None) -> None:
        if event is None:
            return
        kind = event["event"]
        if kind == "audit":
            self.ui.progressBar.maximum = BAR_PARTS
            self.ui.progressBar.value = round(BAR_PARTS * event["done"] / max(1, event["total"]))
        if kind in ("audit", "progress"):
            self.ui.messageLabel.text = escape(str(event["text"]))
        elif kind == LEFT_OUT:
            made.leftOut.append(str(event["text"]))
        elif kind == "pictures":
            made.pictures.append(event)
        elif kind == "privacy":
            made.check = event["name"]

    def _onDone(self, made: _Made, result: CheckResult) -> None:
        made.page = result.page
        last = None
        with suppress(PpcmiError):  # where it cannot be read, showing it says so
            last = self._lastCheck(made.part)
        told = [result.problem or _("Done; nothing was sent."), *made.leftOut]
        if last is not None and made.check and last.name != made.check:
            told.append(_("An earlier check says more and stays below; the report that can be saved is of this one."))
        self._finish(" ".join(told))

    def _finish(self, message: str) -> None:
        """Show the task that was chosen last, which need not be the one that was checked."""
        self.show(self._part)
        if self._made is not None and not _isSameTask(self._made.part, self._part):
            task = self._made.part.task.title
            message = _('Privacy check of "{task}": {message}').format(task=task, message=message)
        self.ui.messageLabel.text = escape(message)

    def onSaveReportButton(self) -> None:
        """Keep the report, which shows slices of patients, where the user says."""
        name = qt.QFileDialog.getSaveFileName(
            slicer.util.mainWindow(), _("Save the report"), "privacy-check.html", _("Page (*.html)")
        )
        if not name:
            return
        try:
            from ppcmi.files import write_atomically

            write_atomically(Path(name), self._page(), mode=0o600)
        except Exception as error:
            self.ui.messageLabel.text = escape(sentenceOf(error))
        else:
            self.ui.messageLabel.text = _("Saved. The report shows slices of patients: it stays at the site.")

    # ---- inside

    def _page(self) -> bytes:
        """The report on the task that is shown; empty where none was made since the panel was opened."""
        return self._made.page if self._made is not None and _isSameTask(self._made.part, self._shown) else b""

    def _reasonForNoCheck(self) -> str:
        """Why the task's method cannot be checked; empty if it can."""
        return "" if self._part is None else _reasonForNoCheckOf(self._part)

    def _lastCheck(self, part: TaskProfile | None) -> PrivacyCheck | None:
        if part is None or _reasonForNoCheckOf(part):
            return None
        from ppcmi.privacy_check import read_check

        return read_check(self._site.folder, part)

    def _onAttacksChosen(self, _index: int) -> None:
        self._settings.keep(KEY, self.ui.attacksSelector.currentData)

    def _showRunning(self) -> None:
        running, reason = self._run.running, self._reasonForNoCheck()
        ready = self._part is not None and not reason and bool(self._pairs.usablePairs())
        self.ui.checkButton.text = _("Cancel") if running else _("Check privacy")
        self.ui.checkButton.enabled = running or ready
        self.ui.checkButton.toolTip = (
            _("End the check; nothing of it stays.")
            if running
            else _("Attack what would leave of the chosen cases, on this computer. Nothing is sent.")
            if ready
            else reason or _("Choose labelled cases of at least six patients above.")
        )
        self.ui.optionsWidget.enabled = not running and not reason
        self.ui.progressBar.visible = running
        if not running:
            self.ui.progressBar.maximum, self.ui.progressBar.value = 0, 0
        self.ui.saveReportButton.visible = bool(self._page()) and not running


@dataclass(eq=False)
class _Made:
    """What a check gave that is kept in memory only, as it shows patients: the page, and pictures for the table.

    :param part: the task that was checked.
    :param check: name of the check, once it is done.
    :param leftOut: sentences about cases.
    """

    part: TaskProfile
    check: str = ""
    page: bytes = b""
    pictures: list[Mapping[str, Any]] = field(default_factory=list)
    leftOut: list[str] = field(default_factory=list)


def _isSameTask(one: TaskProfile | None, other: TaskProfile | None) -> bool:
    return one is not None and other is not None and one.task.identity == other.task.identity


def _reasonForNoCheckOf(part: TaskProfile) -> str:
    from ppcmi.what_leaves import NO_CHECK, can_be_checked

    return "" if can_be_checked(part.membership.mode) else NO_CHECK


def _stateText(part: TaskProfile | None, check: PrivacyCheck | None) -> str:
    if part is None:
        return _("Choose a task above.")
    if reason := _reasonForNoCheckOf(part):
        return reason
    if check is None:
        return _(
            "No privacy check was made for this task with its present codec. It attacks what would leave of the cases "
            "chosen above, on this computer, and shows what attackers get beside the Dice of each privacy profile. "
            "Nothing is sent."
        )
    from ppcmi.privacy_words import alone_in_words, unseen_in_words

    text = _("Checked on {day} ({attacks} attacks, {cases} cases of {patients} patients, {attacked} attacked).").format(
        day=check.time[:10], attacks=check.attacks, cases=check.cases, patients=check.patients, attacked=check.attacked
    )
    return " ".join(filter(None, (text, alone_in_words(check.dice_alone), unseen_in_words(check.unseen))))


def _noticeText(notice: Notice) -> str:
    """As rich text; the words are those of the report."""
    color = f' style="color:{WRONG}"' if notice.warns else ""
    return f'<p style="{NOTICE_STYLE}"><b{color}>{escape(notice.title)}</b> {escape(notice.text)}</p>'

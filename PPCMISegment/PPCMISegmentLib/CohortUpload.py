"""Sending a cohort to the server, and going on with one that was cut off."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from slicer.i18n import tr as _

from PPCMISegmentLib.Consent import ConsentQuestion
from PPCMISegmentLib.ExportLogic import ExportLogic
from PPCMISegmentLib.SiteAccess import SiteAccess
from PPCMISegmentLib.Steps import Steps, sentenceOf

if TYPE_CHECKING:
    from pathlib import Path

    from ppcmi.cohort import UploadProgress, UploadSummary
    from ppcmi.outgoing import Outgoing, Waiting
    from ppcmi.what_leaves import Leaving


class CohortUpload:
    """The row that tells of a cohort that the server does not have whole, and the upload.

    :param ui: with waitingRow, waitingLabel, resumeButton, discardButton and progressBar.
    :param run: shared with the export, as only one of both is under way.
    :param onStarted: called when an upload begins, onMessage with a line about it, and onFinished with the last one.
    """

    def __init__(
        self,
        ui: Any,
        site: SiteAccess,
        logic: ExportLogic,
        run: Steps,
        *,
        onStarted: Callable[[], None],
        onMessage: Callable[[str], None],
        onFinished: Callable[[str], None],
    ) -> None:
        self._ui, self._site, self._logic, self._run = ui, site, logic, run
        self._onStarted, self._onMessage, self._onFinished = onStarted, onMessage, onFinished
        self._consent = ConsentQuestion(site)
        self._waiting: Waiting | None = None
        self._writing = ExitStack()
        ui.resumeButton.connect("clicked()", self.onResumeButton)
        ui.discardButton.connect("clicked()", self.onDiscardButton)
        ui.waitingRow.visible = False

    def close(self) -> None:
        """Let go of a path that was to be written."""
        self._writing.close()

    def newPath(self) -> Path:
        """Where a cohort that is to be sent may be written, until it is sent or :meth:`refresh` is called.

        :raises SiteError: if the site profile's folder cannot be written.
        """
        self._writing.close()
        return self._writing.enter_context(self._outgoing().writing())

    def send(self, path: Path, leaving: Leaving) -> None:
        """Send a cohort that lies at a :meth:`newPath`; it stays there until the server has it whole.

        :raises WriteError: if it cannot be remembered what it is; nothing is sent then.
        """
        from ppcmi.outgoing import Waiting

        waiting = Waiting(path, leaving)
        self._outgoing().keep(waiting)
        self._writing.close()
        self._start(waiting)

    def refresh(self) -> None:
        """Show what was not sent to its end, if there is something; nothing is under way, so what is no use goes."""
        from ppcmi.wording import counted, megabytes

        self._writing.close()
        self._outgoing().clear_leftovers()
        found = self._outgoing().waiting() if self._site.isSetUp else []
        self._waiting = found[0] if found else None
        self._ui.waitingRow.visible = self._waiting is not None
        if self._waiting is not None:
            leaving = self._waiting.leaving
            self._ui.waitingLabel.text = _(
                "An export was not sent to its end: {task}, {cases}, {size}. What the server has is not sent again."
            ).format(task=leaving.task, cases=counted(leaving.cases, "case"), size=megabytes(leaving.bytes))

    def onResumeButton(self) -> None:
        """Go on where the upload was cut off, after asking again."""
        waiting = self._waiting
        if waiting is None or self._run.running:
            return
        try:
            agreed = self._consent.agreed("upload", waiting.leaving)
        except Exception as error:
            self._onMessage(sentenceOf(error))
            return
        if agreed:
            self._start(waiting)
        else:
            self._onMessage(_("Nothing more was sent."))

    def onDiscardButton(self) -> None:
        """Forget the cohort; the server throws away parts that were never declared whole.

        It may have all of it: where the line was cut, its answer to that may have been lost.
        """
        if self._waiting is None or self._run.running:
            return
        try:
            self._outgoing().remove(self._waiting.path)
        except Exception as error:
            self._onMessage(sentenceOf(error))
        else:
            self._onMessage(
                _(
                    "Discarded here; the server does not use parts of a cohort. Had all of it arrived, "
                    "'ppcmi cohort list' shows it as whole, and 'ppcmi cohort withdraw' takes it back."
                )
            )
        self.refresh()

    def _start(self, waiting: Waiting) -> None:
        self._run.start(
            self._logic.uploadSteps(waiting.path, waiting.leaving),
            onEvent=self._show,
            onDone=lambda summary: self._sent(waiting, summary),
            onError=lambda error: self._onFinished(sentenceOf(error)),
        )
        self._onStarted()
        self._onMessage(_("Connecting to the server..."))

    def _show(self, progress: UploadProgress | None) -> None:
        from ppcmi.wording import megabytes

        if progress is None:
            return
        self._ui.progressBar.maximum = max(1, progress.total)
        self._ui.progressBar.value = progress.done
        self._onMessage(
            _("Sending: the server has {done} of {total} parts; {size} sent").format(
                done=progress.done, total=progress.total, size=megabytes(progress.bytes_sent)
            )
        )

    def _sent(self, waiting: Waiting, summary: UploadSummary) -> None:
        from ppcmi.wording import counted

        message = _("Done: the server has {cases}, {slices}. Once it has trained a model, refine the decoder.").format(
            cases=counted(summary.cases, "case"), slices=counted(summary.slices, "slice")
        )
        try:
            self._outgoing().remove(waiting.path)
        except Exception as error:
            message = sentenceOf(error)
        self._onFinished(message)

    def _outgoing(self) -> Outgoing:
        from ppcmi.outgoing import Outgoing

        return Outgoing(self._site.folder)

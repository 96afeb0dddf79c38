"""What the sections of the tab *Site* have in common: widgets from a form, one job at a time, one line for messages."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from html import escape
from typing import TypeVar

import slicer

from PPCMISegmentLib.Dependencies import Dependencies
from PPCMISegmentLib.Settings import Settings
from PPCMISegmentLib.SiteAccess import SiteAccess
from PPCMISegmentLib.Steps import Steps, inBackground, sentenceOf

Result = TypeVar("Result")

GOOD, BAD = "#2e7d32", "#c62828"


@dataclass(frozen=True)
class SiteContext:
    """What every section works with.

    :param worker: thread for all computing.
    :param network: runs what waits for the server, and whatever else is not computing.
    :param onChanged: called by a section that changed something that the others may show.
    """

    resourcePath: Callable[[str], str]
    site: SiteAccess
    worker: Executor
    network: Executor
    dependencies: Dependencies
    settings: Settings
    onChanged: Callable[[SiteSection], None]


class SiteSection:
    """One section; its form has a label ``messageLabel``.

    :param form: name of the form, without its ending.
    """

    def __init__(self, form: str, context: SiteContext) -> None:
        self.context = context
        self.widget = slicer.util.loadUI(context.resourcePath(f"UI/{form}.ui"))
        self.ui = slicer.util.childWidgetVariables(self.widget)
        self._steps = Steps()

    @property
    def busy(self) -> bool:
        """Whether a job is under way."""
        return self._steps.running

    def close(self) -> None:
        """End what is under way."""
        self._steps.cancel()

    def refresh(self) -> None:
        """Show what is so now; called when the tab is opened, and when another section changed something."""
        self.showState()

    def reasonNotYet(self) -> str | None:
        """Why the section cannot be used yet, in one sentence; None if it can."""
        return None

    def summary(self) -> str:
        """What was done here, for the section's title; empty while there is something to do."""
        return ""

    def showState(self) -> None:
        """Enable what can be done now; nothing can during a job."""

    def showMessage(self, text: str) -> None:
        """A line for people; it may hold what a server wrote, so it is no rich text."""
        self.ui.messageLabel.text = escape(text)

    def showVerdict(self, color: str, word: str, text: str) -> None:
        """As :meth:`showMessage`, behind a colored mark and a word, as not everybody sees colors."""
        self.ui.messageLabel.text = f'<span style="color:{color}">&#9679;</span> <b>{escape(word)}</b> {escape(text)}'

    def showError(self, error: Exception) -> None:
        """What went wrong and what to do."""
        self.showMessage(sentenceFor(error))

    def work(
        self,
        doing: str,
        job: Callable[[], Result],
        onDone: Callable[[Result], None],
        onError: Callable[[Exception], None] | None = None,
    ) -> None:
        """Run ``job`` in the background.

        :param doing: shown meanwhile.
        :param onError: called with what it raised; without one it is shown.
        """

        def done(result: Result) -> None:
            self.showMessage("")
            onDone(result)
            self.showState()

        def failed(error: Exception) -> None:
            (onError or self.showError)(error)
            self.showState()

        self._steps.start(
            inBackground(self.context.network, job), onEvent=lambda _none: None, onDone=done, onError=failed
        )
        self.showMessage(doing)
        self.showState()


def sentenceFor(error: Exception) -> str:
    """As :func:`~PPCMISegmentLib.Steps.sentenceOf`; of a server's refusal only what it says in detail."""
    from ppcmi.errors import ServerRefusedError

    if isinstance(error, ServerRefusedError) and error.detail:
        return error.detail
    return sentenceOf(error)

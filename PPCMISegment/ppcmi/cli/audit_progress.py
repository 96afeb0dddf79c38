"""How far a privacy check is: the step, what is trained within it, and about how long the rest takes."""

from __future__ import annotations

import time
from collections.abc import Callable

from ppcmi.audit.suite import AuditEvent
from ppcmi.cli.console import Console
from ppcmi.fitting import FitReport
from ppcmi.wording import about

LEAST_SHARE, LEAST_SECONDS = 0.1, 30.0
"""Before so much is done nobody knows how long the rest takes: attacks on what nothing protects come first."""


class CheckProgress:
    """Shows the steps of a check, and the trainings within them.

    :param clock: seconds.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._began = clock()
        self._step = ""

    def step(self, event: AuditEvent) -> None:
        """The next step begins, or the check is done."""
        self._step = f"{event.text} ({event.done}/{event.total}{self._left(event)})"
        numbers = {"done": event.done, "total": event.total, "text": self._step}
        self._console.measured("audit", numbers, self._step, last=event.report is not None)

    def training(self, report: FitReport) -> None:
        """An epoch of a training within the step is over."""
        self._console.progress(f"{self._step}: {report.stage} {report.epoch}/{report.epochs}")

    def _left(self, event: AuditEvent) -> str:
        passed = self._clock() - self._began
        if event.report is not None or event.done < LEAST_SHARE * event.total or passed < LEAST_SECONDS:
            return ""
        return f", {about(passed / event.done * (event.total - event.done))} left"

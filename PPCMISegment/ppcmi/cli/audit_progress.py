"""How far a privacy check is: the step, what is trained within it, and about how long the rest takes."""

from __future__ import annotations

import time
from collections.abc import Callable

from ppcmi.audit.suite import AuditEvent
from ppcmi.cli.console import Console
from ppcmi.fitting import FitReport
from ppcmi.wording import about

LEAST_SHARE, LEAST_SECONDS = 0.1, 30.0
"""The pace is that of what comes behind so much: the first steps train what the attackers have. It takes some time to
know it."""


class CheckProgress:
    """Shows the steps of a check, and the trainings within them.

    :param clock: seconds.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._since: tuple[int, float] | None = None
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
        now = self._clock()
        if self._since is None and event.done >= LEAST_SHARE * event.total:
            self._since = event.done, now
        if self._since is None or event.report is not None:
            return ""
        steps, seconds = event.done - self._since[0], now - self._since[1]
        if not steps or seconds < LEAST_SECONDS:
            return ""
        return f", {about(seconds / steps * (event.total - event.done))} left"

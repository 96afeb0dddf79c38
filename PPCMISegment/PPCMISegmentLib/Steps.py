"""A generator that a timer on the main thread advances, so that Slicer stays usable while it works.

Threads of the generator's own, such as network calls, get Python's lock whenever it waits for them: Qt's event loop
alone would starve them (SLICER.md 1.8).
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Generator
from concurrent.futures import Executor, wait
from typing import Any, TypeVar

import qt

INTERVAL_MS = 10
WAIT_S = 0.03

Result = TypeVar("Result")


class Steps:
    """One generator at a time; every callback comes on the main thread.

    :param onEvent: called with what the generator yields.
    :param onDone: called with what it returns.
    :param onError: called with what it raises.

    Example::

        steps = Steps()
        steps.start(logic.segmentSteps(volumeNode, link), onEvent=show, onDone=showResult, onError=showError)
        steps.cancel()
    """

    def __init__(self) -> None:
        self._timer = qt.QTimer()
        self._timer.setInterval(INTERVAL_MS)
        self._timer.connect("timeout()", self._advance)
        self._generator: Generator[Any, None, Any] | None = None
        self._advancing = False

    @property
    def running(self) -> bool:
        """Whether a generator is under way."""
        return self._generator is not None

    def start(
        self,
        generator: Generator[Any, None, Any],
        *,
        onEvent: Callable[[Any], None],
        onDone: Callable[[Any], None],
        onError: Callable[[Exception], None],
    ) -> None:
        """Advance ``generator`` from now on.

        :raises RuntimeError: if another one is under way.
        """
        if self.running:
            raise RuntimeError("Another job is under way.")
        self._generator, self._onEvent, self._onDone, self._onError = generator, onEvent, onDone, onError
        self._timer.start()

    def cancel(self) -> None:
        """Close the generator, which ends its network calls; no callback comes any more."""
        generator = self._end()
        if generator is not None and not self._advancing:
            generator.close()

    def _advance(self) -> None:
        if self._advancing:  # an event loop inside a callback, such as a message box, lets the timer fire again
            return
        generator = self._generator
        self._advancing = True
        try:
            event = next(generator)
        except StopIteration as end:
            self._end()
            self._onDone(end.value)
        except Exception as error:  # whoever started it shows it
            self._end()
            logUnexpected(error)
            self._onError(error)
        else:
            self._onEvent(event)
            if self._generator is not generator:  # a callback cancelled it while it could not be closed
                generator.close()
        finally:
            self._advancing = False

    def _end(self) -> Generator[Any, None, Any] | None:
        self._timer.stop()
        generator, self._generator = self._generator, None
        return generator


def inBackground(executor: Executor, job: Callable[[], Result]) -> Generator[None, None, Result]:
    """What ``job`` returns, computed in a thread; an event of None now and then until it is done.

    A job that was not begun when the generator is closed never is.
    """
    future = executor.submit(job)
    try:
        while not wait([future], WAIT_S).done:
            yield None
    finally:
        future.cancel()
    return future.result()


def mapped(steps: Generator[Any, None, Result], eventOf: Callable[[Any], Any]) -> Generator[Any, None, Result]:
    """The steps with ``eventOf(event)`` in place of each event; what it raises ends them, and so does closing."""
    try:
        while True:
            try:
                event = next(steps)
            except StopIteration as end:
                return end.value
            yield eventOf(event)
    finally:
        steps.close()


def sentenceOf(error: Exception) -> str:
    """What a user reads: a typed error's own sentence; anything else is only named, as its text may name files."""
    from slicer.i18n import tr as _

    from ppcmi.errors import PpcmiError

    if isinstance(error, PpcmiError):
        return str(error)
    return _("Something unexpected went wrong ({kind}); Slicer's log says where.").format(kind=type(error).__name__)


def logUnexpected(error: Exception) -> None:
    """Where an error that is not a typed one came from; not its text, which may name files or patients."""
    from ppcmi.errors import PpcmiError

    if not isinstance(error, PpcmiError):
        where = "".join(traceback.format_tb(error.__traceback__))
        logging.error("PPCMI: %s\n%s", type(error).__name__, where)

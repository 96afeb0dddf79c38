"""Traces of deleted rows: erased as soon as nobody is in the way, however long that takes."""

from __future__ import annotations

import threading
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

from ppcmi_server.database.contention import is_busy
from ppcmi_server.operation.logs import log_error

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
"""An attempt may keep writers waiting for a moment, so one beside a reader that takes hours has to be rare."""
AT_END_S = 10.0


class TraceEraser:
    """Erases what was deleted before it is called: now, or from a thread that tries again until it is done.

    What was deleted is committed by then, so nothing that goes wrong here reaches the caller. What is not done when
    the process ends, the sweep does at the server's next start.

    :param attempt: whether it erased everything; it may keep nobody waiting for long.
    """

    def __init__(self, attempt: Callable[[], bool]) -> None:
        self._attempt = attempt
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def __call__(self) -> None:
        """Erase."""
        with self._lock:
            if self._thread is not None or self._erases():
                return  # a thread that tries again comes upon what was deleted until now
            self._thread = threading.Thread(target=self._try_again, name="ppcmi-erase", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End; what is under way has some seconds more."""
        thread = self._thread
        if thread is not None:
            thread.join(AT_END_S)
            self._closing.set()
            thread.join()

    def _try_again(self) -> None:
        pause = FIRST_PAUSE_S
        while not self._closing.wait(pause):
            with self._lock:
                if self._erases():
                    self._thread = None
                    return
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def _erases(self) -> bool:
        try:
            return self._attempt()
        except SQLAlchemyError as error:
            if not is_busy(error):
                log_error("traces-not-erased", error)
            return False

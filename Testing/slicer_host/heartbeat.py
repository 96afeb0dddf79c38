"""How long the main thread stays away from the event loop: what a user feels as a frozen window."""

import time
from types import TracebackType

from PySide6 import QtCore

# A beat runs Python code, which lets other threads move; more beats than the module's own would flatter it.
_INTERVAL_MS = 10


class Heartbeat:
    """A timer on the main thread; its longest gap, 10 ms where nothing blocks, is the longest block."""

    def __init__(self, application: QtCore.QCoreApplication) -> None:
        self._timer = QtCore.QTimer(application)
        self._timer.setTimerType(QtCore.Qt.TimerType.PreciseTimer)
        self._timer.setInterval(_INTERVAL_MS)
        self._timer.timeout.connect(self._beat)
        self._last = 0.0
        self.longest_block = 0.0
        """Seconds."""

    def __enter__(self) -> "Heartbeat":
        self._last = time.monotonic()
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._beat()
        self._timer.stop()
        self._timer.deleteLater()

    def _beat(self) -> None:
        beat = time.monotonic()
        self.longest_block = max(self.longest_block, beat - self._last)
        self._last = beat

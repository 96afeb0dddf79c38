"""The event loop as Slicer runs it: in C++, with Python's lock held.

Slicer never gives the lock away while its main thread waits for events, so a Python thread moves only while Python code
runs or waits on the main thread. PySide gives the lock away, which would hide that; on Linux the host therefore calls
Qt's loop in a way that keeps the lock. Elsewhere it is PySide's loop.
"""

import ctypes
import sys
import time
from collections.abc import Callable
from pathlib import Path

import PySide6
import shiboken6
from PySide6 import QtCore

_EXEC = "_ZN10QEventLoop4execE6QFlagsINS_17ProcessEventsFlagEE"


class EventLoop:
    """Runs the application's events for a while."""

    def __init__(self, application: QtCore.QCoreApplication) -> None:
        self._application = application
        self._loop = QtCore.QEventLoop(application)
        self._alarm = QtCore.QTimer(application)
        self._alarm.setSingleShot(True)
        self._alarm.setTimerType(QtCore.Qt.TimerType.PreciseTimer)
        # From C++ to C++, so that no Python code runs when the time is over.
        QtCore.QObject.connect(self._alarm, QtCore.SIGNAL("timeout()"), self._loop, QtCore.SLOT("quit()"))
        self._exec = _lock_keeping_exec(self._loop) or self._loop.exec

    def run(self, seconds: float = 0.0) -> None:
        """Run the events that are due, and those that come within this time."""
        end = time.monotonic() + seconds
        self._once()
        while (left := end - time.monotonic()) > 0:
            self._alarm.start(max(1, round(left * 1000)))
            self._exec()
            self._once()

    def _once(self) -> None:
        self._application.processEvents()
        self._application.sendPostedEvents(None, QtCore.QEvent.Type.DeferredDelete)


def _lock_keeping_exec(loop: QtCore.QEventLoop) -> Callable[[], int] | None:
    """Qt's own `QEventLoop::exec`, called without giving Python's lock away; None where it cannot be had."""
    library = Path(PySide6.__file__).parent / "Qt" / "lib" / "libQt6Core.so.6"
    if sys.platform != "linux" or not library.exists():
        return None
    native_exec = getattr(ctypes.PyDLL(str(library)), _EXEC, None)
    if native_exec is None:
        return None
    native_exec.argtypes, native_exec.restype = [ctypes.c_void_p, ctypes.c_int], ctypes.c_int
    pointer = shiboken6.getCppPointer(loop)[0]
    return lambda: int(native_exec(pointer, 0))

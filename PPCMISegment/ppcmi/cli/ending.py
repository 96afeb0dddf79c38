"""How a command ends before its time: asked by a signal, or because whoever started it is gone.

Both end it as Ctrl-C does, so that nothing is half written and what was finished is kept.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from ppcmi.errors import CancelledError

GRACE_S = 20.0
"""Longer than a step of anything takes; a process that hangs longer in a library is ended without asking."""


@contextmanager
def interrupted_by_termination() -> Iterator[None]:
    """Make SIGTERM raise KeyboardInterrupt in here; only a main thread can, elsewhere nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def noted_interruption() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets, in place of an exception: one that is raised in a callback or destructor is lost.

    For loops that wait for something else and look at the event; only a main thread can, elsewhere nothing changes.
    """
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = signal.signal(signal.SIGINT, lambda _number, _frame: interrupted.set())
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def end_with_stdin() -> None:
    """From here on, end this process when its standard input is closed: its parent has died, or lets go of it."""
    descriptor = None if sys.stdin is None else sys.stdin.fileno()
    threading.Thread(target=_watch, args=(descriptor,), name="end with stdin", daemon=True).start()


def _watch(descriptor: int | None) -> NoReturn:
    try:
        while descriptor is not None and os.read(descriptor, 1 << 12):
            pass
    except OSError:
        pass  # as good as closed
    if os.name == "posix":
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)  # also wakes it from a system call
    else:
        signal.raise_signal(signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(CancelledError.exit_code)

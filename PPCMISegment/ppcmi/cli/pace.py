"""How much longer a batch will take, from the pace of what it has segmented so far."""

from __future__ import annotations

import time
from collections.abc import Callable

from ppcmi.batch import BatchItem

SHORTEST_S = 1.0
"""Less than this is not worth saying, and is what is said of a volume that takes longer than was thought."""


class Pace:
    """Follows a batch by its events.

    Until a volume is finished, the pace is that of the present one's slices; then it is the mean of those that were
    segmented. What had been done before, and what failed, says nothing about it.

    :param clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._segmented, self._seconds = 0, 0.0
        self._number, self._began, self._slices = 0, 0.0, 0
        self._ends: float | None = None

    def seconds_left(self, item: BatchItem) -> float | None:
        """Take note of an event; how long the batch takes from then on, or None while nobody can know."""
        now = self._clock()
        if item.number != self._number:
            self._number, self._began, self._slices = item.number, now, 0
            self._ends = now + self._seconds / self._segmented if self._segmented else None
        if item.outcome == "done" and item.record is not None:
            self._segmented, self._seconds = self._segmented + 1, self._seconds + item.record.total_seconds
            self._ends = now
        elif item.progress is not None and item.progress.done > self._slices:
            # Kept until the next slices are done, so that the time left goes down while nothing else is known.
            self._slices = item.progress.done
            self._ends = self._began + (now - self._began) * item.progress.total / item.progress.done
        if self._ends is None:
            return None
        each = self._seconds / self._segmented if self._segmented else self._ends - self._began
        left = max(0.0, self._ends - now) + each * item.to_do_after
        return left if left >= SHORTEST_S else None

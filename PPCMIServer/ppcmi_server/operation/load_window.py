"""How the server did in the last minute: rates and quantiles from one bucket a second, in constant memory."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

WINDOW_S = 60
SHORTEST_S = 0.001
STEP = 1.15
"""Times are kept to within 15 %: in bins whose bounds grow by this factor from :data:`SHORTEST_S` on."""
BINS = 96


@dataclass(frozen=True)
class Load:
    """Means over the last minute, and what waits now.

    :param requests_per_second: of all kinds.
    :param failures_per_minute: answers of status 500 and above, but for 503.
    :param refusals_per_minute: answers 429 and 503: come back later.
    :param slices_per_second: mapped.
    :param mapping_admitted: mapping requests under way.
    :param mapping_waiting: of these, opened and not taken up yet.
    :param p50_ms, p99_ms: of mapping requests that were answered with masks, from head to answer; None without any.
    :param memory_bytes: resident memory of the server's process; 0 where the system does not tell.
    """

    requests_per_second: float
    failures_per_minute: int
    refusals_per_minute: int
    slices_per_second: float
    mapping_admitted: int
    mapping_waiting: int
    p50_ms: float | None
    p99_ms: float | None
    memory_bytes: int


@dataclass
class _Second:
    """What happened in one second."""

    second: int = -1
    requests: int = 0
    failures: int = 0
    refusals: int = 0
    slices: int = 0
    times: dict[int, int] = field(default_factory=dict)


class LoadWindow:
    """Counts by second, used from several threads.

    :param clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._seconds = [_Second() for _ in range(WINDOW_S)]
        self._lock = threading.Lock()

    def request(self, status: int) -> None:
        """A request was answered."""
        with self._lock:
            now = self._now()
            now.requests += 1
            now.refusals += status in (429, 503)
            now.failures += status >= 500 and status != 503

    def mapping_answered(self, seconds: float) -> None:
        """A mapping request got its masks after so long."""
        with self._lock:
            times, place = self._now().times, _bin_of(seconds)
            times[place] = times.get(place, 0) + 1

    def mapped(self, slices: int) -> None:
        """So many slices were mapped."""
        with self._lock:
            self._now().slices += slices

    def load(self, mapping_admitted: int, mapping_waiting: int, memory_bytes: int) -> Load:
        """The last minute; what happens now is told by others."""
        with self._lock:
            second = int(self._clock())
            recent = [one for one in self._seconds if second - WINDOW_S < one.second <= second]
            times: dict[int, int] = {}
            for one in recent:
                for place, count in one.times.items():
                    times[place] = times.get(place, 0) + count
        length = min(WINDOW_S, max(1.0, self._clock() - self._began))
        return Load(
            requests_per_second=sum(one.requests for one in recent) / length,
            failures_per_minute=sum(one.failures for one in recent),
            refusals_per_minute=sum(one.refusals for one in recent),
            slices_per_second=sum(one.slices for one in recent) / length,
            mapping_admitted=mapping_admitted,
            mapping_waiting=mapping_waiting,
            p50_ms=_quantile_ms(times, 0.5),
            p99_ms=_quantile_ms(times, 0.99),
            memory_bytes=memory_bytes,
        )

    def _now(self) -> _Second:
        second = int(self._clock())
        place = second % WINDOW_S
        if self._seconds[place].second != second:
            self._seconds[place] = _Second(second)
        return self._seconds[place]


def _bin_of(seconds: float) -> int:
    if seconds <= SHORTEST_S:
        return 0
    return min(BINS - 1, math.ceil(math.log(seconds / SHORTEST_S, STEP)))


def _quantile_ms(times: dict[int, int], quantile: float) -> float | None:
    """The upper bound of the bin that holds the quantile."""
    left = math.ceil(quantile * sum(times.values()))
    for place in sorted(times):
        left -= times[place]
        if left <= 0:
            return 1000 * SHORTEST_S * float(STEP**place)
    return None

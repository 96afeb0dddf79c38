"""When a study is whole: DICOM has no sign for it, so that it is a while after nothing more has come.

Senders may open an association for every series, or one for all, and pause between them: a study is whole when every
association that has brought something of it has ended, and nothing came for some seconds since. Times are seconds of a
clock that only grows.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable
from dataclasses import dataclass, field


@dataclass
class _Arrival:
    last: float
    open: set[Hashable] = field(default_factory=set)


class Arrivals:
    """What has come of each study; safe to use from several threads.

    :param quiet_s: for how long nothing may have come of a study that is whole.
    """

    def __init__(self, quiet_s: float) -> None:
        self._quiet_s = quiet_s
        self._lock = threading.Lock()
        self._arrivals: dict[Hashable, _Arrival] = {}

    def came(self, study: Hashable, association: Hashable, now: float) -> None:
        """An instance of ``study`` has come on ``association``."""
        with self._lock:
            arrival = self._arrivals.setdefault(study, _Arrival(now))
            arrival.last = now
            arrival.open.add(association)

    def ended(self, association: Hashable, now: float) -> None:
        """``association`` has ended, however that was."""
        with self._lock:
            for arrival in self._arrivals.values():
                if association in arrival.open:
                    arrival.open.discard(association)
                    arrival.last = now

    def is_whole(self, study: Hashable, now: float) -> bool:
        """Whether nothing more is to be expected; so it is of a study that was there before this began."""
        with self._lock:
            arrival = self._arrivals.get(study)
            return arrival is None or (not arrival.open and now - arrival.last >= self._quiet_s)

    def forget(self, study: Hashable) -> None:
        """``study`` is gone."""
        with self._lock:
            self._arrivals.pop(study, None)

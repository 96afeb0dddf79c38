"""How many slices a site may have mapped in an hour: enough for a hospital, too few to copy a model by asking it.

A site that asks for more is told when to come back, and the operator finds it in the audit log, once an hour.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ppcmi_server import audit
from ppcmi_server.api.rates import Rate
from ppcmi_server.database.engine import Database
from ppcmi_server.errors import RefusalError

HOUR_S = 3600.0
ACTION = "map.volume"


class MappedVolume:
    """Slices by site; used from several threads.

    :param per_hour: slices a site may have mapped in an hour.
    """

    def __init__(self, per_hour: int, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_hour = per_hour
        self._rate = Rate(per_hour, HOUR_S, clock)
        self._database = database
        self._clock = clock
        self._noted: dict[str, float] = {}
        self._lock = threading.Lock()

    def take(self, site: str, slices: int) -> None:
        """Count slices.

        :raises RefusalError: 429 with Retry-After if the site had too many; nothing is counted then.
        """
        try:
            self._rate.take(site, slices)
        except RefusalError as refusal:
            self._note(site)
            wait = refusal.headers["Retry-After"]
            detail = f"The site had as many slices mapped as it may in an hour; try again in {wait} s."
            raise RefusalError(429, "volume", "Too many slices", detail, refusal.headers) from refusal

    def _note(self, site: str) -> None:
        with self._lock:
            now = self._clock()
            if now - self._noted.get(site, -HOUR_S) < HOUR_S:
                return
            self._noted = {one: then for one, then in self._noted.items() if now - then < HOUR_S} | {site: now}
        with self._database.writing() as session:
            audit.record(session, site, ACTION, slices=self._per_hour)

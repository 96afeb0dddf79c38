"""What the page after a change says: kept in memory for one look by the login that made the change.

A one-time code or a new token is shown this way: it is never in an address, a file or the database, and reloading the
page does not make another. A login is known by its cookie's hash: a row's number may come again after a logout, and
with it the secret would come to another operator.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from ppcmi_server.dashboard.login import OpenLogin

KEPT = 200
KEPT_S = 300.0


@dataclass(frozen=True)
class Notice:
    """A sentence, and what is shown this once.

    :param secret: a code or a token.
    :param steps: what to do with it.
    """

    sentence: str
    secret: str | None = field(default=None, repr=False)
    steps: tuple[str, ...] = ()


class Notices:
    """Notices by login."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, tuple[float, Notice]] = OrderedDict()
        self._lock = threading.Lock()

    def leave(self, login: OpenLogin, notice: Notice) -> None:
        """Show it on the login's next page, in place of what was left before."""
        with self._lock:
            self._kept.pop(login.cookie_hash, None)
            self._kept[login.cookie_hash] = (time.monotonic(), notice)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)

    def take(self, login: OpenLogin) -> Notice | None:
        """What was left for the login within the last minutes, once."""
        with self._lock:
            left, notice = self._kept.pop(login.cookie_hash, (0.0, None))
        return notice if notice is not None and time.monotonic() - left <= KEPT_S else None

    def forget(self, login: OpenLogin) -> None:
        """Keep nothing for a login that ends."""
        self.take(login)

"""How often one caller may ask: token buckets in memory of a bounded size.

A bucket holds what may be asked at once, and fills up evenly. Addresses are kept only as keyed hashes, in memory: what
is counted cannot be read back, and it is not stored or logged.
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from ppcmi_server.errors import RefusalError

BUCKETS_KEPT = 20_000
IPV6_NETWORK_BITS = 64
"""One customer's network: whoever has one address of it has them all (RFC 6177)."""
HASH_BYTES = 16


class Rate:
    """So much of something for each caller in each period, evenly.

    Callers that have not asked for longest are forgotten when there are too many: their buckets would be full again
    anyway, unless somebody has more names than are kept.

    :param amount: how much in a period, and at once.
    :param period_s: seconds.
    :param clock: seconds that only grow.
    """

    def __init__(self, amount: float, period_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._amount = amount
        self._per_second = amount / period_s
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, caller: str, amount: float = 1.0) -> None:
        """Count ``amount`` for a caller. More than the bucket ever holds is let in when it is full.

        :raises RefusalError: 429 if there is not so much left; nothing is counted then.
        """
        with self._lock:
            left = self._left(caller)
            missing = min(amount, self._amount) - left
            if missing > 0:
                raise too_many(missing / self._per_second)
            self._keep(caller, left - amount)

    def spend(self, caller: str) -> None:
        """Count one for a caller, of what is left."""
        with self._lock:
            self._keep(caller, max(0.0, self._left(caller) - 1.0))

    def require_room(self, caller: str) -> None:
        """Count nothing.

        :raises RefusalError: 429 if :meth:`take` would.
        """
        with self._lock:
            missing = 1.0 - self._left(caller)
        if missing > 0:
            raise too_many(missing / self._per_second)

    def _left(self, caller: str) -> float:
        left, then = self._buckets.get(caller, (self._amount, 0.0))
        return min(self._amount, left + (self._clock() - then) * self._per_second)

    def _keep(self, caller: str, left: float) -> None:
        self._buckets[caller] = (left, self._clock())
        self._buckets.move_to_end(caller)
        if len(self._buckets) > BUCKETS_KEPT:
            self._buckets.popitem(last=False)


class FailedAttempts:
    """Attempts with a wrong token, code or password, by the address that they come from.

    :param per_minute: how many are let through.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = Rate(per_minute, 60.0, clock)
        self._key = os.urandom(32)

    def note(self, address: str) -> None:
        """Count a failed attempt."""
        self._rate.spend(self._name(address))

    def require_room(self, address: str) -> None:
        """Let an attempt begin.

        :raises RefusalError: 429 if too many from there failed.
        """
        self._rate.require_room(self._name(address))

    def _name(self, address: str) -> str:
        return hashlib.blake2b(_network_of(address).encode(), key=self._key, digest_size=HASH_BYTES).hexdigest()


def too_many(seconds: float) -> RefusalError:
    """429, with how long to wait."""
    wait = str(max(1, math.ceil(seconds)))
    detail = f"There were too many requests or failed attempts; try again in {wait} s."
    return RefusalError(429, "too-many", "Too many requests", detail, {"Retry-After": wait})


def _network_of(address: str) -> str:
    """The address, or for IPv6 its network; what is no address stays as it is."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return str(parsed)
    mapped = ipaddress.IPv6Address(parsed).ipv4_mapped
    return str(mapped or ipaddress.ip_network((int(parsed), IPV6_NETWORK_BITS), strict=False))

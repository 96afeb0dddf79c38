"""Several network calls under way at once, driven from one thread that never waits long, and what each takes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Generic, TypeVar

BUNDLES_IN_FLIGHT = 4
LARGEST_BUNDLE = 32
SMALLEST_BUNDLE = 16
"""Slices; smaller bundles cost more, because keys are derived for each, than site and server win by working at once."""

Key = TypeVar("Key")
Answer = TypeVar("Answer")


class InFlight(Generic[Key, Answer]):
    """At most ``limit`` calls in threads; leaving the context before all are done aborts the rest.

    :param abort: makes calls that are under way end soon, such as :meth:`ppcmi.client.ServerClient.abort`.

    Example::

        with InFlight[int, bytes](4, client.abort) as calls:
            calls.start(1, lambda: client.map_bundle(task, bundle, model))
            for key, answer in calls.finished(wait_s=0.05):
                ...
    """

    def __init__(self, limit: int, abort: Callable[[], None]) -> None:
        self._limit = limit
        self._abort = abort
        self._executor = ThreadPoolExecutor(max_workers=limit, thread_name_prefix="ppcmi-call")
        self._pending: dict[Future[Answer], Key] = {}

    def __enter__(self) -> InFlight[Key, Answer]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)
        if self._pending:
            self._abort()

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def full(self) -> bool:
        """Whether another call has to wait for one to finish."""
        return len(self._pending) >= self._limit

    def start(self, key: Key, call: Callable[[], Answer]) -> None:
        """Have ``call`` made in a thread."""
        self._pending[self._executor.submit(call)] = key

    def finished(self, wait_s: float) -> list[tuple[Key, Answer]]:
        """What has finished, after waiting at most ``wait_s`` seconds for the first; raises what a call raised."""
        done, _ = wait(self._pending, timeout=wait_s, return_when=FIRST_COMPLETED)
        return [(self._pending.pop(future), future.result()) for future in done]


def slices_a_bundle(total: int, largest: int = LARGEST_BUNDLE, in_flight: int = BUNDLES_IN_FLIGHT) -> int:
    """How many of a case's ``total`` slices travel together.

    So few that all bundles that may be under way have some: with all slices in one, site and server wait for each
    other. But whole multiples of :data:`SMALLEST_BUNDLE`, and at most ``largest``.
    """
    return min(largest, SMALLEST_BUNDLE * max(1, -(-total // (SMALLEST_BUNDLE * in_flight))))

"""Requests that wait to be mapped, and the order in which their slices are taken: every site gets its turn.

Start-time fair queueing (P. Goyal, H. Vin, H. Cheng, IEEE/ACM Trans. Networking 1997) over slices: what a site has had
counts against it for as long as others wait. A request with many slices is taken in parts, so it holds nobody up for
longer than a batch. A batch is of one kind: one model, codec and shape. Not for several threads at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

from ppcmi.latents import Latents
from ppcmi.scales import Shape


class Answer(Future[Latents]):
    """Mask latents, on the CPU, when they are there; cancel it to drop the request, also when it is half mapped."""

    started: bool = False
    """Whether some of the slices were taken up."""


@dataclass(frozen=True)
class Kind:
    """What requests that are mapped together have in common."""

    model: int
    codec: str
    shapes: tuple[tuple[str, Shape], ...]


@dataclass(eq=False)
class Waiting:
    """A request in the queue.

    :param since: when it came, on whoever's clock.
    :param taken: how many of its slices were taken.
    :param masks: of those that were mapped.
    """

    site: str
    kind: Kind
    images: Latents
    answer: Answer
    since: float = 0.0
    taken: int = 0
    masks: list[Latents] = field(default_factory=list)

    @property
    def left(self) -> int:
        """Slices that wait."""
        return len(self.images) - self.taken


@dataclass(frozen=True, eq=False)
class Part:
    """Slices of a request that are mapped now."""

    request: Waiting
    start: int
    stop: int

    @property
    def slices(self) -> int:
        """How many."""
        return self.stop - self.start

    @property
    def images(self) -> Latents:
        """Their latents."""
        return self.request.images.select(slice(self.start, self.stop))

    @property
    def is_first(self) -> bool:
        """Whether the request has no slices before these."""
        return self.start == 0

    @property
    def is_last(self) -> bool:
        """Whether the request has no slices after these."""
        return self.stop == len(self.request.images)


class FairQueue:
    """See the module."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[Waiting]] = {}
        self._finish: dict[str, float] = {}
        self._now = 0.0

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def __iter__(self) -> Iterator[Waiting]:
        for queue in self._queues.values():
            yield from queue

    def put(self, request: Waiting) -> None:
        """Let a request wait, behind its site's others."""
        self._queues.setdefault(request.site, deque()).append(request)

    def take(self, room: int, kind: Kind | None = None) -> list[Part]:
        """Up to ``room`` slices of one kind, from the sites in turn; of ``kind``, if that is not None."""
        parts: list[Part] = []
        while room > 0 and (request := self._next(kind)) is not None:
            kind = request.kind
            count = min(room, request.left)
            parts.append(Part(request, request.taken, request.taken + count))
            request.taken += count
            request.answer.started = True
            room -= count
            start = self._start(request.site)
            self._now, self._finish[request.site] = start, start + count
            if request.left == 0:
                self._remove(request)
        return parts

    def clear(self) -> list[Waiting]:
        """Empty the queue; what was in it."""
        waiting = list(self)
        self._queues.clear()
        return waiting

    def _next(self, kind: Kind | None) -> Waiting | None:
        """The request whose turn it is: its site's first that fits, of the site that had least."""
        for request in [one for one in self if one.answer.done()]:  # cancelled, or failed in an earlier part
            self._remove(request)
        fitting = (
            next((request for request in queue if kind is None or request.kind == kind), None)
            for queue in self._queues.values()
        )
        return min((one for one in fitting if one is not None), key=lambda one: self._start(one.site), default=None)

    def _start(self, site: str) -> float:
        """When a site's next slices are due: now for one that was away, later for one that had more than its part."""
        return max(self._now, self._finish.get(site, 0.0))

    def _remove(self, request: Waiting) -> None:
        queue = self._queues[request.site]
        queue.remove(request)
        if not queue:
            del self._queues[request.site]
            self._finish = {
                one: finish for one, finish in self._finish.items() if one in self._queues or self._owes(one)
            }

    def _owes(self, site: str) -> bool:
        """Whether a site that is away had more than its part, which counts while others wait."""
        return bool(self._queues) and self._finish[site] > self._now

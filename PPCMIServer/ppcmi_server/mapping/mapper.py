"""Mapping: one thread that runs the models, on batches gathered over requests and sites.

A request is admitted (or told to come back), opened, mapped, sealed. Opened ones wait in a queue that is fair to sites
(:mod:`ppcmi_server.mapping.fair_queue`); the thread fills a batch of one model and codec, waits a few milliseconds only
if more requests are on their way, and gives each its own slices back. A cancelled request is dropped. One that fails,
or whose model does, fails alone.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from ppcmi.device_memory import Portions
from ppcmi.latents import Latents, concatenate
from ppcmi_server.errors import RefusalError
from ppcmi_server.mapping.fair_queue import Answer, FairQueue, Kind, Part, Waiting
from ppcmi_server.operation.logs import log_error
from ppcmi_server.operation.metrics import Metrics, Refusal

SMOOTHING = 0.2
"""Weight of the newest request in the mean time that one takes."""
LONGEST_RETRY_S = 60


class MapsLatents(Protocol):
    """A model in memory."""

    def map(self, images: Latents, codec: str) -> Latents:
        """Image latents to mask latents of the same slices."""
        ...


@dataclass(eq=False)
class Place:
    """A request's place in the queue, from :meth:`Mapper.admit`."""

    site: str
    is_used: bool = False


class Mapper:
    """The queue, its thread, and the models in memory.

    :param load: reads a model by its id.
    :param queued_requests: admitted at the same time.
    :param batch_slices: mapped at once.
    :param batch_wait_s: how long a batch waits for requests that were admitted but are not opened yet.
    :param models_in_memory: kept loaded, the least recently used goes first.
    :param metrics: told of queue and batches.
    """

    def __init__(
        self,
        load: Callable[[int], MapsLatents],
        *,
        queued_requests: int,
        batch_slices: int,
        batch_wait_s: float,
        models_in_memory: int,
        metrics: Metrics,
    ) -> None:
        self._load = load
        self._queued_requests = queued_requests
        self._batch_slices = batch_slices
        self._batch_wait_s = batch_wait_s
        self._models_in_memory = models_in_memory
        self._metrics = metrics
        self._models: OrderedDict[int, MapsLatents] = OrderedDict()
        self._queue = FairQueue()
        self._portions = Portions(batch_slices)
        self._changed = threading.Condition()
        self._admitted: Counter[str] = Counter()
        self._unused_places = 0
        self._seconds_a_request = 0.0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="ppcmi-mapper", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Requests that are opened and not taken up yet."""
        with self._changed:
            return sum(not request.answer.started for request in self._queue)

    @contextmanager
    def admit(self, site: str) -> Iterator[Place]:
        """A place in the queue while the context lasts.

        A site gets one as long as it holds fewer than are free. So one that asks for very many gets half of all, two
        of them a third each, and there is always room for another (A. Choudhury and E. Hahne, Dynamic queue length
        thresholds for shared-memory packet switches, IEEE/ACM Trans. Networking 1998).

        :raises RefusalError: 429 with Retry-After if there is none.
        """
        with self._changed:
            free = self._queued_requests - self._admitted.total()
            if free <= self._admitted[site]:
                raise self._refusal("queue-full" if free == 0 else "share-full")
            self._admitted[site] += 1
            self._unused_places += 1
            self._tell()
        place, started = Place(site), time.monotonic()
        try:
            yield place
        finally:
            with self._changed:
                seconds = (time.monotonic() - started) / self._admitted.total()
                self._seconds_a_request += SMOOTHING * (seconds - self._seconds_a_request)
                self._admitted[site] -= 1
                if not self._admitted[site]:
                    del self._admitted[site]
                self._use(place)
                self._tell()
                self._changed.notify()

    def submit(self, place: Place, model: int, codec: str, images: Latents) -> Answer:
        """Queue image latents for the model with this id."""
        answer, kind = Answer(), Kind(model, codec, tuple(images.shapes.items()))
        with self._changed:
            if self._closed:
                raise shutting_down()
            self._queue.put(Waiting(place.site, kind, images, answer, since=time.monotonic()))
            self._use(place)
            self._tell()
            self._changed.notify()
        return answer

    def too_late(self) -> RefusalError:
        """For a request that waited too long to be begun: 429 with Retry-After."""
        with self._changed:
            return self._refusal("too-late")

    def close(self) -> None:
        """End the thread; what waits gets 503."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    # ---- the thread

    def _run(self) -> None:
        while batch := self._next_batch():
            try:
                self._map_together(batch)
            except Exception as error:  # the batch fails, the service goes on
                log_error("mapping-failed", error)
                for part in batch:
                    self._fail(part.request, error)

    def _next_batch(self) -> list[Part]:
        """Slices for one model and codec; none when closed."""
        with self._changed:
            while not self._closed:
                batch = self._queue.take(self._portions.largest)
                if batch:
                    deadline = time.monotonic() + self._batch_wait_s
                    while self._may_grow(batch) and (left := deadline - time.monotonic()) > 0:
                        self._changed.wait(left)
                        batch += self._queue.take(self._portions.largest - _slices(batch), batch[0].request.kind)
                    for part in batch:
                        if part.is_first:
                            self._metrics.stage("wait", time.monotonic() - part.request.since)
                    self._tell()
                    return batch
                self._changed.wait()
            for request in self._queue.clear():
                self._fail(request, shutting_down())
            return []

    def _may_grow(self, batch: list[Part]) -> bool:
        """Whether there is room, and a request that was admitted and is not queued yet."""
        return not self._closed and _slices(batch) < self._portions.largest and self._unused_places > 0

    def _map_together(self, batch: list[Part]) -> None:
        try:
            masks = self._map(batch)
        except Exception:
            if len({part.request for part in batch}) == 1:
                raise
            for part in batch:  # whose fault it is shows when each is mapped alone
                self._map_alone(part)
        else:
            start = 0
            for part in batch:
                own = masks.select(slice(start, start + part.slices))
                self._keep(part, own if len(batch) == 1 else own.map(lambda _, values: values.clone()))
                start += part.slices

    def _map_alone(self, part: Part) -> None:
        try:
            masks = self._map([part])
        except Exception as error:  # told to whoever asked
            self._fail(part.request, error)
        else:
            self._keep(part, masks)

    def _map(self, batch: list[Part]) -> Latents:
        kind, largest, started = batch[0].request.kind, self._portions.largest, time.monotonic()
        model = self._model(kind.model)
        images = concatenate([part.images for part in batch])
        masks = concatenate(
            self._portions.run(len(images), lambda where: model.map(images.select(where), kind.codec).to("cpu"))
        )
        if self._portions.largest < largest:
            self._metrics.out_of_memory()
        elif len(images) == largest:
            self._portions.largest = min(largest + 1, self._batch_slices)  # whoever had the memory may be gone
        self._metrics.mapped(len(images), len({part.request for part in batch}), time.monotonic() - started)
        return masks

    def _keep(self, part: Part, masks: Latents) -> None:
        """A request's next masks; with the last it is answered."""
        request = part.request
        request.masks.append(masks)
        if part.is_last and request.answer.set_running_or_notify_cancel():
            request.answer.set_result(concatenate(request.masks))

    def _fail(self, request: Waiting, error: Exception) -> None:
        """Tell a request, once; what is left of it is not mapped."""
        if not request.answer.done() and request.answer.set_running_or_notify_cancel():
            request.answer.set_exception(error)

    def _model(self, model: int) -> MapsLatents:
        if model not in self._models:
            while len(self._models) >= self._models_in_memory:
                self._models.popitem(last=False)
            self._models[model] = self._load(model)
        self._models.move_to_end(model)
        return self._models[model]

    # ---- counts

    def _use(self, place: Place) -> None:
        """No batch waits for this place any longer."""
        self._unused_places -= not place.is_used
        place.is_used = True

    def _refusal(self, reason: Refusal) -> RefusalError:
        wait = min(LONGEST_RETRY_S, max(1, round(self._admitted.total() * self._seconds_a_request)))
        self._metrics.refused(reason)
        return RefusalError(
            429, reason, "Busy", f"{_REFUSALS[reason]}; try again in {wait} s.", {"Retry-After": str(wait)}
        )

    def _tell(self) -> None:
        self._metrics.queue(self._admitted.total(), sum(not request.answer.started for request in self._queue))


_REFUSALS = {
    "queue-full": "The mapping queue is full",
    "share-full": "The site has as many mapping requests under way as it may while others need room",
    "too-late": "The request waited too long to be mapped",
}


def shutting_down() -> RefusalError:
    """503 while the server ends."""
    return RefusalError(
        503, "shutting-down", "Not available", "The server is shutting down; try again later.", {"Retry-After": "10"}
    )


def _slices(batch: list[Part]) -> int:
    return sum(part.slices for part in batch)

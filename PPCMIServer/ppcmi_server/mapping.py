"""Mapping: one thread that runs the models, on batches gathered over requests and sites.

A request is admitted (or told to come back), opened, mapped, sealed. The queue holds what is opened and waits; the
thread takes the oldest, adds others for the same model and codec up to a number of slices, waits a few milliseconds
only if more requests are on their way, and gives each its own slices back. A cancelled request is dropped unmapped.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from ppcmi.latents import Latents, concatenate
from ppcmi_server.errors import RefusalError

SMOOTHING = 0.2
"""Weight of the newest request in the mean time that one takes."""


class MapsLatents(Protocol):
    """A model in memory."""

    def map(self, images: Latents, codec: str) -> Latents:
        """Image latents to mask latents of the same slices."""
        ...


@dataclass(frozen=True, eq=False)
class _Request:
    model: int
    codec: str
    images: Latents
    answer: Future[Latents]


class Mapper:
    """The queue, its thread, and the models in memory.

    :param load: reads a model by its id.
    :param queued_requests: admitted at the same time.
    :param batch_slices: mapped at once.
    :param batch_wait_s: how long a batch waits for requests that were admitted but are not opened yet.
    :param models_in_memory: kept loaded, the least recently used goes first.
    """

    def __init__(
        self,
        load: Callable[[int], MapsLatents],
        *,
        queued_requests: int,
        batch_slices: int,
        batch_wait_s: float,
        models_in_memory: int,
    ) -> None:
        self._load = load
        self._queued_requests = queued_requests
        self._batch_slices = batch_slices
        self._batch_wait_s = batch_wait_s
        self._models_in_memory = models_in_memory
        self._models: OrderedDict[int, MapsLatents] = OrderedDict()
        self._waiting: deque[_Request] = deque()
        self._changed = threading.Condition()
        self._admitted = 0
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
        return len(self._waiting)

    @contextmanager
    def admit(self) -> Iterator[None]:
        """A place in the queue while the context lasts.

        :raises RefusalError: 429 with Retry-After if there is none.
        """
        with self._changed:
            if self._admitted >= self._queued_requests:
                wait = max(1, round(self._admitted * self._seconds_a_request))
                raise RefusalError(
                    429, "queue-full", "Busy", f"The mapping queue is full; try again in {wait} s.",
                    {"Retry-After": str(wait)},
                )  # fmt: skip
            self._admitted += 1
        started = time.monotonic()
        try:
            yield
        finally:
            with self._changed:
                seconds = (time.monotonic() - started) / self._admitted
                self._seconds_a_request += SMOOTHING * (seconds - self._seconds_a_request)
                self._admitted -= 1
                self._changed.notify()

    def submit(self, model: int, codec: str, images: Latents) -> Future[Latents]:
        """Queue image latents for the model with this id; the answer is on the CPU. Cancel it to drop the request."""
        answer: Future[Latents] = Future()
        with self._changed:
            if self._closed:
                raise shutting_down()
            self._waiting.append(_Request(model, codec, images, answer))
            self._changed.notify()
        return answer

    def close(self) -> None:
        """End the thread; what waits gets 503."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next_batch():
            running = [request for request in batch if request.answer.set_running_or_notify_cancel()]
            if not running:
                continue
            try:
                self._map(running)
            except Exception as error:  # the requests fail, the service goes on
                for request in running:
                    if not request.answer.done():
                        request.answer.set_exception(error)

    def _map(self, batch: list[_Request]) -> None:
        model = self._model(batch[0].model)
        images = concatenate([request.images for request in batch])
        parts = [
            model.map(images.select(slice(start, start + self._batch_slices)), batch[0].codec).to("cpu")
            for start in range(0, len(images), self._batch_slices)
        ]
        masks, start = concatenate(parts), 0
        for request in batch:
            end = start + len(request.images)
            request.answer.set_result(masks.select(slice(start, end)).map(lambda _, values: values.clone()))
            start = end

    def _next_batch(self) -> list[_Request]:
        """Requests for one model and codec; none when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                for request in self._waiting:
                    if request.answer.set_running_or_notify_cancel():
                        request.answer.set_exception(shutting_down())
                return []
            batch = self._take([])
            deadline = time.monotonic() + self._batch_wait_s
            while self._may_grow(batch) and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
                batch = self._take(batch)
            return batch

    def _may_grow(self, batch: list[_Request]) -> bool:
        """Whether there is room, and a request that was admitted and is not queued yet."""
        queued = len(batch) + len(self._waiting)
        return not self._closed and _slices(batch) < self._batch_slices and self._admitted > queued

    def _take(self, batch: list[_Request]) -> list[_Request]:
        """The batch with those that wait and fit to it; the others keep their order."""
        left: deque[_Request] = deque()
        for request in self._waiting:
            first = batch[0] if batch else request
            fits = (request.model, request.codec, request.images.shapes) == (
                first.model, first.codec, first.images.shapes,
            )  # fmt: skip
            if fits and (not batch or _slices(batch) + len(request.images) <= self._batch_slices):
                batch.append(request)
            else:
                left.append(request)
        self._waiting = left
        return batch

    def _model(self, model: int) -> MapsLatents:
        if model not in self._models:
            while len(self._models) >= self._models_in_memory:
                self._models.popitem(last=False)
            self._models[model] = self._load(model)
        self._models.move_to_end(model)
        return self._models[model]


def shutting_down() -> RefusalError:
    """503 while the server ends."""
    return RefusalError(
        503, "shutting-down", "Not available", "The server is shutting down; try again later.", {"Retry-After": "10"}
    )


def _slices(batch: list[_Request]) -> int:
    return sum(len(request.images) for request in batch)

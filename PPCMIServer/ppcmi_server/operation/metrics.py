"""Numbers for monitoring, in Prometheus' text format, and :class:`~ppcmi_server.operation.load_window.Load` for the
dashboard.

Every label has few values that are known beforehand: forms of routes, methods, classes of status, stages, reasons.
None is ever a site, a name, an address or anything that a request brought along. What the database knows is read when
Prometheus asks (:mod:`ppcmi_server.operation.metrics_state`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from ppcmi_server import __version__
from ppcmi_server.operation.load_window import Load, LoadWindow

MEDIA_TYPE = CONTENT_TYPE_PLAIN_0_0_4
MAP_ROUTE = "/v1/tasks/{name}/map"
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")
OTHER = "other"

Stage = Literal["read", "open", "wait", "map", "seal"]
"""Of a mapping request: its body arrives, the link layer comes off, it waits, its batch is mapped, the link layer."""
STAGES: tuple[Stage, ...] = ("read", "open", "wait", "map", "seal")

Refusal = Literal["queue-full", "share-full", "too-late", "volume", "memory"]
"""Why a mapping request was told to come back."""
REFUSALS: tuple[Refusal, ...] = ("queue-full", "share-full", "too-late", "volume", "memory")

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """The server's counters, in a registry of their own; used from several threads.

    :param clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._window = LoadWindow(clock)
        self._clock = clock
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "ppcmi_requests", "Requests answered.", ["route", "method", "status"], registry=registry
        )
        self._request_seconds = Histogram(
            "ppcmi_request_seconds", "From head to answer.", ["route"], buckets=SECONDS, registry=registry
        )
        self._admitted = Gauge("ppcmi_mapping_admitted", "Mapping requests under way.", registry=registry)
        self._waiting = Gauge("ppcmi_mapping_waiting", "Mapping requests that wait for the model.", registry=registry)
        self._queue = (0, 0)
        self._batch_slices = Histogram(
            "ppcmi_mapping_batch_slices", "Slices mapped at once.", buckets=COUNTS, registry=registry
        )
        self._batch_requests = Histogram(
            "ppcmi_mapping_batch_requests", "Requests mapped at once.", buckets=COUNTS, registry=registry
        )
        self._slices = Counter("ppcmi_mapping_slices", "Slices mapped.", registry=registry)
        self._stages = Histogram(
            "ppcmi_mapping_stage_seconds",
            "A mapping request's stages.",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self._refused = Counter(
            "ppcmi_mapping_refused", "Mapping requests told to come back.", ["reason"], registry=registry
        )
        self._out_of_memory = Counter(
            "ppcmi_mapping_out_of_memory", "Batches halved for lack of memory.", registry=registry
        )
        self._upload_bytes = Counter("ppcmi_upload_bytes", "Bytes of cohorts received.", registry=registry)
        build = Gauge("ppcmi_build_info", "The server's version.", ["version"], registry=registry)
        build.labels(__version__).set(1)
        for stage in STAGES:
            self._stages.labels(stage)
        for reason in REFUSALS:
            self._refused.labels(reason)
        ProcessCollector(registry=registry)

    # ---- requests

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request was answered.

        :param route: its form, ``-`` if there is nothing at its address.
        :param status: 499 if its client went away.
        """
        self._requests.labels(route, method if method in METHODS else OTHER, f"{status // 100}xx").inc()
        self._request_seconds.labels(route).observe(seconds)
        self._window.request(status)
        if route == MAP_ROUTE and status == 200:
            self._window.mapping_answered(seconds)

    # ---- mapping

    def queue(self, admitted: int, waiting: int) -> None:
        """So many mapping requests are under way, and of these wait."""
        self._queue = (admitted, waiting)
        self._admitted.set(admitted)
        self._waiting.set(waiting)

    def mapped(self, slices: int, requests: int, seconds: float) -> None:
        """A batch was mapped."""
        self._batch_slices.observe(slices)
        self._batch_requests.observe(requests)
        self._slices.inc(slices)
        self._stages.labels("map").observe(seconds)
        self._window.mapped(slices)

    def stage(self, name: Stage, seconds: float) -> None:
        """A stage of a mapping request ended."""
        self._stages.labels(name).observe(seconds)

    @contextmanager
    def timing(self, name: Stage) -> Iterator[None]:
        """A stage of a mapping request, as long as the context lasts without an error."""
        started = self._clock()
        yield
        self.stage(name, self._clock() - started)

    def refused(self, reason: Refusal) -> None:
        """A mapping request was told to come back."""
        self._refused.labels(reason).inc()

    def out_of_memory(self) -> None:
        """A batch did not fit into memory and is halved."""
        self._out_of_memory.inc()

    # ---- uploads

    def uploaded(self, size: int) -> None:
        """Bytes of a cohort arrived, and are stored or were so already."""
        self._upload_bytes.inc(size)

    # ---- what others see

    def add_source(self, source: Collector) -> None:
        """Ask ``source`` as well, each time that the numbers are asked for."""
        self._registry.register(source)

    def render(self) -> bytes:
        """Every number, as :data:`MEDIA_TYPE`."""
        return generate_latest(self._registry)

    def load(self) -> Load:
        """The last minute."""
        admitted, waiting = self._queue
        return self._window.load(admitted, waiting, resident_bytes())


def resident_bytes() -> int:
    """Memory of this process; 0 where the system does not tell (Linux does)."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), 0)

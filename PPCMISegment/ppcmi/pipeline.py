"""Segment a volume privately: slice, encode, protect, send, and back: unprotect, decode, restore.

A generator of :class:`Progress` that the caller drives and may close at any time. Network calls happen in threads, so
that encoding, network and decoding overlap. Slicing, encoding, decoding and restoring are a worker's: the caller's own
thread, unless it lends one; then little time passes between two events, which lets a window stay alive. ``run`` drives
it to the end where nobody watches.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Executor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ppcmi import __version__
from ppcmi.bundle_header import BundleHeader, read_header
from ppcmi.codec.codec import Codec
from ppcmi.codec.refinement import SiteDecoder
from ppcmi.device_memory import Portions
from ppcmi.errors import BundleError, CancelledError, SiteError
from ppcmi.in_flight import BUNDLES_IN_FLIGHT, LARGEST_BUNDLE, InFlight, slices_a_bundle
from ppcmi.latents import Latents, concatenate, joined
from ppcmi.methods.method import CaseAtWork
from ppcmi.methods.mixup.case import PatchCase, Unmixing
from ppcmi.methods.shapes import item_shapes
from ppcmi.methods.slices import SliceCase, Slices
from ppcmi.protection import Protection
from ppcmi.scales import Profile, Stream
from ppcmi.task import Task
from ppcmi.volume import Volume

NETWORK_POLL_S, WORKER_POLL_S = 0.05, 0.02
"""How long the caller's thread waits for either before it hears of the case again."""

Event = TypeVar("Event")
Result = TypeVar("Result")


class Mapper(Protocol):
    """What maps bundles: :class:`ppcmi.client.ServerClient`."""

    def map_bundle(self, task: str, bundle: bytes, model: int) -> bytes:
        """The answer to a bundle; called from threads."""

    def abort(self) -> None:
        """End calls that are under way."""


@dataclass(frozen=True)
class PrivateLink:
    """Everything that stays the same from case to case.

    :param decoder: the site's own decoder, or None: mask latents are decoded with the codec's.
    :param model: number of the server's model; every answer must come from it.
    :param slices_per_bundle: at most, see :func:`~ppcmi.in_flight.slices_a_bundle`; a bundle is encoded at once.
    :param in_flight: bundles under way at once.
    :param portions: how many slices go through a network at once; halved where memory is too small.
    :param unmixing: what the method ``mixup`` mixes with and takes answers apart with; None for other methods.
    """

    task: Task
    codec: Codec
    decoder: SiteDecoder | None
    protection: Protection
    mapper: Mapper
    model: int
    slices_per_bundle: int = LARGEST_BUNDLE
    in_flight: int = BUNDLES_IN_FLIGHT
    portions: Portions = field(default_factory=lambda: Portions(LARGEST_BUNDLE))
    unmixing: Unmixing | None = None

    def open_case(self, volume: Volume, *, with_probabilities: bool) -> CaseAtWork:
        """The volume as the task's method works on it.

        :raises ReadError: if a voxel is not a finite number.
        """
        if self.unmixing is None:
            return self.open_slices(volume, with_probabilities=with_probabilities)
        generator = torch.Generator().manual_seed(secrets.randbits(63))
        return PatchCase(volume, self.task, self.unmixing, generator, with_probabilities=with_probabilities)

    def open_slices(self, volume: Volume, *, with_probabilities: bool) -> SliceCase:
        """As :meth:`open_case`, where slices are worked on."""
        return SliceCase(volume, self.task, self.encode, self.decode, with_probabilities=with_probabilities)

    @property
    def asks_server(self) -> bool:
        """Whether the server's answer counts: where the site gives it a share of 0, nothing is sent."""
        return self.decoder is None or self.decoder.weight(self.profile) > 0

    @property
    def profile(self) -> Profile:
        """Which scales leave."""
        return self.protection.profile

    def encode(self, slices: Slices) -> Latents:
        """Slices ``(n, c, h, w)`` to plain image latents of the scales that leave."""
        return concatenate(
            self.portions.run(len(slices), lambda where: self.codec.encode_images(slices[where], self.profile.scales))
        )

    def decode(self, latents: Latents, slices: Slices) -> NDArray[np.float32]:
        """Probabilities ``(n, K, h, w)`` from the server's mask latents and the site's own image."""
        images = torch.from_numpy(slices)
        decode = self.codec.decode_masks if self.decoder is None else self.decoder.decode
        return self._computed(lambda where: decode(latents.select(where), images[where], self.profile), len(images))

    def predict_alone(self, slices: Slices) -> NDArray[np.float32]:
        """Probabilities ``(n, K, h, w)`` from the site's own network.

        :raises SiteError: if it has none.
        """
        if self.decoder is None:
            raise SiteError("This site has no network of its own; the server has to be asked.")
        images, alone = torch.from_numpy(slices), self.decoder.alone
        return self._computed(lambda where: alone(images[where]), len(images))

    def _computed(self, compute: Callable[[slice], torch.Tensor], count: int) -> NDArray[np.float32]:
        parts = self.portions.run(count, lambda where: compute(where).cpu())
        return np.asarray(joined(parts).numpy(), dtype=np.float32)


@dataclass(frozen=True)
class Progress:
    """How far a case is.

    :param stage: what is being done: slice, encode, map, decode or restore.
    :param done: slices (or other items of the method) that are finished, of ``total``.
    :param bytes_sent: body bytes that left, and ``bytes_received`` came back.
    :param seconds: time spent by stage; ``wait`` is what was waited for the network.
    """

    stage: str
    done: int
    total: int
    bytes_sent: int = 0
    bytes_received: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Segmentation:
    """Result of one case.

    :param labels: uint8 on the grid of the volume that came in.
    :param probabilities: ``(K, k, j, i)`` float32 on the same grid if asked for, class 0 the background.
    :param provenance: what made it, without anything secret: task, model, codec, profile, quantization.
    :param progress: the last one, with bytes and seconds of the whole case.
    """

    labels: Volume
    probabilities: NDArray[np.float32] | None
    provenance: Mapping[str, str]
    progress: Progress


def segment(
    volume: Volume,
    link: PrivateLink,
    *,
    with_probabilities: bool = False,
    cancelled: Callable[[], bool] = lambda: False,
    worker: Executor | None = None,
) -> Generator[Progress, None, Segmentation]:
    """Segment ``volume``; the generator's return value is the :class:`Segmentation`.

    Where the server's answer would not count, it is not asked (:attr:`PrivateLink.asks_server`).

    :param cancelled: asked between batches; closing the generator does the same without an error.
    :param worker: computes in its own thread, so that the caller's never waits long; without one the caller's does.
    :raises CancelledError: if ``cancelled()``; requests under way are given up, and the server sees it.

    Example::

        steps = segment(volume, link)
        for progress in steps: ...        # a for loop drops the return value; see run()
    """
    work, begun = _Work(worker), Progress("slice", 0, 0)
    case: CaseAtWork
    if link.asks_server:
        open_case = partial(link.open_case, volume, with_probabilities=with_probabilities)
        case = yield from work.do("slice", open_case, begun)
        yield Progress("slice", 0, len(case), seconds=work.seconds)
        last = yield from _exchange(len(case), case.protect, case.recover, link, work, cancelled)
    else:
        open_slices = partial(link.open_slices, volume, with_probabilities=with_probabilities)
        case = slices = yield from work.do("slice", open_slices, begun)
        yield Progress("slice", 0, len(case), seconds=work.seconds)
        last = yield from _decide(slices, link, work, cancelled)
    last = replace(last, stage="restore")
    labels, restored = yield from work.do("restore", case.finish, last)
    last = replace(last, seconds=work.seconds)
    yield last
    return Segmentation(labels, restored, provenance_of(link), last)


def map_latents(
    latents: Latents, link: PrivateLink, cancelled: Callable[[], bool] = lambda: False
) -> Generator[Progress, None, Latents]:
    """The server's mask latents, plain and on the CPU, for the image latents of one case; to refine a decoder."""
    parts: dict[int, Latents] = {}

    def keep(answer: Latents, where: slice) -> None:
        parts[where.start] = answer.to("cpu")

    yield from _exchange(len(latents), latents.select, keep, link, _Work(None), cancelled)
    return concatenate([parts[start] for start in sorted(parts)])


def run(steps: Generator[Event, None, Result], report: Callable[[Event], None] = lambda event: None) -> Result:
    """Drive a generator of events to its end, and return what it returns."""
    while True:
        try:
            event = next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result
        report(event)


def provenance_of(link: PrivateLink) -> dict[str, str]:
    """What a result may say about how it came to be."""
    return {
        "task": link.task.identity,
        "model": str(link.model) if link.asks_server else "none, the site's own network",
        "codec": link.protection.codec,
        "profile": str(link.profile),
        "quantization": str(link.protection.quantization),
        "ppcmi": __version__,
    }


def _exchange(
    total: int,
    encode: Callable[[slice], Latents],
    receive: Callable[[Latents, slice], None],
    link: PrivateLink,
    work: _Work,
    cancelled: Callable[[], bool],
) -> Generator[Progress, None, Progress]:
    """Bundles out, several at once, and answers in as they come, each given to ``receive``; returns the last event."""
    step = slices_a_bundle(total, link.slices_per_bundle, link.in_flight)
    waiting = [slice(start, min(start + step, total)) for start in range(0, total, step)]
    case = secrets.token_hex(16)  # nobody can tell that two requests are about one patient
    last = Progress("encode", 0, total)
    with InFlight[_Request, bytes](link.in_flight, link.mapper.abort) as calls:
        while waiting or len(calls):
            if cancelled():
                raise _cancelled()
            if waiting and not calls.full:
                where = waiting.pop(0)
                last = replace(last, stage="encode")
                latents = yield from work.do("encode", partial(encode, where), last)
                request = yield from work.do("protect", partial(_request, link, latents, where, case), last)
                last = replace(last, bytes_sent=last.bytes_sent + len(request.bundle))
                calls.start(request, request.send)
            last = replace(last, stage="map")
            busy = waiting and not calls.full  # then there is no reason to wait: only look whether an answer is there
            with work.measure("wait"):
                answers = calls.finished(0.0 if busy else NETWORK_POLL_S)
            yield replace(last, seconds=work.seconds)
            for request, answer in answers:
                last = replace(last, stage="decode", bytes_received=last.bytes_received + len(answer))
                latents = yield from work.do("unprotect", partial(request.open, answer), last)
                yield from work.do("decode", partial(receive, latents, request.where), last)
                last = replace(last, done=last.done + request.where.stop - request.where.start)
                yield replace(last, seconds=work.seconds)
    return last


def _decide(
    case: SliceCase, link: PrivateLink, work: _Work, cancelled: Callable[[], bool]
) -> Generator[Progress, None, Progress]:
    """The site's own network on all slices; returns the last event."""
    last = Progress("decode", 0, len(case))
    for start in range(0, len(case), link.slices_per_bundle):
        if cancelled():
            raise _cancelled()
        where = slice(start, min(start + link.slices_per_bundle, len(case)))
        yield from work.do("decode", partial(case.decide, link.predict_alone, where), last)
        last = replace(last, done=where.stop, seconds=work.seconds)
        yield last
    return last


def _cancelled() -> CancelledError:
    return CancelledError("Cancelled; nothing was written.")


def _request(link: PrivateLink, latents: Latents, where: slice, case: str) -> _Request:
    bundle = link.protection.protect({Stream.IMAGE: latents}, case, range(where.start, where.stop))
    return _Request(link, where, bundle, read_header(bundle))


@dataclass(frozen=True, eq=False)
class _Request:
    """One bundle on its way: which slices, what is sent, and what the answer must fit."""

    link: PrivateLink
    where: slice
    bundle: bytes
    header: BundleHeader

    def send(self) -> bytes:
        return self.link.mapper.map_bundle(self.link.task.name, self.bundle, self.link.model)

    def open(self, answer: bytes) -> Latents:
        """Plain mask latents.

        :raises BundleError: if the answer is to another request, of another model, or has other shapes than masks have.
        """
        header, latents = self.link.protection.unprotect_reply(answer, self.header)
        if header.model != self.link.model:
            raise BundleError("The server answered with another model than the one asked for; nothing of it was used.")
        if header.shapes != item_shapes(self.link.task, header.profile, (Stream.MASK,)):
            raise BundleError("The server's answer has other shapes than the task's masks; nothing of it was used.")
        return latents


class _Work:
    """Computes stage after stage, in a thread if one is lent, and sums the seconds by stage."""

    def __init__(self, worker: Executor | None) -> None:
        self._worker = worker
        self._seconds: dict[str, float] = {}

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by stage so far."""
        return dict(self._seconds)

    def do(self, stage: str, job: Callable[[], Result], meanwhile: Progress) -> Generator[Progress, None, Result]:
        """What ``job`` returns; ``meanwhile`` tells the caller what is begun, and that a thread goes on with it."""
        if self._worker is None:
            yield meanwhile
            with self.measure(stage):
                return job()
        with self.measure(stage):
            future = self._worker.submit(job)
            while not wait([future], WORKER_POLL_S).done:
                yield meanwhile
            return future.result()

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add what the block takes to the stage's seconds."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[stage] = self._seconds.get(stage, 0.0) + time.perf_counter() - start

"""Segment a volume privately: slice, encode, protect, send, and back: unprotect, decode, restore.

A generator of :class:`Progress` that the caller drives and may close at any time. Encoding and decoding happen in the
caller's thread, network calls in threads, so that the three overlap; between two events little time passes, which
lets a window stay alive. ``run`` drives it to the end where nobody watches.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ppcmi import __version__
from ppcmi.bundle import BundleHeader, read_header
from ppcmi.codec.codec import Codec
from ppcmi.codec.refinement import SiteDecoder
from ppcmi.errors import BundleError, CancelledError
from ppcmi.in_flight import InFlight
from ppcmi.latents import Latents, Profile, Stream, concatenate
from ppcmi.protection import Protection
from ppcmi.slicing import restore_labels, restore_probabilities, slice_volume
from ppcmi.task import Task
from ppcmi.volume import Volume

POLL_S = 0.05

Slices = NDArray[np.float32]
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
    :param slices_per_bundle: also the batch of encoding and decoding.
    :param in_flight: bundles under way at once.
    """

    task: Task
    codec: Codec
    decoder: SiteDecoder | None
    protection: Protection
    mapper: Mapper
    model: int
    slices_per_bundle: int = 32
    in_flight: int = 4

    @property
    def profile(self) -> Profile:
        """Which scales leave."""
        return self.protection.profile

    def decode(self, latents: Latents, slices: Slices) -> NDArray[np.float32]:
        """Probabilities ``(n, K, h, w)`` from the server's mask latents and the site's own image."""
        images = torch.from_numpy(slices)
        if self.decoder is None:
            probabilities = self.codec.decode_masks(latents, images, self.profile)
        else:
            probabilities = self.decoder.decode(latents, images, self.profile)
        return np.asarray(probabilities.cpu().numpy(), dtype=np.float32)


@dataclass(frozen=True)
class Progress:
    """How far a case is.

    :param stage: what was just done: slice, encode, map, decode or restore.
    :param done: slices that are finished, of ``total``.
    :param bytes_sent: body bytes that left, and ``bytes_received`` came back.
    :param seconds: time spent by stage in the caller's thread; ``wait`` is what it waited for the network.
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
) -> Generator[Progress, None, Segmentation]:
    """Segment ``volume``; the generator's return value is the :class:`Segmentation`.

    :param cancelled: asked between batches; closing the generator does the same without an error.
    :raises CancelledError: if ``cancelled()``; requests under way are given up, and the server sees it.

    Example::

        steps = segment(volume, link)
        for progress in steps: ...        # a for loop drops the return value; see run()
    """
    clock = _Clock()
    with clock.measure("slice"):
        slices, grid = slice_volume(volume, link.task)
    yield Progress("slice", 0, len(slices), seconds=clock.seconds)
    height, width = slices.shape[2:]
    probabilities = np.zeros((len(slices), link.task.classes, height, width), dtype=np.float32)
    last = Progress("slice", 0, len(slices))

    def encode(where: slice) -> Latents:
        return link.codec.encode_images(slices[where])

    for last, latents, where in _exchange(len(slices), encode, link, clock, cancelled):
        if latents is not None:
            with clock.measure("decode"):
                probabilities[where] = link.decode(latents, slices[where])
        yield last
    with clock.measure("restore"):
        labels = restore_labels(probabilities, grid)
        restored = restore_probabilities(probabilities, grid) if with_probabilities else None
    last = Progress("restore", len(slices), len(slices), last.bytes_sent, last.bytes_received, dict(clock.seconds))
    yield last
    return Segmentation(labels, restored, provenance_of(link), last)


def map_latents(
    latents: Latents, link: PrivateLink, cancelled: Callable[[], bool] = lambda: False
) -> Generator[Progress, None, Latents]:
    """The server's mask latents, plain and on the CPU, for the image latents of one case; to refine a decoder."""
    parts: dict[int, Latents] = {}
    for progress, answer, where in _exchange(len(latents), latents.select, link, _Clock(), cancelled):
        if answer is not None:
            parts[where.start] = answer.to("cpu")
        yield progress
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
        "model": str(link.model),
        "codec": link.protection.codec,
        "profile": str(link.profile),
        "quantization": str(link.protection.quantization),
        "ppcmi": __version__,
    }


def _exchange(
    total: int, encode: Callable[[slice], Latents], link: PrivateLink, clock: _Clock, cancelled: Callable[[], bool]
) -> Iterator[tuple[Progress, Latents | None, slice]]:
    """Bundles out, several at once, answers in as they come: an event each, with an answer its latents and slices."""
    step = link.slices_per_bundle
    waiting = [slice(start, min(start + step, total)) for start in range(0, total, step)]
    case = secrets.token_hex(16)  # nobody can tell that two requests are about one patient
    done = sent = received = 0
    with InFlight[_Request, bytes](link.in_flight, link.mapper.abort) as calls:
        while waiting or len(calls):
            if cancelled():
                raise CancelledError("Cancelled; nothing was written.")
            if waiting and not calls.full:
                where = waiting.pop(0)
                with clock.measure("encode"):
                    latents = encode(where)
                with clock.measure("protect"):
                    bundle = link.protection.protect({Stream.IMAGE: latents}, case, range(where.start, where.stop))
                request = _Request(link, where, bundle, read_header(bundle))
                sent += len(request.bundle)
                calls.start(request, request.send)
            busy = waiting and not calls.full  # then there is no reason to wait: only look whether an answer is there
            with clock.measure("wait"):
                answers = calls.finished(0.0 if busy else POLL_S)
            yield Progress("map", done, total, sent, received, dict(clock.seconds)), None, slice(0, 0)
            for request, answer in answers:
                received += len(answer)
                with clock.measure("unprotect"):
                    latents = request.open(answer)
                done += request.where.stop - request.where.start
                yield Progress("decode", done, total, sent, received, dict(clock.seconds)), latents, request.where


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

        :raises BundleError: if the answer is to another request or of another model.
        """
        header, latents = self.link.protection.unprotect_reply(answer, self.header)
        if header.model != self.link.model:
            raise BundleError("The server answered with another model than the one asked for; nothing of it was used.")
        return latents


class _Clock:
    """Seconds by stage, summed."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

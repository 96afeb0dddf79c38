"""Channel: one site's link with the server for one task; both ends seal and open bundles with it.

Example::

    channel = open_channel(link_key, task.identity, "two-layer")
    request = channel.seal({Stream.IMAGE: latents}, codec=..., profile=Profile.COARSE, ...)
    header, streams = channel.open(request)       # at the other end
    header, streams = channel.open_reply(answer, read_header(request))

Latents go in and come out in the space of the inner key: the channel adds the link layer and takes it off again.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence

import torch

from ppcmi.bundle import pack, unpack
from ppcmi.bundle_header import BundleHeader, BundleLimits, read_header
from ppcmi.errors import BundleError, KeyMismatchError
from ppcmi.klt.absent import AbsentLayer
from ppcmi.klt.derivation import encode_fields
from ppcmi.klt.link import LinkLayer
from ppcmi.klt.published import PublishedLayer
from ppcmi.latents import Latents
from ppcmi.modes import Mode
from ppcmi.quantization import Quantization
from ppcmi.scales import Profile, Stream

Layer = LinkLayer | PublishedLayer | AbsentLayer


class Channel:
    """See the module.

    :param link: the link layer; the published one in ``paper`` mode, none in ``plain`` mode.
    :param task: the task's identity.
    :param limits: what an incoming bundle may hold.
    """

    def __init__(self, link: Layer, *, task: str, mode: Mode, limits: BundleLimits | None = None) -> None:
        self._link = link
        self._task = task
        self._mode = mode
        self._limits = limits or BundleLimits()

    def seal(
        self,
        streams: Mapping[Stream, Latents],
        *,
        codec: str,
        profile: Profile,
        quantization: Quantization,
        case: str,
        slice_indices: Sequence[int],
        inner_check: str | None = None,
        in_reply_to: str | None = None,
        model: int | None = None,
        variant: int = 0,
    ) -> bytes:
        """A bundle under a nonce of its own with the scales of ``profile``, whatever more the latents hold.

        The parameters are those of :class:`~ppcmi.bundle_header.BundleHeader`.

        :raises BundleError: if a parameter is not valid or the latents are not finite.
        """
        leaving = {stream: latents.only(profile.scales_of(stream)) for stream, latents in streams.items()}
        content = _content(leaving, codec, quantization, *slice_indices, in_reply_to, model, variant)
        nonce = self._link.nonce(content)
        header = BundleHeader(
            task=self._task,
            codec=codec,
            profile=profile,
            mode=self._mode,
            quantization=quantization,
            nonce=nonce,
            link_check=self._link.check(nonce),
            inner_check=inner_check,
            case=case,
            slice_indices=tuple(int(index) for index in slice_indices),
            shapes={stream: latents.shapes for stream, latents in leaving.items()},
            in_reply_to=in_reply_to,
            model=model,
            variant=variant,
        )
        return pack(header, {stream: self._link.apply(latents, stream, nonce) for stream, latents in leaving.items()})

    def seal_reply(self, masks: Latents, request: BundleHeader, model: int) -> bytes:
        """The server's reply to ``request``: mask latents that ``model`` made of its image latents."""
        return self.seal(
            {Stream.MASK: masks},
            codec=request.codec,
            profile=request.profile,
            quantization=request.quantization,
            case=request.case,
            slice_indices=request.slice_indices,
            inner_check=request.inner_check,
            in_reply_to=request.nonce.hex(),
            model=model,
            variant=request.variant,
        )

    def open(self, data: bytes) -> tuple[BundleHeader, dict[Stream, Latents]]:
        """Header and float32 latents on the CPU, without the link layer, still under the inner key.

        :raises BundleError: if the bundle is malformed, or for another task or mode.
        :raises KeyMismatchError: if it was protected with another link key; before any arithmetic.
        """
        header = read_header(data, self._limits)
        if header.task != self._task or header.mode != self._mode:
            raise BundleError("The bundle is for another task or mode; choose the task that it was made for.")
        if not hmac.compare_digest(header.link_check, self._link.check(header.nonce)):
            raise KeyMismatchError("The bundle was protected with another link key; enrol the site again.")
        header, protected = unpack(data, self._limits)
        streams = {stream: self._link.invert(latents, stream, header.nonce) for stream, latents in protected.items()}
        return header, streams

    def open_reply(self, data: bytes, request: BundleHeader) -> tuple[BundleHeader, Latents]:
        """Header and mask latents of the server's reply to ``request``.

        :raises BundleError: also if it replies to another request: a mask of another case never comes through.
        :raises KeyMismatchError: as :meth:`open`.
        """
        header, streams = self.open(data)
        answered = (header.in_reply_to, header.case, header.slice_indices, header.codec, header.profile, header.variant)
        asked = (
            request.nonce.hex(),
            request.case,
            request.slice_indices,
            request.codec,
            request.profile,
            request.variant,
        )
        if answered != asked or header.streams != (Stream.MASK,):
            raise BundleError("The server's reply belongs to another request; segment the case again.")
        return header, streams[Stream.MASK]


def _content(streams: Mapping[Stream, Latents], *fields: object) -> bytes:
    """Digest of all that a bundle says but for the case's pseudonym, which is random."""
    digest = hashlib.sha256(encode_fields(*(str(field) for field in fields)))
    for stream, latents in streams.items():
        for scale, values in latents.items():
            digest.update(encode_fields(stream, scale, *values.shape))
            digest.update(values.detach().to("cpu", torch.float32).contiguous().numpy().data)
    return digest.digest()


def open_channel(link_key: bytes, task_identity: str, mode: Mode) -> Channel:
    """The channel for a link key of 32 bytes, a task and a mode."""
    return Channel(_LAYERS[mode](link_key, task_identity), task=task_identity, mode=mode)


_LAYERS: Mapping[Mode, Callable[[bytes, str], Layer]] = {
    "two-layer": LinkLayer,
    "paper": PublishedLayer,
    "plain": AbsentLayer,
}

"""Both layers of the KLT at a site: ``protect(z) = T_link(T_inner(z))``, packed into bundles, and the way back.

In ``paper`` mode there is no inner layer, as published; in ``plain`` mode there is neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ppcmi.bundle_header import BundleHeader, read_header
from ppcmi.channel import Channel, open_channel
from ppcmi.errors import KeyMismatchError
from ppcmi.klt.inner import InnerLayer
from ppcmi.latents import Latents
from ppcmi.modes import has_inner_layer
from ppcmi.quantization import Quantization
from ppcmi.scales import Profile, Stream
from ppcmi.site import SiteProfile
from ppcmi.task_profile import TaskProfile


@dataclass(frozen=True)
class Protection:
    """How a site's latents of one task and codec leave it; made once, with :func:`protection_of`.

    :param inner: None in modes that have none.
    :param codec: the codec's fingerprint.
    """

    channel: Channel
    inner: InnerLayer | None
    codec: str
    profile: Profile
    quantization: Quantization = Quantization.I8

    def protect(
        self, streams: Mapping[Stream, Latents], case: str, slice_indices: Sequence[int], variant: int = 0
    ) -> bytes:
        """Plain latents of some slices as one bundle; only the profile's scales are in it.

        :param streams: image latents, and mask latents of a labelled case, on any device.
        :param case: pseudonym, 32 hex digits.
        """
        leaving = {stream: latents.only(self.profile.scales_of(stream)) for stream, latents in streams.items()}
        if self.inner is not None:
            leaving = {stream: self.inner.apply(latents, stream) for stream, latents in leaving.items()}
        return self.channel.seal(
            leaving,
            codec=self.codec,
            profile=self.profile,
            quantization=self.quantization,
            case=case,
            slice_indices=tuple(slice_indices),
            inner_check=None if self.inner is None else self.inner.check(),
            variant=variant,
        )

    def unprotect_reply(self, data: bytes, request: BundleHeader) -> tuple[BundleHeader, Latents]:
        """Header and plain mask latents of the server's reply to ``request``.

        :raises BundleError: if it is malformed, or the reply to another request.
        :raises KeyMismatchError: if it was protected with other keys; nothing was computed then.
        """
        named = read_header(data).inner_check
        expected = None if self.inner is None else self.inner.check()
        if named != expected:
            raise KeyMismatchError("The reply was protected with another inner key; join the consortium again.")
        header, latents = self.channel.open_reply(data, request)
        return header, latents if self.inner is None else self.inner.invert(latents, Stream.MASK)


def protection_of(
    site: SiteProfile,
    part: TaskProfile,
    codec: str,
    profile: Profile,
    *,
    quantization: Quantization = Quantization.I8,
) -> Protection:
    """The protection that a site's membership of a task prescribes."""
    mode, identity = part.membership.mode, part.task.identity
    return Protection(
        channel=open_channel(site.link_key(), identity, mode),
        inner=InnerLayer(part.inner_key, identity) if has_inner_layer(mode) else None,
        codec=codec,
        profile=profile,
        quantization=quantization,
    )

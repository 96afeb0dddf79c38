"""Scales and streams of latents, and which scales leave the site; plain facts that need no tensor library.

For slices of ``h x w`` pixels ``s3`` is ``(n, 64, h/8, w/8)``, ``s4`` is ``(n, 128, h/16, w/16)`` and ``b`` is
``(n, 256, h/32, w/32)`` (PAPER: 114,688 values for a 256 x 256 slice); a minimized codec's image latents have fewer
channels. A privacy profile names the scales that leave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

SCALES = ("s3", "s4", "b")
"""Names of a codec's scales, finest first."""

PATCH_SCALES = ("x", "y")
"""What Mixup-Privacy sends in place of latents: a mixed patch, and its mixed soft segmentation."""

SCALE_CHANNELS: Mapping[str, int] = {"s3": 64, "s4": 128, "b": 256}
MINIMIZED_CHANNELS: Mapping[str, int] = {"s3": 4, "s4": 8, "b": 16}
"""Of image latents of a minimized codec; its mask latents have :data:`SCALE_CHANNELS` like all others."""
SCALE_STRIDES: Mapping[str, int] = {"s3": 8, "s4": 16, "b": 32}

Shape = tuple[int, int, int]
"""Channels, rows and columns of one scale of one slice."""

Shapes = Mapping[str, Shape]
"""By scale."""


class Stream(StrEnum):
    """What latents describe; image and mask latents never share a transform."""

    IMAGE = "image"
    MASK = "mask"


class Profile(StrEnum):
    """Privacy profile: which scales leave the site (DESIGN, What protects what).

    ``mixup`` is what bundles of that method say; nobody chooses it, and it is none of :data:`PRIVACY_PROFILES`.
    """

    PAPER = "paper"
    FULL = "full"
    COARSE = "coarse"
    MINIMAL = "minimal"
    MIXUP = "mixup"

    @property
    def scales(self) -> tuple[str, ...]:
        """Names of the scales that leave, finest first."""
        return {Profile.COARSE: ("s4", "b"), Profile.MINIMAL: ("b",), Profile.MIXUP: PATCH_SCALES}.get(self, SCALES)

    def scales_of(self, stream: Stream) -> tuple[str, ...]:
        """Those that a stream has: all, but of mixed patches an image has one and a mask the other."""
        if self is not Profile.MIXUP:
            return self.scales
        return PATCH_SCALES[:1] if stream is Stream.IMAGE else PATCH_SCALES[1:]


PRIVACY_PROFILES = tuple(profile for profile in Profile if profile is not Profile.MIXUP)
"""Those that a user can choose."""


def scale_shapes(
    slice_size: Sequence[int], scales: Sequence[str] = SCALES, channels: Mapping[str, int] = SCALE_CHANNELS
) -> dict[str, Shape]:
    """Shape of each scale for slices of ``slice_size = (rows, columns)``, both multiples of 32."""
    rows, columns = slice_size
    return {s: (channels[s], rows // SCALE_STRIDES[s], columns // SCALE_STRIDES[s]) for s in scales}

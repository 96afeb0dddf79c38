"""Small bundles of random latents, for tests of formats, client and server."""

import torch

from ppcmi.bundle_header import BundleHeader
from ppcmi.channel import Channel, open_channel
from ppcmi.latents import Latents
from ppcmi.quantization import Quantization
from ppcmi.scales import Profile, Stream

LINK_KEY = bytes(range(32))
TASK = "phantom@1"
CODEC = "c0dec" + "0" * 27
CASE = "ca5e" + "0" * 28
SMALL_SHAPES = {"s3": (8, 8, 8), "s4": (16, 4, 4), "b": (32, 2, 2)}


def make_latents(slices: int = 2, profile: Profile = Profile.COARSE, seed: int = 0) -> Latents:
    """Random latents of ``SMALL_SHAPES``."""
    generator = torch.Generator().manual_seed(seed)
    return Latents(
        {scale: torch.randn((slices, *SMALL_SHAPES[scale]), generator=generator) for scale in profile.scales}
    )


def make_header(**changes: object) -> BundleHeader:
    """The header that fits two slices of ``make_latents()`` as an image stream, but for ``changes``."""
    fields: dict[str, object] = {
        "task": TASK,
        "codec": CODEC,
        "profile": Profile.COARSE,
        "mode": "two-layer",
        "quantization": Quantization.F32,
        "nonce": bytes(range(16)),
        "link_check": "0123456789abcdef",
        "inner_check": "fedcba9876543210",
        "case": CASE,
        "slice_indices": (3, 4),
        "shapes": {Stream.IMAGE: {scale: SMALL_SHAPES[scale] for scale in ("s4", "b")}},
    }
    return BundleHeader(**(fields | changes))


def make_channel(key: bytes = LINK_KEY, task: str = TASK, mode: str = "two-layer") -> Channel:
    """A channel as both ends have it."""
    return open_channel(key, task, mode)


def seal_latents(channel: Channel | None = None, latents: Latents | None = None, **changes: object) -> bytes:
    """A sealed bundle of two random slices of image latents, but for ``changes`` of ``Channel.seal``'s parameters."""
    latents = latents or make_latents()
    fields: dict[str, object] = {
        "codec": CODEC,
        "profile": Profile.COARSE,
        "quantization": Quantization.F32,
        "case": CASE,
        "slice_indices": range(len(latents)),
    }
    return (channel or make_channel()).seal({Stream.IMAGE: latents}, **(fields | changes))

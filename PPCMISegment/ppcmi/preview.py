"""Preview of what leaves: one slice, its latents as sent, and the best picture that needs no inner key.

The server's view is made as the server could make it, by the attack that needs nothing but the bundle
(docs/security.md): it undoes the link layer, which it can, and is left with latents under one fixed orthogonal mixing
of the channels. That keeps the norm at every position, and the principal components over the channels up to sign, so
their maps are maps of the anatomy. Of all these the one nearest to the image is shown, which is kinder to the server
than it could be to itself: it has no image to compare with. With images of the same kind it may do better still, by
training a decoder.

Example::

    preview = preview_slice(slices[index], codec, protection)
    preview.server.picture, preview.server.correlation       # (h, w) in 0..1, and |r| with the image
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ppcmi.bundle import unpack
from ppcmi.codec.codec import Codec
from ppcmi.errors import UsageError
from ppcmi.latents import Latents
from ppcmi.mosaic import Gray, mosaic
from ppcmi.protection import Protection
from ppcmi.scales import Profile, Stream
from ppcmi.slicing import SliceGrid, head_up
from ppcmi.task import Slicing

COMPONENTS = 3
SHOWN_PERCENTILES = (1.0, 99.0)


@dataclass(frozen=True, eq=False)
class View:
    """A picture that someone without the image makes of latents.

    :param picture: ``(h, w)`` of the slice, 0..1; a preview's has the head up.
    :param correlation: absolute correlation with the image, 0..1 (Pearson, over the slice's pixels).
    :param name: which map it is, for people.
    """

    picture: Gray
    correlation: float
    name: str


@dataclass(frozen=True, eq=False)
class Preview:
    """What leaves of one slice.

    :param image: ``(h, w)``, the slice as the codec sees it; it stays.
    :param leaving: the latents as they are sent, after both layers and quantization, as a mosaic of channels.
    :param server: the best view of someone with the link key and without the inner key.
    :param outsider: the same attempt on what is sent, without any key.
    :param numbers: how many leave.
    :param bytes: of a bundle with this slice alone.
    """

    image: Gray
    leaving: Gray
    server: View
    outsider: View
    profile: Profile
    numbers: int
    bytes: int


def preview_slice(slice_: NDArray[np.float32], codec: Codec, protection: Protection) -> Preview:
    """Protect one slice ``(c, h, w)`` as if it were sent, and look at it with the eyes of those who get it."""
    if Profile.MIXUP in codec.profiles:
        raise UsageError("The method mixup sends mixtures of images, which need no attack to be looked at.")
    image: Gray = np.ascontiguousarray(slice_[len(slice_) // 2])
    plain = codec.encode_images(slice_[None])
    bundle = protection.protect({Stream.IMAGE: plain}, secrets.token_hex(16), [0])
    sent = unpack(bundle)[1][Stream.IMAGE]
    at_the_server = protection.channel.open(bundle)[1][Stream.IMAGE]
    slicing = codec.task.slicing
    return Preview(
        image=np.ascontiguousarray(head_up(image, slicing)),
        leaving=mosaic(sent),
        server=_turned(best_view(at_the_server, image), slicing),
        outsider=_turned(best_view(sent, image), slicing),
        profile=protection.profile,
        numbers=sum(values[0].numel() for _, values in sent.items()),
        bytes=len(bundle),
    )


def _turned(view: View, slicing: Slicing) -> View:
    return replace(view, picture=np.ascontiguousarray(head_up(view.picture, slicing)))


def best_view(latents: Latents, image: Gray) -> View:
    """Of all maps that an orthogonal mixing of the channels leaves as they are, the one nearest to ``image``.

    :param latents: of the image's slice alone, in whatever space.
    """
    return max(views_of(latents, image), key=lambda view: view.correlation)


def views_of(latents: Latents, image: Gray) -> list[View]:
    """All of the maps that :func:`best_view` chooses from."""
    return [_view(name, values, image) for name, values in _invariant_maps(latents)]


def nearest_slice(grid: SliceGrid, ras: tuple[float, float, float]) -> int:
    """Index of the slice nearest to a point in RAS millimetres."""
    ijk = np.linalg.solve(grid.geometry.ijk_to_ras, np.array([*ras, 1.0]))[:3]
    place = round(float(ijk[2 - grid.axes[0]]))
    index = len(grid) - 1 - place if grid.flipped[0] else place
    return min(max(index, 0), len(grid) - 1)


def _invariant_maps(latents: Latents) -> Iterator[tuple[str, Tensor]]:
    """Maps ``(rows, columns)`` of a scale with their names: norms, and principal components over the channels."""
    for scale, stack in latents.items():
        values = stack[0].double()
        channels, rows, columns = values.shape
        yield f"{scale}, norm", values.norm(dim=0)
        centered = values.reshape(channels, -1)
        centered = centered - centered.mean(dim=1, keepdim=True)
        _, strengths, directions = torch.linalg.svd(centered, full_matrices=False)
        for index in range(min(COMPONENTS, len(strengths))):
            yield f"{scale}, principal component {index + 1}", directions[index].reshape(rows, columns)


def _view(name: str, values: Tensor, image: Gray) -> View:
    grown = F.interpolate(values[None, None], size=image.shape, mode="bicubic", align_corners=False)[0, 0].numpy()
    correlation = _correlation(grown, image)
    upright = grown if correlation >= 0 else -grown  # the sign of a component means nothing
    low, high = np.percentile(upright, SHOWN_PERCENTILES)
    picture = np.clip((upright - low) / max(high - low, 1e-12), 0, 1).astype(np.float32)
    return View(picture, abs(correlation), name)


def _correlation(first: NDArray[np.float64], second: Gray) -> float:
    """Pearson's r; 0 where one of the two is constant."""
    a, b = first - first.mean(), second.astype(np.float64) - second.mean(dtype=np.float64)
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a * b).sum()) / scale if scale > 1e-12 else 0.0

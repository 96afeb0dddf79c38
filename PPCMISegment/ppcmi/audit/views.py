"""What becomes of plain latents before an observer sees them, with real layers under keys drawn from a generator.

Each class here is a :data:`~ppcmi.audit.attacker.Protect`. Keys are the first that is drawn, so that a generator with
the same seed gives the same site; nonces and noise come from the key and the content, as in the product, so that no two
bundles share them. Quantization is left out, which favors the attacker.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ppcmi.audit.attacker import Protect
from ppcmi.klt.derivation import KEY_BYTES, nonce_of
from ppcmi.klt.inner import InnerLayer
from ppcmi.klt.link import LinkLayer
from ppcmi.klt.published import PublishedLayer
from ppcmi.latents import Latents, concatenate
from ppcmi.scales import Stream

SLICES_PER_BUNDLE = 32


@dataclass(frozen=True)
class PlainView:
    """Nothing protects, or the observer has all keys."""

    def __call__(self, latents: Latents, case: Tensor, generator: torch.Generator) -> Latents:
        """The latents themselves."""
        return latents


@dataclass(frozen=True)
class RandomView:
    """Pure noise in place of latents, for a control: nothing about an image is in it."""

    def __call__(self, latents: Latents, case: Tensor, generator: torch.Generator) -> Latents:
        """Standard normals, other ones for other images."""
        return normals_like(latents, draw_key(generator))


@dataclass(frozen=True)
class PublishedView:
    """The published layer, its key unknown."""

    task_identity: str

    def __call__(self, latents: Latents, case: Tensor, generator: torch.Generator) -> Latents:
        """``z' = P Q^T z + b``, one key for all cases."""
        return PublishedLayer(draw_key(generator), self.task_identity).apply(latents, Stream.IMAGE)


@dataclass(frozen=True)
class ServerView:
    """The two-layer KLT as the server sees it, which has undone the link layer: the inner layer is left."""

    task_identity: str

    def __call__(self, latents: Latents, case: Tensor, generator: torch.Generator) -> Latents:
        """``Q^T z``, one key for all cases."""
        return InnerLayer(draw_key(generator), self.task_identity).apply(latents, Stream.IMAGE)


@dataclass(frozen=True)
class NetworkView:
    """What is sent, seen without any key: the link layer, fresh for each bundle, over what ``inside`` leaves.

    :param inside: the protection under the link layer; it draws its key first.
    """

    task_identity: str
    inside: Protect

    def __call__(self, latents: Latents, case: Tensor, generator: torch.Generator) -> Latents:
        """Every case in bundles of :data:`SLICES_PER_BUNDLE` slices, each under a nonce of its own."""
        inside = self.inside(latents, case, generator)
        link = LinkLayer(draw_key(generator), self.task_identity)
        bundles = [inside.select(index) for index in _bundles(case)]
        sent = [link.apply(bundle, Stream.IMAGE, link.nonce(_content(bundle))) for bundle in bundles]
        back = torch.argsort(torch.cat(list(_bundles(case))))
        return concatenate(sent).select(back)


@dataclass(frozen=True)
class NoisyView:
    """Gaussian noise on the latents at the site, under whatever protects them then.

    :param deviation: of the noise, relative to each scale's.
    """

    deviation: float
    outside: Protect

    def __call__(self, latents: Latents, case: Tensor, generator: torch.Generator) -> Latents:
        """Noise, then the protection."""
        return self.outside(add_noise(latents, self.deviation, draw_key(generator)), case, generator)


def add_noise(latents: Latents, deviation: float, key: bytes) -> Latents:
    """Latents with Gaussian noise of ``deviation`` times each scale's own; the same for the same key and content."""
    noise = normals_like(latents, key)
    return latents.map(lambda scale, values: values + deviation * values.std() * noise[scale])


def normals_like(latents: Latents, key: bytes) -> Latents:
    """Standard normals of the same shapes; the same for the same key and content."""
    seed = int.from_bytes(nonce_of(key, _content(latents))[:7], "little")
    generator = torch.Generator().manual_seed(seed)
    return latents.map(lambda _, values: torch.randn(values.shape, generator=generator))


def draw_key(generator: torch.Generator) -> bytes:
    """32 bytes."""
    return bytes(torch.randint(256, (KEY_BYTES,), generator=generator).tolist())


def _bundles(case: Tensor) -> Iterator[Tensor]:
    for one in torch.unique(case):
        yield from torch.split(torch.nonzero(case == one)[:, 0], SLICES_PER_BUNDLE)


def _content(latents: Latents) -> bytes:
    digest = hashlib.sha256()
    for scale, values in latents.items():
        digest.update(scale.encode())
        digest.update(values.detach().float().contiguous().numpy().tobytes())
    return digest.digest()

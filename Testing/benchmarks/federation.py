"""A consortium in one process: the sites' and the server's real code, keys and bundles, without HTTP between them.

The path of every number: slices, codec, inner layer, link layer, quantization, bundle, and at the server the bundle,
the link layer's inverse, the mapping network; and back. Only the sockets are missing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ppcmi.bundle_header import Mode
from ppcmi.channel import Channel, open_channel
from ppcmi.codec.augment import augment_pair
from ppcmi.codec.codec import Codec
from ppcmi.codec.slice_set import SliceSet
from ppcmi.klt.inner import InnerLayer
from ppcmi.latents import Latents, concatenate
from ppcmi.quantization import Quantization
from ppcmi.scales import Profile, Stream
from ppcmi_server.umn.config import UmnConfig
from ppcmi_server.umn.dataset import LatentDataset, join_datasets
from ppcmi_server.umn.model import TrainedUmn
from ppcmi_server.umn.training import KeepsStates, Watching, train_umn

SLICES_PER_BUNDLE = 64


@dataclass(frozen=True, eq=False)
class Site:
    """One site's cases; ``validation`` is None where labels are few."""

    name: str
    train: SliceSet
    validation: SliceSet | None
    test: SliceSet


@dataclass(frozen=True, eq=False)
class Member:
    """A site's way to the server: its codec, its keys, what leaves."""

    codec: Codec
    fingerprint: str
    inner: InnerLayer | None
    channel: Channel
    profile: Profile
    quantization: Quantization

    def seal(self, streams: dict[Stream, Latents], case: str, variant: int = 0) -> bytes:
        """Plain latents to the bytes of a bundle."""
        leaving = {stream: latents.of(self.profile) for stream, latents in streams.items()}
        if self.inner is not None:
            leaving = {stream: self.inner.apply(latents, stream) for stream, latents in leaving.items()}
        count = len(next(iter(leaving.values())))
        return self.channel.seal(
            leaving,
            codec=self.fingerprint,
            profile=self.profile,
            quantization=self.quantization,
            case=case,
            slice_indices=range(count),
            inner_check=None if self.inner is None else self.inner.check(),
            variant=variant,
        )

    def exchange(self, latents: Latents, umn: TrainedUmn) -> Exchange:
        """Image latents of one case to mask latents, through both halves of the protocol."""
        request = self.seal({Stream.IMAGE: latents.to("cpu")}, case=os.urandom(16).hex())
        header, streams = self.channel.open(request)
        answer = umn.map(streams[Stream.IMAGE], header.codec)
        reply = self.channel.seal_reply(answer.to("cpu"), header, model=1)
        _, masks = self.channel.open_reply(reply, header)
        masks = masks if self.inner is None else self.inner.invert(masks, Stream.MASK)
        return Exchange(masks, len(request), len(reply))

    def ask(self, latents: Latents, umn: TrainedUmn) -> Latents:
        """The mask latents of :meth:`exchange`."""
        return self.exchange(latents, umn).masks

    def ask_each_case(self, cases: SliceSet, umn: TrainedUmn) -> Exchange:
        """Mask latents of all slices, asked for case by case, and the bytes of all bundles."""
        found = [self.exchange(self.codec.encode_images(case.slices), umn) for case in cases.each_case()]
        return Exchange(
            concatenate([one.masks for one in found]),
            sum(one.sent for one in found),
            sum(one.received for one in found),
        )


@dataclass(frozen=True, eq=False)
class Exchange:
    """The server's answer, float32 on the CPU, and how many bytes the bundles there and back had."""

    masks: Latents
    sent: int
    received: int


def join_consortium(
    codec: Codec,
    profile: Profile,
    *,
    inner_key: bytes | None = b"i" * 32,
    link_key: bytes = b"l" * 32,
    quantization: Quantization = Quantization.I8,
    mode: Mode | None = None,
) -> Member:
    """A member; ``inner_key`` None leaves the inner layer out. Fixed keys: a benchmark must repeat.

    :param mode: None for ``paper`` where the profile is that, else ``two-layer``.
    """
    identity = codec.task.identity
    return Member(
        codec=codec,
        fingerprint=codec.fingerprint,
        inner=None if inner_key is None else InnerLayer(inner_key, identity),
        channel=open_channel(link_key, identity, mode or ("paper" if profile is Profile.PAPER else "two-layer")),
        profile=profile,
        quantization=quantization,
    )


@dataclass(frozen=True, eq=False)
class PlainLatents:
    """All scales of one site's training cases and their augmented encodings, before any protection."""

    images: Latents
    masks: Latents
    case: torch.Tensor
    variant: torch.Tensor


def encode_site(codec: Codec, cases: SliceSet, variants: int, seed: int) -> PlainLatents:
    """What a site exports, before protection: every case as it is and ``variants`` augmented times; float16."""
    generator = torch.Generator().manual_seed(seed)
    images, masks = [], []
    for variant in range(variants + 1):
        slices, labels = cases.slices, cases.known_labels
        if variant:
            slices, labels = augment_pair(slices, labels, generator)
        images.append(codec.encode_images(slices).map(lambda _, v: v.cpu().half()))
        masks.append(codec.encode_masks(labels).map(lambda _, v: v.cpu().half()))
    return PlainLatents(
        concatenate(images),
        concatenate(masks),
        cases.case.repeat(variants + 1),
        torch.arange(variants + 1).repeat_interleave(len(cases)),
    )


def received(member: Member, plain: PlainLatents) -> LatentDataset:
    """What the server has after ``member`` exported and uploaded ``plain``: still under the inner key."""
    images, masks = [], []
    for first in range(0, len(plain.case), SLICES_PER_BUNDLE):
        part = slice(first, first + SLICES_PER_BUNDLE)
        streams = {
            Stream.IMAGE: plain.images.select(part).map(lambda _, v: v.float()),
            Stream.MASK: plain.masks.select(part).map(lambda _, v: v.float()),
        }
        _, opened = member.channel.open(member.seal(streams, case="0" * 32))
        images.append(opened[Stream.IMAGE].map(lambda _, v: v.half()))
        masks.append(opened[Stream.MASK].map(lambda _, v: v.half()))
    return LatentDataset(
        concatenate(images),
        concatenate(masks),
        (member.fingerprint,),
        torch.zeros_like(plain.case),
        plain.case,
        plain.variant,
    )


def received_together(members: Sequence[Member], plains: Sequence[PlainLatents]) -> LatentDataset:
    """What the server has of all members."""
    return join_datasets([received(member, plain) for member, plain in zip(members, plains, strict=True)])


def train_together(
    members: Sequence[Member],
    plains: Sequence[PlainLatents],
    config: UmnConfig,
    *,
    watching: Watching | None = None,
    checkpoints: KeepsStates | None = None,
    device: torch.device | None = None,
) -> TrainedUmn:
    """The server's training on everything that the members sent."""
    return train_umn(received_together(members, plains), config, checkpoints, watching=watching, device=device)

"""Cohorts as a data set: bundles decrypted, the link layer undone, latents kept as the inner key leaves them.

They are read a bundle at a time. Up to the setting ``training.memory_bytes`` they are kept in memory, in float16; more
goes to an encrypted file without a name (:mod:`ppcmi_server.umn.scratch`). On the way each slice's weight in the loss
is found, such that what is out of all proportion, or was sent many times over, cannot outweigh the rest.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sqlalchemy import select
from sqlalchemy.orm import Session
from torch import Tensor

from ppcmi.bundle_header import read_header
from ppcmi.channel import Channel
from ppcmi.errors import TrainingError
from ppcmi.latents import Latents
from ppcmi.modes import mode_named
from ppcmi.scales import Profile, Shape, Stream
from ppcmi.task import Task as TaskDocument
from ppcmi_server.access.identity import Caller
from ppcmi_server.database.schema import Cohort, Frame, Site
from ppcmi_server.services import Services
from ppcmi_server.umn.dataset import LatentDataset
from ppcmi_server.umn.scratch import MemoryLatents, ScratchLatents

LARGEST_LATENT = 1000.0
"""Standardized latents are about 1; they are cut off here, so that float16 and the squares of errors hold them."""
LARGEST_POWER = 4.0
"""Mean square of a slice, relative to what the strongest twentieth of a usual site's slices have, that counts fully."""


@dataclass(frozen=True)
class StoredCohort:
    """A cohort with its owner and frames, as the database had them."""

    cohort: Cohort
    site: Site
    frames: tuple[Frame, ...]


@dataclass(frozen=True, eq=False)
class SliceFacts:
    """What was seen of each slice when it was read: ``(n,)`` each.

    :param image_power: mean square of its image latents, before anything was cut off; NaN if one is not finite.
    :param mask_power: of its mask latents.
    :param digest: of the content, int64; equal for equal slices.
    """

    image_power: Tensor
    mask_power: Tensor
    digest: Tensor

    @classmethod
    def of(cls, images: Latents, masks: Latents) -> SliceFacts:
        """Of slices in memory."""
        hashes = [hashlib.blake2b(digest_size=8) for _ in range(len(images))]
        for latents in (images, masks):
            for _, values in fit_for_training(latents).items():
                for found, content in zip(hashes, values.contiguous().numpy(), strict=True):
                    found.update(content.tobytes())
        numbers = [int.from_bytes(found.digest(), "big", signed=True) for found in hashes]
        return cls(_powers(images), _powers(masks), torch.tensor(numbers))

    @classmethod
    def join(cls, parts: Sequence[SliceFacts]) -> SliceFacts:
        """Of all slices of the parts, in order."""
        return cls(
            torch.cat([part.image_power for part in parts]),
            torch.cat([part.mask_power for part in parts]),
            torch.cat([part.digest for part in parts]),
        )


@dataclass(frozen=True, eq=False)
class TrainingData:
    """A data set, and what was seen of each slice."""

    dataset: LatentDataset
    facts: SliceFacts


def stored_cohorts(session: Session, cohorts: Sequence[Cohort]) -> list[StoredCohort]:
    """The cohorts with what is needed to read them; frames in the order of their index."""
    return [
        StoredCohort(
            cohort,
            session.get_one(Site, cohort.site_id),
            tuple(session.scalars(select(Frame).where(Frame.cohort_id == cohort.id).order_by(Frame.index))),
        )
        for cohort in cohorts
    ]


def fingerprint(config: Mapping[str, Any], cohorts: Sequence[StoredCohort], weights: Mapping[str, float]) -> str:
    """SHA-256 (hex) of what a training's outcome depends on: options, data, sites' weights."""
    frames = [
        [stored.cohort.id, stored.site.id, *((frame.index, frame.digest.hex()) for frame in stored.frames)]
        for stored in cohorts
    ]
    return hashlib.sha256(json.dumps([dict(config), frames, dict(weights)], sort_keys=True).encode()).hexdigest()


def load_dataset(
    services: Services,
    task: TaskDocument,
    profile: Profile,
    cohorts: Sequence[StoredCohort],
    *,
    scratch: Path,
    weights: Mapping[str, float] | None = None,
) -> TrainingData:
    """All slices of the cohorts, with the profile's scales.

    A site's case is one case in however many cohorts it is, so that a split by case keeps it on one side.

    :param scratch: folder on whose disk they are if they are too many for memory.
    :param weights: how much a site's slices count, by its id; 1 for others.
    :raises FileNotFoundError: if a cohort was withdrawn in the meantime.
    :raises TrainingError: if there is no slice, or a cohort's bundles do not go together or hold what is no number.
    """
    frames = [(stored, frame) for stored in cohorts for frame in stored.frames]
    count = sum(frame.slices for _, frame in frames)
    if not count:
        raise TrainingError("There is no latent to train on; upload a cohort first.")
    by_stream = _widest_shapes(services, profile, cohorts)
    size = 2 * count * sum(int(np.prod(shape)) for shapes in by_stream for shape in shapes.values())
    in_memory = size <= services.config.training.memory_bytes
    images, masks = (
        MemoryLatents(count, shapes) if in_memory else ScratchLatents(scratch, count, shapes) for shapes in by_stream
    )
    codecs = tuple(dict.fromkeys(stored.cohort.codec for stored in cohorts))
    sites = tuple(dict.fromkeys(stored.site.id for stored in cohorts))
    cases: dict[tuple[str, str], int] = {}
    member, site, case, variant = (torch.zeros(count, dtype=torch.int64) for _ in range(4))
    seen: list[SliceFacts] = []
    start = 0
    for stored, frame in frames:
        where = slice(start, start + frame.slices)
        opened = _open(services, task, stored, frame)
        streams = {stream: latents.only(profile.scales_of(stream)) for stream, latents in opened.items()}
        if not all(latents.finite for latents in streams.values()):
            raise TrainingError(
                f"Cohort {stored.cohort.id} holds values that are not finite; exclude it, or have it withdrawn."
            )
        try:
            wide = streams[Stream.IMAGE].widened(images.shapes)
        except ValueError as error:
            raise TrainingError(
                f"The bundles of cohort {stored.cohort.id} differ in their channels; withdraw it, or exclude its site."
            ) from error
        images.put(start, fit_for_training(wide))
        masks.put(start, fit_for_training(streams[Stream.MASK]))
        seen.append(SliceFacts.of(streams[Stream.IMAGE], streams[Stream.MASK]))
        member[where] = codecs.index(stored.cohort.codec)
        site[where] = sites.index(stored.site.id)
        case[where] = cases.setdefault((stored.cohort.site_id, frame.pseudonym), len(cases))
        variant[where] = frame.variant
        start = where.stop
    facts = SliceFacts.join(seen)
    dataset = LatentDataset(images, masks, codecs, member, case, variant, sites, site)
    weight = slice_weights(dataset, facts, [dict(weights or {}).get(one, 1.0) for one in sites])
    dataset = LatentDataset(images, masks, codecs, member, case, variant, sites, site, weight)
    return TrainingData(dataset, facts)


def _widest_shapes(
    services: Services, profile: Profile, cohorts: Sequence[StoredCohort]
) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """Shapes of image and of mask latents that hold those of all cohorts: codecs differ in their channels.

    All bundles of a cohort are of one codec, so that the first one tells.
    """
    found = [
        read_header(services.cohorts.read_bundle(stored.cohort, stored.frames[0])).shapes
        for stored in cohorts
        if stored.frames
    ]

    def of(stream: Stream) -> dict[str, Shape]:
        return {scale: max(shapes[stream][scale] for shapes in found) for scale in profile.scales_of(stream)}

    return of(Stream.IMAGE), of(Stream.MASK)


def fit_for_training(latents: Latents) -> Latents:
    """As they are kept: float16, cut off at :data:`LARGEST_LATENT`."""
    return latents.map(lambda _, values: values.float().clamp(-LARGEST_LATENT, LARGEST_LATENT).half())


def copies_of_cases(dataset: LatentDataset, facts: SliceFacts) -> dict[int, int]:
    """How many cases have the same slices as a case, itself included, by case."""
    slices: dict[int, list[int]] = defaultdict(list)
    own = torch.nonzero(dataset.variant == 0)[:, 0]
    for case, digest in zip(dataset.case[own].tolist(), facts.digest[own].tolist(), strict=True):
        slices[case].append(digest)
    same = {case: tuple(sorted(digests)) for case, digests in slices.items()}
    counts = Counter(same.values())
    return {case: counts[content] for case, content in same.items()}


def slice_weights(dataset: LatentDataset, facts: SliceFacts, of_site: Sequence[float]) -> Tensor:
    """How much each slice counts, ``(n,)``: its site's weight, less where it is out of proportion or of a copied case.

    Copies of a case count once in all.
    """
    weight = torch.tensor(of_site)[dataset.site]
    for power in (facts.image_power, facts.mask_power):
        most = LARGEST_POWER * usual_strength(dataset, power)
        if most > 0:
            weight = weight * (most / power.clamp_min(most))
    copies = copies_of_cases(dataset, facts)
    return weight / torch.tensor([float(copies.get(case, 1)) for case in dataset.case.tolist()])


def usual_strength(dataset: LatentDataset, power: Tensor) -> float:
    """The median over the sites of the 95th percentile of their slices' mean squares; of two, the smaller."""
    by_site = [strength(power[dataset.site == one]) for one in torch.unique(dataset.site).tolist()]
    return float(torch.tensor(by_site, dtype=torch.float64).nanmedian())


def strength(power: Tensor) -> float:
    """The 95th percentile of slices' mean squares, of those that are numbers."""
    return float(torch.nanquantile(power.double(), 0.95))


def _powers(latents: Latents) -> Tensor:
    """Mean square of each slice over all scales, at most what float32 holds; NaN where a value is not finite."""
    power = torch.cat([values.double().square().flatten(1) for _, values in latents.items()], dim=1).mean(dim=1)
    return torch.where(torch.isfinite(power), power.clamp_max(torch.finfo(torch.float32).max), torch.nan).float()


def _open(services: Services, task: TaskDocument, stored: StoredCohort, frame: Frame) -> dict[Stream, Latents]:
    _, streams = _channel(services, task, stored).open(services.cohorts.read_bundle(stored.cohort, frame))
    return streams


def _channel(services: Services, task: TaskDocument, stored: StoredCohort) -> Channel:
    site, mode = stored.site, mode_named(stored.cohort.mode)
    if site.public_key is None or site.link_salt is None:
        raise TrainingError("A cohort's site has no keys any longer; restore the database from a backup.")
    caller = Caller(site.id, site.name, site.public_key, site.link_salt, ())
    return services.channels(caller, task.identity, mode)

"""Cohorts as a data set: bundles decrypted, the link layer undone, latents kept as the inner key leaves them.

Room for all slices is made once, in float16, and filled a bundle at a time: nothing else is in memory but one bundle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from sqlalchemy import select
from sqlalchemy.orm import Session

from ppcmi.bundle_header import Mode
from ppcmi.channel import Channel
from ppcmi.errors import TrainingError
from ppcmi.latents import Latents
from ppcmi.scales import Profile, Stream, scale_shapes
from ppcmi.task import Task as TaskDocument
from ppcmi_server.database.schema import Cohort, Frame, Site
from ppcmi_server.identity import Caller
from ppcmi_server.services import Services
from ppcmi_server.umn.dataset import LatentDataset


@dataclass(frozen=True)
class StoredCohort:
    """A cohort with its owner and frames, as the database had them."""

    cohort: Cohort
    site: Site
    frames: tuple[Frame, ...]


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


def load_dataset(
    services: Services, task: TaskDocument, profile: Profile, cohorts: Sequence[StoredCohort]
) -> LatentDataset:
    """All slices of the cohorts, with the profile's scales.

    A site's case is one case in however many cohorts it is, so that a split by case keeps it on one side.

    :raises FileNotFoundError: if a cohort was withdrawn in the meantime.
    :raises TrainingError: if there is no slice.
    """
    frames = [(stored, frame) for stored in cohorts for frame in stored.frames]
    count = sum(frame.slices for _, frame in frames)
    if not count:
        raise TrainingError("There is no latent to train on; upload a cohort first.")
    images, masks = (_room(count, task, profile) for _ in range(2))
    codecs = tuple(dict.fromkeys(stored.cohort.codec for stored in cohorts))
    cases: dict[tuple[str, str], int] = {}
    member, case, variant = (torch.zeros(count, dtype=torch.int64) for _ in range(3))
    start = 0
    for stored, frame in frames:
        where = slice(start, start + frame.slices)
        streams = _open(services, task, stored, frame)
        for scale in profile.scales:
            images[scale][where] = streams[Stream.IMAGE][scale]
            masks[scale][where] = streams[Stream.MASK][scale]
        member[where] = codecs.index(stored.cohort.codec)
        case[where] = cases.setdefault((stored.cohort.site_id, frame.pseudonym), len(cases))
        variant[where] = frame.variant
        start = where.stop
    return LatentDataset(images, masks, codecs, member, case, variant)


def _room(count: int, task: TaskDocument, profile: Profile) -> Latents:
    shapes = scale_shapes(task.slicing.size, profile.scales)
    return Latents({scale: torch.zeros(count, *shape, dtype=torch.float16) for scale, shape in shapes.items()})


def _open(services: Services, task: TaskDocument, stored: StoredCohort, frame: Frame) -> dict[Stream, Latents]:
    _, streams = _channel(services, task, stored).open(services.cohorts.read_bundle(stored.cohort, frame))
    return streams


def _channel(services: Services, task: TaskDocument, stored: StoredCohort) -> Channel:
    site, mode = stored.site, _mode(stored.cohort)
    if site.public_key is None or site.link_salt is None:
        raise TrainingError("A cohort's site has no keys any longer; restore the database from a backup.")
    caller = Caller(site.id, site.name, site.public_key, site.link_salt, ())
    return services.channels(caller, task.identity, mode)


def _mode(cohort: Cohort) -> Mode:
    return "paper" if cohort.mode == "paper" else "two-layer"

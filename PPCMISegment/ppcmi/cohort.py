"""Export labelled cases as protected latents into a cohort file, and upload the file.

Both are generators of progress, a case or a frame at a time, and hold one case or a few frames in memory. An upload
that was cut off goes on where it was: the server says which frames it has.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ppcmi.client import ServerClient
from ppcmi.codec.augment import augment_pair
from ppcmi.codec.codec import Codec
from ppcmi.cohort_file import CohortReader, CohortWriter
from ppcmi.errors import CodecError, GeometryError, ReadError, SiteError
from ppcmi.in_flight import InFlight
from ppcmi.protection import Protection
from ppcmi.reading import CaseFiles, read_volume
from ppcmi.scales import Profile, Stream
from ppcmi.site import Membership, SiteProfile, TaskProfile
from ppcmi.slicing import slice_labels, slice_volume
from ppcmi.task import Task
from ppcmi.task_labels import read_task_labels

POLL_S = 0.1

FEW_CASES = 20
"""Up to so many labelled cases a site has few."""


@dataclass(frozen=True)
class ExportSettings:
    """How cases are exported.

    :param variants: augmented encodings of each case besides the case as it is; see :func:`usual_variants`.
    :param seed: of the augmentation.
    :param slices_per_bundle: also the batch of encoding.
    """

    variants: int = 0
    seed: int = 0
    slices_per_bundle: int = 64


def usual_variants(cases: int) -> int:
    """Augmented encodings of each of so many labelled cases: they help most where labels are few."""
    return 4 if cases <= FEW_CASES else 2


def usual_profile(membership: Membership, codec: Codec) -> Profile:
    """The privacy profile where nobody chose one; the published protocol and codec need all scales."""
    if membership.mode == "paper":
        return Profile.PAPER
    return Profile.FULL if codec.preset == "paper" else Profile.COARSE


@dataclass(frozen=True)
class ExportProgress:
    """One more case is done, or was ``skipped`` for the reason given; its name is for the site's eyes only."""

    case: str
    done: int
    total: int
    slices: int
    bytes_written: int
    skipped: ReadError | GeometryError | None = None


@dataclass(frozen=True)
class ExportSummary:
    """What a cohort file holds; ``skipped`` names cases that could not be read, and why."""

    cases: int
    slices: int
    bytes_written: int
    skipped: dict[str, ReadError | GeometryError] = field(default_factory=dict)


@dataclass(frozen=True)
class UploadProgress:
    """``done`` of ``total`` frames are on the server; ``bytes_sent`` by this upload."""

    done: int
    total: int
    bytes_sent: int


@dataclass(frozen=True)
class UploadSummary:
    """The cohort's id on the server, and what the server counted."""

    cohort_id: str
    cases: int
    slices: int
    bytes_sent: int


def export_cohort(
    cases: Sequence[CaseFiles],
    site: SiteProfile,
    part: TaskProfile,
    *,
    codec: Codec,
    protection: Protection,
    path: Path,
    settings: ExportSettings | None = None,
) -> Generator[ExportProgress, None, ExportSummary]:
    """Write the labelled cases to a cohort file at ``path``.

    A case that cannot be read is reported and left out; the file appears when all are done.

    :raises SiteError: if no case has labels, or none could be read.
    :raises CodecError: if the codec cannot work with the profile's scales.
    """
    chosen = settings or ExportSettings()
    if codec.preset == "paper" and protection.profile not in (Profile.PAPER, Profile.FULL):
        raise CodecError("The published codec needs all three scales; export with the profile full.")
    labelled = [case for case in cases if case.label is not None]
    if not labelled:
        raise SiteError("None of the chosen cases has labels, so there is nothing to export.")
    pseudonyms = site.pseudonyms(part.task.name, [case.name for case in labelled])
    slices = written = 0
    skipped: dict[str, ReadError | GeometryError] = {}
    with CohortWriter(
        path,
        server_public_key=site.identity.server_public_key,
        task=part.task.identity,
        codec=protection.codec,
        profile=protection.profile,
        mode=part.membership.mode,
        quantization=protection.quantization,
    ) as writer:
        for index, case in enumerate(labelled):
            try:
                images, labels = read_labelled_slices(case, part.task)
            except (ReadError, GeometryError) as error:
                skipped[case.name] = error
                yield ExportProgress(case.name, index + 1, len(labelled), slices, written, error)
                continue
            generator = torch.Generator().manual_seed(chosen.seed * 1_000_003 + index)
            pseudonym = pseudonyms[case.name]
            bundles = list(
                _bundles(
                    images,
                    labels,
                    codec=codec,
                    protection=protection,
                    pseudonym=pseudonym,
                    generator=generator,
                    settings=chosen,
                )
            )
            writer.add_case(pseudonym, bundles)
            slices += len(images)
            written += sum(len(bundle) for bundle in bundles)
            yield ExportProgress(case.name, index + 1, len(labelled), slices, written)
        if len(skipped) == len(labelled):
            raise SiteError("None of the chosen cases could be read, so there is nothing to export.")
    return ExportSummary(len(labelled) - len(skipped), slices, written, skipped)


def upload_cohort(
    path: Path, site: SiteProfile, part: TaskProfile, client: ServerClient, *, in_flight: int = 4
) -> Generator[UploadProgress, None, UploadSummary]:
    """Send a cohort file; what the server has already is not sent again.

    :raises BundleError: if the file is cut off or damaged; nothing is committed then.
    :raises SiteError: if the file is of another task, or was withdrawn.
    """
    reader = CohortReader(path)
    if reader.header.task != part.task.identity:
        raise SiteError("The cohort file is of another task, or of another version of it.")
    total = sum(1 for _ in reader.frames())  # also finds a cut before anything is sent
    end = reader.end
    cohort_id = client.create_cohort(part.task.name, reader.header_bytes)
    state = client.cohort(cohort_id)
    if state.get("state") == "withdrawn":
        raise SiteError("This cohort was withdrawn; export it again to upload it anew.")
    facts = {"task": part.task.name, "state": "open", "profile": str(reader.header.profile)}
    site.record_cohort(cohort_id, facts)
    there = set(state.get("frames", []))
    done, sent = len(there), 0
    yield UploadProgress(done, total, sent)
    pseudonyms: set[str] = set()
    with InFlight[int, None](in_flight, client.abort) as calls:
        for index, frame in reader.frames():
            pseudonyms.add(frame.case)
            if index in there:
                continue
            while calls.full:
                done += len(calls.finished(POLL_S))
                yield UploadProgress(done, total, sent)
            sent += len(frame.data)
            calls.start(index, partial(client.put_frame, cohort_id, index, frame.data))
        while len(calls):
            done += len(calls.finished(POLL_S))
            yield UploadProgress(done, total, sent)
    counted = client.commit_cohort(cohort_id, end.frames, end.digest)
    cases, slices = int(counted.get("cases", 0)), int(counted.get("slices", 0))
    site.record_cohort(
        cohort_id, {**facts, "state": "whole", "cases": cases, "slices": slices, "pseudonyms": sorted(pseudonyms)}
    )
    return UploadSummary(cohort_id, cases, slices, sent)


def withdraw(site: SiteProfile, client: ServerClient, cohort_id: str, case: str | None = None) -> None:
    """Take back a cohort, or one case of it by its name at the site.

    :raises SiteError: if the site knows no such cohort or case.
    """
    facts = site.cohorts().get(cohort_id)
    if facts is None:
        raise SiteError("This site has uploaded no cohort of that id; 'ppcmi cohort list' shows those it has.")
    if case is None:
        client.withdraw(cohort_id)
        site.record_cohort(cohort_id, {"state": "withdrawn"})
        return
    pseudonym = site.pseudonym_of(str(facts["task"]), case)
    uploaded, taken_back = facts.get("pseudonyms", []), facts.get("taken_back", [])
    if pseudonym not in uploaded or pseudonym in taken_back:
        raise SiteError("That cohort holds no case of that name.")
    client.withdraw(cohort_id, pseudonym)
    # It stays among those that were uploaded: models of that time have seen it.
    site.record_cohort(
        cohort_id, {"taken_back": [*taken_back, pseudonym], "cases": len(uploaded) - len(taken_back) - 1}
    )


def read_labelled_slices(case: CaseFiles, task: Task) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Slices ``(n, c, h, w)`` and labels ``(n, h, w)`` of a case that has labels."""
    if case.label is None:
        raise ReadError("The case has no labels.")
    slices, grid = slice_volume(read_volume(case.image), task)
    return slices, slice_labels(read_task_labels(case.label, task), grid, task)


def _bundles(
    images: NDArray[np.float32],
    labels: NDArray[np.uint8],
    *,
    codec: Codec,
    protection: Protection,
    pseudonym: str,
    generator: torch.Generator,
    settings: ExportSettings,
) -> Iterator[bytes]:
    """Every bundle of one case: as it is (variant 0), then augmented."""
    for variant in range(1 + settings.variants):
        for start in range(0, len(images), settings.slices_per_bundle):
            where = slice(start, min(start + settings.slices_per_bundle, len(images)))
            pictures, masks = torch.from_numpy(images[where]), torch.from_numpy(labels[where])
            if variant:
                pictures, masks = augment_pair(pictures, masks, generator)
            streams = {
                Stream.IMAGE: codec.encode_images(pictures),
                Stream.MASK: codec.encode_masks(masks),
            }
            yield protection.protect(streams, pseudonym, range(where.start, where.stop), variant)

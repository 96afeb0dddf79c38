"""Export labelled cases as protected latents into a cohort file, one case in memory at a time.

Under Mixup-Privacy the first case may have to wait for a second that it is mixed with; then it is two.

::

    with CohortExport(path, site, part, codec=codec, protection=protection) as export:
        for progress in export.add(name, image, labels): ...
    export.summary
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray

from ppcmi.codec.codec import Codec
from ppcmi.codec.quality import CodecQuality, lost_structures
from ppcmi.codec.slice_set import SliceSet
from ppcmi.cohort_file import CohortWriter
from ppcmi.data_folders import CaseFiles
from ppcmi.device_memory import Portions
from ppcmi.errors import CodecError, GeometryError, ReadError, SiteError
from ppcmi.export_settings import ExportSettings
from ppcmi.latents import Latents, concatenate
from ppcmi.methods.method import LabelledCase
from ppcmi.methods.mixup.export import PatchesToExport
from ppcmi.methods.slices import LabelledSlices
from ppcmi.protection import Protection
from ppcmi.scales import Profile
from ppcmi.site import SiteProfile
from ppcmi.slicing import VolumeSlices, slice_labels
from ppcmi.task_labels import read_labelled_case
from ppcmi.task_profile import Membership, TaskProfile
from ppcmi.volume import Volume


def usual_profile(membership: Membership, codec: Codec) -> Profile:
    """The privacy profile where nobody chose one; the published protocol and codec need all scales."""
    if membership.mode == "paper":
        return Profile.PAPER
    return Profile.COARSE if Profile.COARSE in codec.profiles else codec.profiles[-1]


def _require_masks(membership: Membership, codec: Codec, profile: Profile) -> None:
    """Of the usual profile it was decided when the codec was published; in others nothing is exported that is lost."""
    if profile is usual_profile(membership, codec):
        return
    try:
        lost = lost_structures(CodecQuality(**codec.report["quality"])).get(profile)
    except (KeyError, TypeError, ValueError, AttributeError):  # another site may have made the codec
        return
    if lost is not None:
        raise CodecError(
            f"In profile {profile} the codec keeps {lost[0]!r} at a Dice of {lost[1]:.3f} only; choose another profile."
        )


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
class CaseProgress:
    """``done`` of ``total`` encodings of one case's slices, each variant counted."""

    done: int
    total: int


class CohortExport:
    """A cohort file to which cases are added one after the other; it appears when the context ends without an error.

    Cases may be added in another thread than the one that leaves the context: a case that is not whole then is lost,
    and nothing half written stays.

    :raises CodecError: if the codec cannot work with the profile's scales, or loses a structure in it.
    :raises WriteError: on entering, if the file cannot be written.
    :raises SiteError: on leaving, if the method mixes cases with each other and there is only one; no file appears.
    """

    def __init__(
        self,
        path: Path,
        site: SiteProfile,
        part: TaskProfile,
        *,
        codec: Codec,
        protection: Protection,
        settings: ExportSettings | None = None,
    ) -> None:
        if not codec.works_with(protection.profile):
            names = " or ".join(codec.profiles)
            raise CodecError(
                f"The codec of preset '{codec.preset}' needs other scales; export with the profile {names}."
            )
        _require_masks(part.membership, codec, protection.profile)
        self._site, self._task = site, part.task
        self._patches = PatchesToExport(part.references_path, part.task) if part.task.method == "mixup" else None
        self._codec, self._protection, self._settings = codec, protection, settings or ExportSettings()
        self._portions = Portions(self._settings.slices_per_bundle)
        self._summary = ExportSummary(0, 0, 0)
        self._writer = CohortWriter(
            path,
            server_public_key=site.identity.server_public_key,
            task=part.task.identity,
            codec=protection.codec,
            profile=protection.profile,
            mode=part.membership.mode,
            quantization=protection.quantization,
        )

    @property
    def summary(self) -> ExportSummary:
        """What was added so far; of a case that waits for another the bytes are not counted yet."""
        return self._summary

    def __enter__(self) -> CohortExport:
        self._writer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None and self._patches is not None:
            try:
                self._patches.require_none_waiting()
            except SiteError as lonely:
                self._writer.__exit__(type(lonely), lonely, None)
                raise
        self._writer.__exit__(kind, error, traceback)

    def add(self, name: str, image: Volume, labels: Volume) -> Iterator[CaseProgress]:
        """Slice, encode, protect and add a case; its name stays at the site, which keeps a pseudonym for it.

        :raises ReadError: if the labels have values that the task does not know, or none of its; nothing is added then.
        :raises GeometryError: if they do not lie on the image's grid.
        :raises DeviceMemoryError: if the device's memory does not hold a single slice.
        """
        slices = VolumeSlices(image, self._task)
        masks = slice_labels(labels, slices.grid, self._task)
        if not masks.any():  # it would teach that nothing is there
            raise ReadError("Nothing is labelled in this case.")
        pseudonym = self._site.pseudonyms(self._task.name, [name])[name]
        items, ready = self._open(slices, masks, pseudonym)
        encodings = CaseProgress(0, sum(map(len, ready.values())) * (1 + self._settings.variants))
        yield encodings
        size = 0
        for whose, case in ready.items():
            bundles = []
            for count, bundle in self._bundles(case, whose):
                bundles.append(bundle)
                encodings = CaseProgress(encodings.done + count, encodings.total)
                yield encodings
            self._writer.add_case(whose, bundles)
            size += sum(len(bundle) for bundle in bundles)
        done = self._summary
        self._summary = ExportSummary(done.cases + 1, done.slices + items, done.bytes_written + size)

    def _open(
        self, images: VolumeSlices, labels: NDArray[np.uint8], pseudonym: str
    ) -> tuple[int, Mapping[str, LabelledCase]]:
        """How many items the case has, and what can be written now, by pseudonym: usually this case."""
        if self._patches is not None:
            slices = torch.from_numpy(images[:])
            whole = SliceSet(slices, torch.from_numpy(labels), torch.zeros(len(slices)).long())
            return self._patches.add(whole, pseudonym), self._patches.ready()
        generator = torch.Generator().manual_seed(self._settings.seed * 1_000_003 + self._summary.cases)
        encode_images = partial(self._encode, self._codec.encode_images)
        encode_masks = partial(self._encode, self._codec.encode_masks)
        case = LabelledSlices(images, labels, encode_images, encode_masks, generator)
        return len(case), {pseudonym: case}

    def _bundles(self, case: LabelledCase, pseudonym: str) -> Iterator[tuple[int, bytes]]:
        """Every bundle of one case with its number of slices: as it is (variant 0), then augmented."""
        step = self._settings.slices_per_bundle
        for variant in range(1 + self._settings.variants):
            for start in range(0, len(case), step):
                where = slice(start, min(start + step, len(case)))
                indices = range(where.start, where.stop)
                streams = case.protect(where, variant)
                yield len(indices), self._protection.protect(streams, pseudonym, indices, variant)

    def _encode(self, encode: Callable[[torch.Tensor], Latents], slices: torch.Tensor) -> Latents:
        return concatenate(self._portions.run(len(slices), lambda where: encode(slices[where])))


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
    """Write the labelled cases to a cohort file at ``path``, an event a case.

    A case that cannot be read is reported and left out; the file appears when all are done.

    :raises SiteError: if no case has labels, or none could be read, or the method needs more than one.
    :raises CodecError: if the codec cannot work with the profile's scales.
    """
    labelled = [case for case in cases if case.label is not None]
    if not labelled:
        raise SiteError("None of the chosen cases has labels, so there is nothing to export.")
    skipped: dict[str, ReadError | GeometryError] = {}
    with CohortExport(path, site, part, codec=codec, protection=protection, settings=settings) as export:
        for done, case in enumerate(labelled, start=1):
            try:
                for _ in export.add(case.name, *read_labelled_case(case, part.task)):
                    pass
            except (ReadError, GeometryError) as error:
                skipped[case.name] = error
            so_far = export.summary
            yield ExportProgress(
                case.name, done, len(labelled), so_far.slices, so_far.bytes_written, skipped.get(case.name)
            )
        if len(skipped) == len(labelled):
            raise SiteError("None of the chosen cases could be read, so there is nothing to export.")
    so_far = export.summary
    return ExportSummary(so_far.cases, so_far.slices, so_far.bytes_written, skipped)

"""What leaves a workstation when cases are segmented or exported: numbers, and sentences that name them.

The sentences are for the line under a button and for the question before an export. They claim nothing that
docs/security.md does not: protected latents are not anonymous, and who has which key can do what with them.

Example::

    leaving = segmentation_leaves([volume.geometry], task, Sending.of(part, Profile.COARSE))
    print(consent_text(leaving, read_check(site.folder, part)))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from ppcmi.bundle_header import BundleHeader, packed_size
from ppcmi.codec.presets import Preset, image_channels
from ppcmi.in_flight import slices_a_bundle
from ppcmi.klt.derivation import NONCE_BYTES
from ppcmi.methods.shapes import item_shapes, most_items
from ppcmi.modes import Mode, has_inner_layer
from ppcmi.privacy_check import PrivacyCheck
from ppcmi.privacy_words import checked_in_words
from ppcmi.quantization import FOR_MAPPING, Quantization
from ppcmi.scales import SCALE_STRIDES, Profile, Stream
from ppcmi.slicing import slice_grid
from ppcmi.task import Task
from ppcmi.task_profile import Scope, TaskProfile
from ppcmi.volume import Geometry
from ppcmi.wording import counted, megabytes

TEXT_VERSION = 6
"""Raised whenever :func:`consent_text` or :func:`network_text` says something else, so that a log tells what a user
agreed to."""

NOTHING_LEAVES = (
    "At this site nothing is sent to segment: on its validation cases the server's answer was of no use, so its own "
    "network decides."
)
"""In place of what would leave, where :meth:`~ppcmi.task_profile.TaskProfile.asks_server` says no."""

NO_CHECK = "There is no privacy check for this method; docs/methods.md says what its server sees."
"""In place of a check, where :func:`can_be_checked` says no."""

_IN_BACKUPS = "Copies in the server's backups stay until those are deleted: ask its operator how long that is."

_FRACTIONS = {8: "an eighth", 16: "a sixteenth", 32: "a thirty-second"}


@dataclass(frozen=True)
class Sending:
    """How latents leave; ``mode`` and ``scope`` are those of the site's membership, ``codec`` is its codec's preset."""

    profile: Profile
    mode: Mode = "two-layer"
    scope: Scope = "consortium"
    quantization: Quantization = FOR_MAPPING
    slices_per_bundle: int = 32
    codec: Preset = "minimized"

    @classmethod
    def of(
        cls,
        part: TaskProfile,
        profile: Profile,
        quantization: Quantization = FOR_MAPPING,
        slices_per_bundle: int = 32,
    ) -> Sending:
        """As a site's part in a task prescribes.

        :raises CodecError: if the site's codec cannot be read.
        """
        mode = part.membership.mode
        fit = quantization.fit_for(mode)
        return cls(profile, mode, part.membership.scope, fit, slices_per_bundle, part.codec_preset)


@dataclass(frozen=True)
class Leaving:
    """What leaves.

    :param streams: image latents, and for an export mask latents.
    :param slices: of all cases, ``times`` how often each leaves (an export adds augmented encodings).
    :param numbers_a_slice: latent values of one slice each time, of all streams.
    :param bytes: of all bundles.
    """

    task: str
    sending: Sending
    streams: tuple[Stream, ...]
    cases: int
    slices: int
    times: int
    numbers_a_slice: int
    bytes: int

    @property
    def masks(self) -> bool:
        """Whether labels leave as well."""
        return Stream.MASK in self.streams

    def document(self) -> dict[str, str | int]:
        """As JSON-ready values, for a log; nothing in it tells of a patient."""
        return {
            "profile": str(self.sending.profile),
            "mode": self.sending.mode,
            "scope": self.sending.scope,
            "quantization": str(self.sending.quantization),
            "streams": "+".join(self.streams),
            "cases": self.cases,
            "slices": self.slices,
            "times": self.times,
            "numbers_a_slice": self.numbers_a_slice,
            "bytes": self.bytes,
        }

    @classmethod
    def of_document(cls, task: str, document: Mapping[str, Any]) -> Leaving:
        """What :meth:`document` was made of, but for the number of slices a bundle.

        :raises ValueError: if it is no such document.
        """
        sending = Sending(
            Profile(document["profile"]),
            document["mode"],
            document["scope"],
            Quantization(document["quantization"]),
        )
        streams = tuple(Stream(name) for name in document["streams"].split("+"))
        numbers = {name: int(document[name]) for name in ("cases", "slices", "times", "numbers_a_slice", "bytes")}
        return cls(task, sending, streams, **numbers)


@dataclass(frozen=True)
class NetworkLeaving:
    """What leaves for the other members when this site shares its network.

    :param cases: labelled cases that it learns from.
    :param rounds: of the training; 0 where a network of an earlier training leaves again.
    :param bytes: of one network, which leaves once a round.
    """

    task: str
    cases: int
    rounds: int
    bytes: int

    def document(self) -> dict[str, int]:
        """As JSON-ready values, for a log."""
        return {"cases": self.cases, "rounds": self.rounds, "bytes": self.bytes}


def network_text(leaving: NetworkLeaving) -> str:
    """Paragraphs that say what it means to share the site's network with the other members."""
    if leaving.rounds:
        rounds = "once" if leaving.rounds == 1 else f"{leaving.rounds} times"
        times = f"{rounds} for the other members, and once more if it does not mix with theirs"
    else:
        times = "once for the other members"
    return "\n\n".join(
        [
            f"This site's own network, which learns from {counted(leaving.cases, 'labelled case')}, leaves {times}, "
            f"{megabytes(leaving.bytes)} each time, and with it how many cases these were. No image, no label, no "
            "latents, no names and no key leave with it.",
            "The server keeps it encrypted and cannot open it. Every member can: a network tells whoever holds it who "
            "was among the cases that it learned from, the better the fewer these were, and perhaps something of how "
            "they look. A member that colludes with the server gives it away.",
            "It stays on the server until another one replaces it, or until it is taken back; members that have it "
            f"keep it, and what they learned from it. {_IN_BACKUPS}",
        ]
    )


def segmentation_leaves(volumes: Sequence[Geometry], task: Task, sending: Sending) -> Leaving:
    """What leaves when volumes on these grids are segmented."""
    slices = [most_items(task, len(slice_grid(geometry, task.slicing)), (Stream.IMAGE,)) for geometry in volumes]
    return _leaving(
        slices, task, sending, (Stream.IMAGE,), times=1, step_of=lambda n: slices_a_bundle(n, sending.slices_per_bundle)
    )


def export_leaves(volumes: Sequence[Geometry], task: Task, sending: Sending, variants: int) -> Leaving:
    """What leaves when labelled volumes on these grids are exported with ``variants`` augmented encodings each."""
    slices = [most_items(task, len(slice_grid(geometry, task.slicing)), tuple(Stream)) for geometry in volumes]
    return export_of_slices(slices, task, sending, variants)


def export_of_slices(slices: Sequence[int], task: Task, sending: Sending, variants: int) -> Leaving:
    """As :func:`export_leaves`, for cases whose numbers of slices are known."""
    step = sending.slices_per_bundle
    return _leaving(slices, task, sending, (Stream.IMAGE, Stream.MASK), times=1 + variants, step_of=lambda _: step)


def consent_text(leaving: Leaving, check: PrivacyCheck | None = None) -> str:
    """Paragraphs that say what leaves, what does not, who could learn what, and what was measured of that.

    :param check: the task's last privacy check, None if there is none.
    """
    learned, measured = " ".join(who_could_learn_what(leaving)), what_was_measured(leaving, check)
    return "\n\n".join([" ".join(what_goes(leaving)), what_stays(leaving), learned, measured])


def can_be_checked(mode: str) -> bool:
    """Whether there is a privacy check for tasks of this mode: in the others the server needs no attack."""
    return has_inner_layer(mode)


def what_was_measured(leaving: Leaving, check: PrivacyCheck | None) -> str:
    """What the task's last privacy check found, or why there is none."""
    if not can_be_checked(leaving.sending.mode):
        return NO_CHECK
    return checked_in_words(check, leaving.sending.profile)


def what_goes(leaving: Leaving) -> list[str]:
    """What leaves, in numbers."""
    sending, mixed = leaving.sending, leaving.sending.profile is Profile.MIXUP
    cases = "" if leaving.cases == 1 and not leaving.masks else f" of {counted(leaving.cases, 'case')}"
    anew = "mixed anew" if mixed else "augmented"
    times = "" if leaving.times == 1 else f", each {leaving.times} times ({anew})"
    slices, numbers = f"{counted(leaving.slices, 'slice')}{cases}", f"{leaving.numbers_a_slice:,}"
    if mixed:  # how many is known once the parts of a volume that show nothing are cut off
        patches = "1 mixed patch" if leaving.slices == 1 else f"{leaving.slices} mixed patches"
        what = f"Up to {patches} of the images{cases} leave, as {numbers} numbers each that no key protects"
    elif sending.mode == "two-layer":
        what = f"{slices} leave as {numbers} protected numbers each"
    elif sending.mode == "paper":
        what = f"{slices} leave as {numbers} numbers each, which the server turns back into plain latents"
    else:
        what = f"{slices} leave as {numbers} numbers each that no key protects"
    size, form = megabytes(leaving.bytes), f"profile {sending.profile}, {sending.quantization}"
    sentences = [f"{what}{times}, {size} in all ({form})."]
    if leaving.masks:
        alike = "mixed with others in the same way" if mixed else "in the same form"
        sentences.append(
            f"The labels leave {alike}, and each case has a random pseudonym; the table that says which case that is "
            "stays here."
        )
    return sentences


def what_stays(leaving: Leaving) -> str:
    """What does not leave, in one sentence."""
    masks = "" if leaving.masks else "no masks, "
    plain = "no pixels, no plain latents, " if has_inner_layer(leaving.sending.mode) else "no pixels, "
    if leaving.sending.profile is Profile.MIXUP:
        return f"{'No masks, no' if masks else 'No'} DICOM tags, no patient names, no dates and no file names leave."
    return f"{plain.capitalize()}{masks}no DICOM tags, no patient names, no dates, no file names and no key leave."


def who_could_learn_what(leaving: Leaving) -> list[str]:
    """What the server, members and the network could still learn, in sentences."""
    sending = leaving.sending
    if sending.mode == "paper":
        sentences = [
            "In mode paper the server undoes the protection and holds the latents as they are: do not use it with "
            "patients' data."
        ]
    elif sending.profile is Profile.MIXUP:
        sentences = [
            "What leaves are pictures: each patch mixed with one of another case of this site, and the server sees the "
            "mixture as it is. Averaged, the mixtures of one patch show it: do not use it with patients' data."
        ]
        if leaving.masks:
            sentences.append(
                "From the mixed labels the server reads in which shares two patches were mixed, and the labels of both."
            )
    elif sending.mode == "plain":
        sentences = [
            "In mode plain nothing but TLS protects these numbers, and the server holds them as they are: do not use "
            "it with patients' data."
        ]
    else:
        fraction = _FRACTIONS[SCALE_STRIDES[sending.profile.scales[0]]]
        sentences = [
            "The server has no key to the inner layer, but these numbers stay personal data about health: with images "
            f"of the same kind it could train a decoder and see anatomy at up to {fraction} of the slice's resolution, "
            "more easily if it gets hold of one of these slices as an image."
        ]
        if sending.scope == "consortium":
            sentences.append("A member of the consortium that colludes with the server could read them.")
    sentences.append(
        "Whatever can be drawn from it, what leaves lets the server recognize the same image, and perhaps the same "
        "patient, when it comes again."
    )
    if leaving.masks:
        sentences.append(
            f"It stays on the server, encrypted, until it is withdrawn. {_IN_BACKUPS} Models that learned from it do "
            "not forget, and may tell whether a case was in their training."
        )
    items = "patches" if sending.profile is Profile.MIXUP else "slices"
    sentences.append(f"Whoever watches the network sees when and about how many {items} leave, nothing in them.")
    return sentences


def _leaving(
    slices: Sequence[int],
    task: Task,
    sending: Sending,
    streams: tuple[Stream, ...],
    *,
    times: int,
    step_of: Callable[[int], int],
) -> Leaving:
    """Sums over cases of ``slices`` slices, whose bundles take ``step_of(slices)`` of them each."""
    header = _header(task, sending, streams)

    def size_of(where: range, variant: int) -> int:
        return packed_size(replace(header, slice_indices=tuple(where), variant=variant))

    sizes = [
        size_of(range(start, min(start + step_of(count), count)), variant)
        for count in slices
        for variant in range(times)
        for start in range(0, count, step_of(count))
    ]
    return Leaving(
        task=task.identity,
        sending=sending,
        streams=streams,
        cases=len(slices),
        slices=sum(slices),
        times=times,
        numbers_a_slice=sum(prod(shape) for shapes in header.shapes.values() for shape in shapes.values()),
        bytes=sum(sizes),
    )


def _header(task: Task, sending: Sending, streams: tuple[Stream, ...]) -> BundleHeader:
    """As long as the header of a real slice: nonce, checks, fingerprint and pseudonym always have the same length."""
    return BundleHeader(
        task=task.identity,
        codec="0" * 32,
        profile=sending.profile,
        mode=sending.mode,
        quantization=sending.quantization,
        nonce=bytes(NONCE_BYTES),
        link_check="0" * 16,
        inner_check="0" * 16 if has_inner_layer(sending.mode) else None,
        case="0" * 32,
        slice_indices=(0,),
        shapes=item_shapes(task, sending.profile, streams, image_channels(sending.codec)),
    )

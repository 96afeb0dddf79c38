"""From attempts to what people read: a row for each profile, and pictures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ppcmi.audit.document import Picture, PictureRow, ProfileRow
from ppcmi.audit.mapping import Usefulness
from ppcmi.audit.metrics import SSIM, interval, middle
from ppcmi.audit.reconstruction import Attempt, Bench
from ppcmi.audit.setting import Observer, Setting
from ppcmi.audit.settings import two_layers
from ppcmi.codec.presets import Preset, image_channels
from ppcmi.codec.slice_set import SliceSet
from ppcmi.mosaic import mosaic
from ppcmi.quantization import FOR_MAPPING, ITEM_BYTES, tensor_layout
from ppcmi.scales import Profile, scale_shapes
from ppcmi.slicing import head_up

SHOWN_CASES = 2
COMPARED = (Profile.FULL, Profile.COARSE, Profile.MINIMAL)
WITH_KNOWN_IMAGES = ("A2", "A4")
"""Attacks that need images of the site."""


def profile_row(
    profile: Profile, usefulness: Usefulness, attempts: Sequence[Attempt], bench: Bench, preset: Preset
) -> ProfileRow:
    """Dice beside the best attack by anybody without the inner key.

    Who sees a profile sees the smaller ones in it: an attack that draws more of less counts for both.

    :param preset: of the site's codec.
    """
    against = [a for seen in contained(profile) for a in without_inner_key(attempts, two_layers(seen))]
    best = strongest(against)
    unaided = strongest(attempt for attempt in against if attempt.attack not in WITH_KNOWN_IMAGES)
    found = best.finding(SSIM)
    dice, dice_low, dice_high = interval(usefulness.together, bench.subjects.victim_patient, bench.seeds[0])
    size = bench.truth.shape[1:]
    numbers, size_bytes = what_leaves(profile, (size[0], size[1]), image_channels(preset))
    return ProfileRow(
        profile=profile.value,
        dice=dice,
        dice_low=dice_low,
        dice_high=dice_high,
        server_dice=interval(usefulness.server, bench.subjects.victim_patient, bench.seeds[0])[0],
        numbers_a_slice=numbers,
        bytes_a_slice=size_bytes,
        best_ssim=found.value,
        best_low=found.low,
        best_high=found.high,
        best_attack=best.words,
        best_setting=best.setting.name,
        unaided_ssim=unaided.finding(SSIM).value,
        unaided_attack=unaided.words,
        chance_ssim=bench.chance[SSIM],
    )


def contained(profile: Profile) -> list[Profile]:
    """The privacy profiles whose scales are all in a profile, itself included."""
    return [one for one in COMPARED if set(one.scales) <= set(profile.scales)]


def without_inner_key(attempts: Iterable[Attempt], defense: str) -> list[Attempt]:
    """Attempts against a defense by those who lack the inner key."""
    return [a for a in attempts if a.setting.defense == defense and a.setting.observer is not Observer.COLLUSION]


def strongest(attempts: Iterable[Attempt]) -> Attempt:
    """The attempt with the highest SSIM."""
    return max(attempts, key=lambda attempt: attempt.finding(SSIM).value)


def what_leaves(profile: Profile, slice_size: tuple[int, int], channels: Mapping[str, int]) -> tuple[int, int]:
    """Numbers, and bytes of a request at the usual quantization without its header, of one slice.

    :param channels: of the codec's image latents, by scale.
    """
    shapes = scale_shapes(slice_size, profile.scales, channels)
    layout = tensor_layout(shapes, 1, FOR_MAPPING)
    return (
        sum(math.prod(shape) for shape in shapes.values()),
        sum(ITEM_BYTES[kind] * math.prod(shape) for kind, shape in layout.values()),
    )


def slices_to_show(victims: SliceSet) -> Tensor:
    """Of each of the first cases the slice with the largest structures, as indices."""
    area = (victims.known_labels > 0).flatten(1).sum(dim=1)
    chosen = []
    for case in range(min(SHOWN_CASES, victims.cases)):
        index = torch.nonzero(victims.case == case)[:, 0]
        chosen.append(int(index[area[index].argmax()]))
    return torch.tensor(chosen)


def picture_rows(profile: Profile, network: Setting, attempts: Sequence[Attempt], bench: Bench) -> list[PictureRow]:
    """The shown slices under one profile: what leaves, and the strongest attempt of every attack.

    :param network: the setting that shows what is sent.
    """
    ranked = sorted(without_inner_key(attempts, two_layers(profile)), key=lambda a: a.finding(SSIM).value, reverse=True)
    different: dict[str, Attempt] = {}
    for attempt in ranked:
        different.setdefault(attempt.attack, attempt)
    slices = bench.subjects.victims.slices[bench.shown]
    sent = network.look(slices, torch.arange(len(slices)), bench.seeds[0]).latents

    def shown(values: Tensor) -> Picture:
        return np.ascontiguousarray(head_up(_gray(values), network.codec.task.slicing))

    return [
        PictureRow(
            profile=profile.value,
            image=shown(image),
            leaving=_gray(torch.from_numpy(mosaic(sent.select(slice(place, place + 1))))),
            reconstructions={attempt.words: shown(attempt.pictures[place]) for attempt in different.values()},
            guess=shown(bench.guess),
        )
        for place, image in enumerate(middle(slices))
    ]


def _gray(values: Tensor) -> Picture:
    picture: Picture = np.rint(values.float().clamp(0, 1).numpy() * 255).astype(np.uint8)
    return picture

"""How good a codec is on held-out cases: PSNR and SSIM of images, Dice of masks that went through it and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ppcmi.codec.codec import Codec
from ppcmi.codec.slice_set import SliceSet
from ppcmi.errors import CodecError
from ppcmi.methods.mixup.training import unmixing_dice
from ppcmi.methods.mixup.unmixing import UnmixingNetwork
from ppcmi.scales import Profile

LOWEST_MASK_DICE = 0.85
"""A codec that cannot carry a structure's mask at this Dice cannot carry its segmentation either."""


@dataclass(frozen=True)
class CodecQuality:
    """Means over held-out slices (images) and cases (masks), by privacy profile.

    :param psnr_db: image reconstruction, peak 1; empty where nothing is encoded.
    :param ssim: image reconstruction, 11 x 11 Gaussian window of deviation 1.5 (Wang et al. 2004).
    :param mask_dice: by profile and label name; None where no held-out case has the structure.
    """

    cases: int
    psnr_db: Mapping[str, float]
    ssim: Mapping[str, float]
    mask_dice: Mapping[str, Mapping[str, float | None]]

    def document(self) -> dict[str, object]:
        """As JSON-ready numbers."""
        return asdict(self)


def measure_codec(codec: Codec, held_out: SliceSet) -> CodecQuality:
    """Judge ``codec`` on labelled cases that it was not trained on."""
    if codec.preset == "mixup":
        dice = unmixing_dice(cast(UnmixingNetwork, codec.network), held_out, codec.task)
        return CodecQuality(held_out.cases, {}, {}, {Profile.MIXUP.value: dice})
    profiles = codec.profiles[:1] if codec.follows_a_paper else codec.profiles
    psnr, ssim, dice_by_profile = {}, {}, {}
    image_latents = codec.encode_images(held_out.slices)
    slices = held_out.slices.to(codec.device)
    for profile in profiles:
        rebuilt = codec.reconstruct_images(image_latents, profile).clamp(0, 1)
        psnr[profile.value] = peak_signal_to_noise(rebuilt, slices)
        ssim[profile.value] = structural_similarity(rebuilt, slices)
        dice_by_profile[profile.value] = _mask_dice(codec, held_out, profile)
    return CodecQuality(held_out.cases, psnr, ssim, dice_by_profile)


def require_good_masks(quality: CodecQuality, profile: Profile, lowest: float = LOWEST_MASK_DICE) -> None:
    """Refuse a codec that loses a structure in ``profile``, or of which nobody knows whether it does.

    :param profile: one that was judged; a codec that was judged in one alone is judged by that.
    :raises CodecError: naming the structure and its Dice.
    """
    (only, *others) = quality.mask_dice
    judged = profile.value if others else only
    for label, value in quality.mask_dice[judged].items():
        if value is None:
            raise CodecError(
                f"No held-out case has {label!r}, so it is not known whether the codec keeps it; hold one out that "
                "has it, or publish the codec anyway.",
                command="ppcmi codec publish --publish-anyway",
            )
        if value < lowest:
            raise CodecError(
                f"The codec keeps {label!r} at a Dice of {value:.3f} (profile {judged}), less than {lowest:.2f}; "
                "train longer or with more cases, or publish it anyway.",
                command="ppcmi codec publish --publish-anyway",
            )


def lost_structures(quality: CodecQuality, lowest: float = LOWEST_MASK_DICE) -> dict[Profile, tuple[str, float]]:
    """By profile the structure that is kept worst and its Dice, where that is less than ``lowest``."""
    lost = {}
    for profile, labels in quality.mask_dice.items():
        known = [(value, label) for label, value in labels.items() if value is not None]
        if known and min(known)[0] < lowest:
            lost[Profile(profile)] = (min(known)[1], min(known)[0])
    return lost


def peak_signal_to_noise(first: Tensor, second: Tensor) -> float:
    """Mean over slices of the PSNR in dB, peak 1; ``(n, c, h, w)`` both. At most 100 for equal slices."""
    error = (first - second).square().mean(dim=(1, 2, 3)).clamp_min(1e-10)
    return float((-10 * torch.log10(error)).mean())


def structural_similarity(first: Tensor, second: Tensor) -> float:
    """Mean SSIM of slices ``(n, c, h, w)`` with values in [0, 1] (Wang et al. 2004, Gaussian window)."""
    position = torch.arange(11, device=first.device) - 5.0
    bell = torch.exp(-position.square() / (2 * 1.5**2))
    window = torch.outer(bell, bell)[None, None] / bell.sum() ** 2

    def blur(x: Tensor) -> Tensor:
        return F.conv2d(x.flatten(0, 1)[:, None], window)

    mean1, mean2 = blur(first), blur(second)
    variance1 = blur(first * first) - mean1.square()
    variance2 = blur(second * second) - mean2.square()
    covariance = blur(first * second) - mean1 * mean2
    c1, c2 = 0.01**2, 0.03**2
    similarity = ((2 * mean1 * mean2 + c1) * (2 * covariance + c2)) / (
        (mean1.square() + mean2.square() + c1) * (variance1 + variance2 + c2)
    )
    return float(similarity.mean())


def case_dice(predicted: Tensor, truth: Tensor, classes: int) -> list[float | None]:
    """Dice of each foreground class over a whole case's labels ``(n, h, w)``; None where neither has the class."""
    result: list[float | None] = []
    for label in range(1, classes):
        a, b = predicted == label, truth == label
        total = int(a.sum()) + int(b.sum())
        result.append(2 * int((a & b).sum()) / total if total else None)
    return result


def mean_dice(predicted: Tensor, truth: SliceSet, classes: int) -> float:
    """Mean over cases and classes of :func:`case_dice`; ``predicted`` labels ``(n, h, w)`` of all the set's slices."""
    labels = truth.known_labels.to(predicted.device)
    values = [
        value
        for case in range(truth.cases)
        for value in case_dice(predicted[truth.case == case], labels[truth.case == case], classes)
        if value is not None
    ]
    return sum(values) / max(1, len(values))


def _mask_dice(codec: Codec, held_out: SliceSet, profile: Profile) -> dict[str, float | None]:
    # A black image in place of the real one: the codec alone must carry the mask, not the decoder's own eyes.
    labels = held_out.known_labels
    latents = codec.encode_masks(labels).of(profile)
    predicted = codec.decode_masks(latents, torch.zeros_like(held_out.slices), profile).argmax(dim=1).cpu()
    scores = [
        case_dice(predicted[held_out.case == case], labels[held_out.case == case], codec.task.classes)
        for case in range(held_out.cases)
    ]
    result: dict[str, float | None] = {}
    for index, label in enumerate(codec.task.labels):
        # A case without the structure does not judge it, though a few voxels may be taken for it.
        present = [bool((labels[held_out.case == case] == label.value).any()) for case in range(held_out.cases)]
        values = [score[index] or 0.0 for score, judges in zip(scores, present, strict=True) if judges]
        result[label.name] = sum(values) / len(values) if values else None
    return result

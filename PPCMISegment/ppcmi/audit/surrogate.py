"""The codec that an attacker trains on its own images: its best guess where it has not got the site's."""

from __future__ import annotations

from ppcmi.codec.codec import Codec, Preset
from ppcmi.codec.slice_set import SliceSet
from ppcmi.codec.training import CodecTrainingConfig, train_codec
from ppcmi.fitting import FitConfig, Report, ignore_report
from ppcmi.task import Task

LABELLED_CASES = 8


def train_surrogate(
    outside: SliceSet, task: Task, preset: Preset, images: FitConfig, seed: int, report: Report = ignore_report
) -> Codec:
    """Train on all images; masks, which reconstruct nothing, only on some, and briefly.

    :param preset: as the attacked site's, which is no secret.
    :param images: how long everything of images is trained.
    :raises CancelledError: from ``report``.
    """
    few = outside.of_cases(range(min(LABELLED_CASES, outside.cases)))
    short = FitConfig(epochs=1, batch_size=8)
    config = CodecTrainingConfig(preset=preset, seed=seed, images=images, masks=short, local=short, minimizer=images)
    rest = outside.slices[outside.case >= few.cases]
    return train_codec(few, task, config, held_out=few, unlabelled=(rest,) if len(rest) else (), report=report)

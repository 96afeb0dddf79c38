"""The codecs that an attacker trains on its own images: its best guess where it has not got the site's."""

from __future__ import annotations

from dataclasses import dataclass

from ppcmi.codec.codec import Codec
from ppcmi.codec.minimization import minimize
from ppcmi.codec.slice_set import SliceSet
from ppcmi.codec.training import CodecTrainingConfig, train_codec
from ppcmi.fitting import FitConfig, Report, ignore_report

LABELLED_CASES = 8


@dataclass(frozen=True, eq=False)
class Surrogates:
    """Codecs of an attacker.

    :param keeps_images: of the preset ``autoencoder``: its latents hold the image, which controls need.
    :param alike: of the same preset as the site's where that is minimized, else ``keeps_images``.
    """

    keeps_images: Codec
    alike: Codec


def train_surrogates(
    outside: SliceSet, site: Codec, images: FitConfig, seed: int, report: Report = ignore_report
) -> Surrogates:
    """Train on all images; masks, which reconstruct nothing, only on some, and briefly.

    :param site: the attacked codec; only its task and its preset are used, which are no secret.
    :param images: how long everything of images is trained.
    :raises CancelledError: from ``report``.
    """
    few = outside.of_cases(range(min(LABELLED_CASES, outside.cases)))
    short = FitConfig(epochs=1, batch_size=8)
    config = CodecTrainingConfig("autoencoder", seed, images=images, masks=short, local=short)
    rest = outside.slices[outside.case >= few.cases]
    unlabelled = (rest,) if len(rest) else ()
    autoencoder = train_codec(
        few, site.task, config, held_out=few, unlabelled=unlabelled, device=site.device, report=report
    )
    if site.preset != "minimized":
        return Surrogates(autoencoder, autoencoder)
    weight = config.adversary_weight
    return Surrogates(autoencoder, minimize(autoencoder, few, outside.slices, images, weight, seed=seed, report=report))

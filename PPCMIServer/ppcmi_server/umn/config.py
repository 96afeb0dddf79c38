"""How a model is trained, by default and as published."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ppcmi.scales import Profile
from ppcmi.task import Method
from ppcmi_server.umn.model import Preset


@dataclass(frozen=True)
class UmnConfig:
    """How a model is trained; recorded with it.

    :param minimum_steps: small data sets repeat in an epoch until the whole run has at least so many steps.
    :param mixup: parameter of the beta distribution that pairs are mixed with (Zhang et al. 2018; sound here because
        the default mask encoder is linear), 0 for none.
    :param noise: standard deviation of the noise on standardized image latents.
    :param average: share of the weights that enters their moving average after each step, at least.
    :param validation_share: share of the cases that the validation loss is measured on.
    :param patience: epochs without a better validation loss before it stops; 0 never stops early.
    """

    preset: Preset = "default"
    profile: Profile = Profile.COARSE
    epochs: int = 8
    seed: int = 1
    batch_size: int = 64
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    warm_up: float = 0.05
    minimum_steps: int = 600
    mixup: float = 0.3
    noise: float = 0.1
    average: float = 0.005
    validation_share: float = 0.1
    patience: int = 0


def paper_config(profile: Profile = Profile.PAPER, epochs: int = 150, seed: int = 1) -> UmnConfig:
    """The published training: Adam 1e-3, batch 16, at most 150 epochs, patience 20."""
    return UmnConfig(
        preset="paper", profile=profile, epochs=epochs, seed=seed, batch_size=16, learning_rate=1e-3,
        weight_decay=0.0, minimum_steps=0, mixup=0.0, noise=0.0, average=1.0, patience=20,
    )  # fmt: skip


def privacy_sf_config(profile: Profile = Profile.MINIMAL, epochs: int = 150, seed: int = 1) -> UmnConfig:
    """Privacy-SF: trained as PPCMI-SF was, on encoded data that are themselves augmented: mixed in pairs, and noisy.

    Shifts and flips of latent maps are no augmentation here: the published encoders do not commute with flips, and the
    maps are 8 x 8 or smaller.
    """
    return replace(paper_config(profile, epochs, seed), preset="privacy-sf", mixup=0.3, noise=0.1)


def mixup_config(epochs: int = 40, seed: int = 1) -> UmnConfig:
    """Mixup-Privacy: batch 4, cross entropy and Dice; more cohort variants stand for drawing new mixtures each epoch.

    The paper's learning rate is 1e-4; twenty times that, with warm-up and decay, is what a training of hours can use.
    """
    return UmnConfig(
        preset="mixup", profile=Profile.MIXUP, epochs=epochs, seed=seed, batch_size=4, learning_rate=2e-3,
        weight_decay=0.0, minimum_steps=0, mixup=0.0, noise=0.0, average=1.0,
    )  # fmt: skip


def usual_config(preset: Preset, profile: Profile) -> UmnConfig:
    """How a preset's models are trained where nobody says otherwise."""
    if preset == "paper":
        return paper_config(profile)
    if preset == "mixup":
        return mixup_config()
    return privacy_sf_config(profile) if preset == "privacy-sf" else UmnConfig(profile=profile)


def usual_preset(method: Method) -> Preset:
    """The networks of a task's method."""
    return "default" if method == "ppcmi" else method

"""What a task's method prescribes at the site: how a consortium protects what leaves, and the codec's networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ppcmi.codec.presets import Preset
from ppcmi.modes import Mode
from ppcmi.scales import Profile
from ppcmi.task import Method


@dataclass(frozen=True)
class MethodRules:
    """Rules of one method.

    :param modes: how latents may be protected; the first is the usual one.
    :param codec_preset: the codec's networks where nobody chose.
    :param profile: the one that it has, or None: a site chooses.
    """

    modes: tuple[Mode, ...]
    codec_preset: Preset
    profile: Profile | None = None


_RULES: Mapping[Method, MethodRules] = {
    "ppcmi": MethodRules(("two-layer", "paper"), "minimized"),
    "privacy-sf": MethodRules(("plain",), "privacy-sf", Profile.MINIMAL),
    "mixup": MethodRules(("plain",), "mixup", Profile.MIXUP),
}


def rules_of(method: Method) -> MethodRules:
    """The rules of a method."""
    return _RULES[method]


def only_profile(method: Method, mode: str) -> Profile | None:
    """The profile where there is no choice of one, or None."""
    return Profile.PAPER if mode == "paper" else rules_of(method).profile

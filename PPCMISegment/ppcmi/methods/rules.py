"""What a task's method prescribes at the site: how a consortium protects what leaves, and the codec's networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ppcmi.modes import Mode
from ppcmi.task import Method

if TYPE_CHECKING:
    from ppcmi.codec.codec import Preset


@dataclass(frozen=True)
class MethodRules:
    """Rules of one method.

    :param modes: how latents may be protected; the first is the usual one.
    :param codec_preset: the codec's networks where nobody chose.
    """

    modes: tuple[Mode, ...]
    codec_preset: Preset


_RULES: Mapping[Method, MethodRules] = {
    "ppcmi": MethodRules(("two-layer", "paper"), "default"),
    "privacy-sf": MethodRules(("plain",), "privacy-sf"),
    "mixup": MethodRules(("plain",), "mixup"),
}


def rules_of(method: Method) -> MethodRules:
    """The rules of a method."""
    return _RULES[method]

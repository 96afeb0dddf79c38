"""How latents are protected on their way to the server: the modes that a consortium may have."""

from __future__ import annotations

from typing import Literal, get_args

Mode = Literal["two-layer", "paper", "plain"]
"""Inner and link layer (the product); the published protocol; or nothing but TLS, for methods that have no key."""

MODES: tuple[Mode, ...] = get_args(Mode)


def has_inner_layer(mode: str) -> bool:
    """Whether an inner key protects latents from the server."""
    return mode == "two-layer"


def mode_named(name: str) -> Mode:
    """The mode of this name.

    :raises ValueError: if there is none.
    """
    for mode in MODES:
        if mode == name:
            return mode
    raise ValueError(f"there is no mode {name[:20]!r}")

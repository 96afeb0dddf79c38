"""Presets of codecs: which networks there are, and the facts about them that need no tensor library."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ppcmi.errors import CodecError
from ppcmi.scales import MINIMIZED_CHANNELS, SCALE_CHANNELS, Profile

Preset = Literal["minimized", "autoencoder", "paper", "privacy-sf", "mixup"]

PROFILES_OF: Mapping[Preset, tuple[Profile, ...]] = {
    "minimized": (Profile.FULL, Profile.COARSE, Profile.MINIMAL),
    "autoencoder": (Profile.FULL, Profile.COARSE, Profile.MINIMAL),
    "paper": (Profile.PAPER, Profile.FULL),
    "privacy-sf": (Profile.MINIMAL,),
    "mixup": (Profile.MIXUP,),
}
"""Privacy profiles that a preset is made for; the first of a published system's is its own."""

LONGEST_METADATA = 1 << 20


def image_channels(preset: Preset) -> Mapping[str, int]:
    """Channels of a preset's image latents by scale; mask latents have those of ``SCALE_CHANNELS`` in all of them."""
    return MINIMIZED_CHANNELS if preset == "minimized" else SCALE_CHANNELS


def preset_of_file(path: Path) -> Preset:
    """The preset of a codec's file, read from its beginning.

    :raises CodecError: if it cannot be read, or is no codec of a preset that this version knows.
    """
    try:
        preset = document_of_file(path)["preset"]
    except OSError as error:
        raise CodecError("The codec's file cannot be read; fetch or train it again.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CodecError("The codec's file is damaged; fetch or train it again.") from error
    for known in PROFILES_OF:
        if preset == known:
            return known
    raise CodecError("This version does not know the codec's format; update the software, or train the codec again.")


LEARNED_FROM = "learned_from"
"""Of the document in the file of a codec or a decoder: digests of cases, see :mod:`ppcmi.codec.learned_cases`."""


def document_of_file(path: Path) -> dict[str, Any]:
    """The document in the metadata of the safetensors file of a codec or a decoder, read from its beginning.

    :raises OSError: if it cannot be read.
    :raises ValueError, KeyError, TypeError, AttributeError: if there is none.
    """
    with path.open("rb") as file:
        start = file.read(8)
        start += file.read(min(LONGEST_METADATA, int.from_bytes(start, "little")))
    document: dict[str, Any] = json.loads(read_metadata(start)["ppcmi"])
    return document


def read_metadata(data: bytes) -> dict[str, str]:
    """The metadata of safetensors ``data`` without reading its tensors.

    :raises ValueError, KeyError, TypeError, AttributeError: if the header is not what the format asks for.
    """
    length = int.from_bytes(data[:8], "little")
    if not 2 <= length <= min(len(data) - 8, LONGEST_METADATA):
        raise ValueError("the header's length is impossible")
    header = json.loads(data[8 : 8 + length])
    return {str(key): str(value) for key, value in header["__metadata__"].items()}

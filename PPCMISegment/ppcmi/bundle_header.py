"""What a bundle says of itself, and how large it is; :mod:`ppcmi.bundle` packs and unpacks the latents themselves.

The header comes from outside: every field is checked, and what is not known is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import prod
from typing import Any

from ppcmi.errors import BundleError
from ppcmi.klt.derivation import NONCE_BYTES
from ppcmi.modes import MODES, Mode
from ppcmi.quantization import ITEM_BYTES, Quantization, tensor_layout
from ppcmi.scales import Profile, Shapes, Stream
from ppcmi.strict_json import is_whole, parse_object

FORMAT = "ppcmi-bundle/2"
METADATA_NAME = "ppcmi"
MAXIMUM_HEADER_BYTES = 64 << 10
MAXIMUM_SLICES = 4096

_CASE = re.compile(r"[0-9a-f]{32}")
_CHECK = re.compile(r"[0-9a-f]{16}")
_TASK = re.compile(r"[a-z0-9][a-z0-9-]{0,62}@[0-9A-Za-z.]{1,16}")


@dataclass(frozen=True)
class BundleLimits:
    """What :func:`~ppcmi.bundle.unpack` accepts: ``bytes`` of the whole bundle and ``slices`` in it."""

    bytes: int = 256 << 20
    slices: int = MAXIMUM_SLICES


USUAL_LIMITS = BundleLimits()


@dataclass(frozen=True)
class BundleHeader:
    """What a bundle says of itself.

    :param task: the task's identity, ``name@version``.
    :param codec: fingerprint of the codec that made the latents, 32 hex digits.
    :param nonce: 16 bytes, new for every bundle.
    :param link_check: key check value of the link layer for this nonce, 16 hex digits.
    :param inner_check: key check value that names the inner key, 16 hex digits, or None in the other modes.
    :param case: the case's pseudonym, 32 hex digits.
    :param slice_indices: place of each slice in its case.
    :param shapes: what is inside: by stream, channels, rows and columns of all scales that the profile gives it.
    :param in_reply_to: the request's nonce in hex, or None.
    :param model: number of the model that made a reply, or None.
    :param variant: 0 for the case as it is, 1, 2, ... for encodings augmented at export.
    :raises BundleError: if a field is not as said.
    """

    task: str
    codec: str
    profile: Profile
    mode: Mode
    quantization: Quantization
    nonce: bytes
    link_check: str
    inner_check: str | None
    case: str
    slice_indices: tuple[int, ...]
    shapes: Mapping[Stream, Shapes]
    in_reply_to: str | None = None
    model: int | None = None
    variant: int = 0

    def __post_init__(self) -> None:
        _require(_TASK.fullmatch(self.task), "task")
        _require(_CASE.fullmatch(self.codec), "codec")
        _require(self.mode in MODES, "mode")
        _require(len(self.nonce) == NONCE_BYTES, "nonce")
        _require(_CHECK.fullmatch(self.link_check), "link_check")
        _require(self.inner_check is None or _CHECK.fullmatch(self.inner_check), "inner_check")
        _require(_CASE.fullmatch(self.case), "case")
        _require(0 < len(self.slice_indices) <= MAXIMUM_SLICES, "slice_indices")
        _require(all(0 <= index < 1 << 20 for index in self.slice_indices), "slice_indices")
        _require(len(set(self.slice_indices)) == len(self.slice_indices), "slice_indices")
        _require(self.shapes, "shapes")
        for stream, shapes in self.shapes.items():
            _require(tuple(shapes) == self.profile.scales_of(stream), "shapes")
            for channels, rows, columns in shapes.values():
                _require(0 < channels <= 1024 and 0 < rows <= 128 and 0 < columns <= 128, "shapes")
        _require(self.in_reply_to is None or _CASE.fullmatch(self.in_reply_to), "in_reply_to")
        _require(self.model is None or 0 < self.model < 1 << 31, "model")
        _require(0 <= self.variant < 1 << 16, "variant")

    @property
    def streams(self) -> tuple[Stream, ...]:
        """What is inside."""
        return tuple(self.shapes)


def packed_size(header: BundleHeader) -> int:
    """Bytes of the bundle that :func:`~ppcmi.bundle.pack` makes for this header, without making it.

    safetensors writes its description without spaces, tensors by falling item size and then by name, and fills it up
    to a multiple of eight.
    """
    layout = {
        f"{stream}.{name}": found
        for stream, shapes in header.shapes.items()
        for name, found in tensor_layout(shapes, len(header.slice_indices), header.quantization).items()
    }
    document: dict[str, Any] = {"__metadata__": {METADATA_NAME: header_to_json(header)}}
    end = 0
    for name, (dtype, shape) in sorted(layout.items(), key=lambda item: (-ITEM_BYTES[item[1][0]], item[0])):
        start, end = end, end + ITEM_BYTES[dtype] * prod(shape)
        document[name] = {"dtype": dtype, "shape": shape, "data_offsets": (start, end)}
    described = len(json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + described + -described % 8 + end


def read_header(data: bytes, limits: BundleLimits = USUAL_LIMITS) -> BundleHeader:
    """The header alone, without looking at the latents.

    :raises BundleError: if the bundle is larger than the limits, or its header is not valid.
    """
    return read_description(data, limits)[0]


def read_description(data: bytes, limits: BundleLimits) -> tuple[BundleHeader, dict[str, dict[str, Any]]]:
    """The header, and safetensors' own description of each tensor by name, which is not checked here.

    :raises BundleError: as :func:`read_header`.
    """
    if len(data) > limits.bytes:
        raise BundleError("The bundle is larger than allowed; send fewer slices at a time.")
    length = int.from_bytes(data[:8], "little")
    if not 2 <= length <= min(MAXIMUM_HEADER_BYTES, len(data) - 8):
        raise BundleError("The bundle is cut off, or no bundle at all; ask its sender for it again.")
    described = _parse_object(data[8 : 8 + length])
    metadata = described.pop("__metadata__", None)
    if (
        not isinstance(metadata, dict)
        or metadata.keys() != {METADATA_NAME}
        or not isinstance(metadata[METADATA_NAME], str)
    ):
        raise BundleError("The bundle has no header, or more than this version knows.")
    if not all(isinstance(entry, dict) for entry in described.values()):
        raise BundleError("The bundle is damaged; ask its sender for it again.")
    header = _header_from_json(metadata[METADATA_NAME])
    if len(header.slice_indices) > limits.slices:
        raise BundleError("The bundle has more slices than allowed; send fewer at a time.")
    return header, described


def header_to_json(header: BundleHeader) -> str:
    """The metadata entry of a bundle."""
    document = {field.name: getattr(header, field.name) for field in fields(header)}
    return json.dumps({"format": FORMAT, **document, "nonce": header.nonce.hex()}, separators=(",", ":"))


def _header_from_json(text: str) -> BundleHeader:
    document = _parse_object(text)
    known = {"format", *(field.name for field in fields(BundleHeader))}
    if document.keys() != known or document["format"] != FORMAT:
        raise BundleError(f"The bundle's header is not of format {FORMAT}; this version cannot use it.")
    del document["format"]
    for name, kind in _KINDS.items():
        _require(isinstance(document[name], kind) and not isinstance(document[name], bool), name)
    _require(_CASE.fullmatch(document["nonce"]), "nonce")
    _require(all(is_whole(index) for index in document["slice_indices"]), "slice_indices")
    for shapes in document["shapes"].values():
        _require(isinstance(shapes, dict) and all(_is_shape(shape) for shape in shapes.values()), "shapes")
    try:
        return BundleHeader(
            **document
            | {
                "profile": Profile(document["profile"]),
                "quantization": Quantization(document["quantization"]),
                "nonce": bytes.fromhex(document["nonce"]),
                "slice_indices": tuple(document["slice_indices"]),
                "shapes": {
                    Stream(stream): {scale: tuple(shape) for scale, shape in shapes.items()}
                    for stream, shapes in document["shapes"].items()
                },
            }
        )
    except ValueError as error:
        raise BundleError("A field of the bundle's header has a value that this version does not know.") from error


_KINDS: Mapping[str, type | tuple[type, ...]] = {
    "task": str,
    "codec": str,
    "profile": str,
    "mode": str,
    "quantization": str,
    "nonce": str,
    "link_check": str,
    "inner_check": (str, type(None)),
    "case": str,
    "slice_indices": list,
    "shapes": dict,
    "in_reply_to": (str, type(None)),
    "model": (int, type(None)),
    "variant": int,
}


def _parse_object(text: str | bytes) -> dict[str, Any]:
    try:
        return parse_object(text)
    except ValueError as error:
        raise BundleError("The bundle's header is not valid JSON; ask its sender for it again.") from error


def _require(condition: object, field: str) -> None:
    if not condition:
        raise BundleError(f"The bundle's header has a wrong {field}; ask its sender for it again.")


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(is_whole(size) for size in value)

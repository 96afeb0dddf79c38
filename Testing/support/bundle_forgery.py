"""Bundles as somebody would make them who wants to harm: taken apart, altered, put together again, cut, mixed."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from typing import Any

METADATA = "__metadata__"
NASTY_NUMBERS = (0, -1, 1, 255, 256, 1 << 16, (1 << 31) - 1, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
NASTY_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1 << 31, 1 << 64, 10**30, 1.5, 1e308, "", "x", "../../etc/passwd", "a\x00b", "\ud800",
    "ä", [], [[]], {}, {"a": {"b": {}}}, [0] * 5000, "A" * 5000, "0" * 32, ["image", "image"], [1, 1],
    {"s4": [128, 4, 4]}, {"s4": [1 << 20, 1 << 20, 1 << 20], "b": [1, 1, 1]}, {"b": [256, 2, 2], "s4": [128, 4, 4]},
)  # fmt: skip


def take_apart(bundle: bytes) -> tuple[dict[str, Any], bytes]:
    """A bundle's description as JSON, and its tensors' bytes."""
    length = int.from_bytes(bundle[:8], "little")
    return json.loads(bundle[8 : 8 + length]), bundle[8 + length :]


def put_together(described: Any, tensors: bytes) -> bytes:
    """A bundle of any description."""
    head = json.dumps(described).encode("utf-8", "surrogatepass") if not isinstance(described, bytes) else described
    return struct.pack("<Q", len(head)) + head + tensors


def with_header(bundle: bytes, **changes: Any) -> bytes:
    """Other values in the header; what is ``...`` is left out."""
    described, tensors = take_apart(bundle)
    header = json.loads(described[METADATA]["ppcmi"]) | changes
    described[METADATA]["ppcmi"] = json.dumps({name: value for name, value in header.items() if value is not ...})
    return put_together(described, tensors)


def with_tensor(bundle: bytes, name: str, **changes: Any) -> bytes:
    """Other values in the description of one tensor."""
    described, tensors = take_apart(bundle)
    described[name] = described.get(name, {}) | changes
    return put_together(described, tensors)


def with_values(bundle: bytes, name: str, values: bytes) -> bytes:
    """Other bytes at the start of one tensor."""
    described, tensors = take_apart(bundle)
    start = described[name]["data_offsets"][0]
    return put_together(described, tensors[:start] + values + tensors[start + len(values) :])


def random_forgery(bundle: bytes, chance: random.Random) -> bytes:
    """The bundle, altered in one to three ways."""
    for _ in range(chance.randint(1, 3)):
        bundle = chance.choice(_WAYS)(bundle, chance)
    return bundle


def _flip_bytes(bundle: bytes, chance: random.Random) -> bytes:
    forged = bytearray(bundle)
    for _ in range(chance.choice((1, 1, 2, 10, 200))):
        if forged:
            forged[chance.randrange(len(forged))] = chance.randrange(256)
    return bytes(forged)


def _flip_in_head(bundle: bytes, chance: random.Random) -> bytes:
    forged = bytearray(bundle)
    end = min(len(forged), 8 + int.from_bytes(bundle[:8], "little"))
    for _ in range(chance.choice((1, 2, 5))):
        if end:
            forged[chance.randrange(end)] = chance.choice(b'\x00\xff"{}[],:0123456789-eE.x ')
    return bytes(forged)


def _cut(bundle: bytes, chance: random.Random) -> bytes:
    return bundle[: chance.randrange(len(bundle) + 1)]


def _lengthen(bundle: bytes, chance: random.Random) -> bytes:
    return bundle + chance.randbytes(chance.choice((1, 8, 1000)))


def _other_length(bundle: bytes, chance: random.Random) -> bytes:
    return struct.pack("<Q", chance.choice(NASTY_NUMBERS) & ((1 << 64) - 1)) + bundle[8:]


def _insert(bundle: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(bundle) + 1)
    return (
        bundle[:place]
        + chance.choice((b"\x00", b"{", b'"', b"\xed\xa0\x80", b"[" * 2000, b"\x80\x04K\x01."))
        + bundle[place:]
    )


def _in_structure(change: Callable[[dict[str, Any], random.Random], None]) -> Callable[[bytes, random.Random], bytes]:
    def forge(bundle: bytes, chance: random.Random) -> bytes:
        try:
            described, tensors = take_apart(bundle)
            change(described, chance)
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            IndexError,
            RecursionError,
        ):  # it is no bundle any longer
            return _flip_bytes(bundle, chance)
        return put_together(described, tensors)

    return forge


def _header_field(described: dict[str, Any], chance: random.Random) -> None:
    header = json.loads(described[METADATA]["ppcmi"])
    name = chance.choice([*header, "extra"])
    if chance.random() < 0.2:
        header.pop(name, None)
    else:
        header[name] = chance.choice(NASTY_VALUES)
    described[METADATA]["ppcmi"] = json.dumps(header)


def _tensor_field(described: dict[str, Any], chance: random.Random) -> None:
    name = chance.choice([one for one in described if one != METADATA])
    field = chance.choice(("dtype", "shape", "data_offsets", "extra"))
    values: tuple[Any, ...] = (
        "F64", "I8", "F16", "BF16", "U8", "BOOL", [1 << 40, 1 << 40], [0], [0, 0], [], [-1, 5], [1 << 63, 2],
        [0, 1 << 62], [10, 5], [0, 0], [-8, 8], *NASTY_VALUES,
    )  # fmt: skip
    described[name][field] = chance.choice(values)


def _tensor_names(described: dict[str, Any], chance: random.Random) -> None:
    name = chance.choice([one for one in described if one != METADATA])
    match chance.randrange(3):
        case 0:
            described.pop(name)
        case 1:
            described[chance.choice(("mask.s4", "image.s3", "../x", "", "image.s4.scale"))] = described[name]
        case _:
            for number in range(chance.choice((1, 50, 3000))):
                described[f"t{number}"] = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}


_WAYS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flip_bytes, _flip_in_head, _cut, _lengthen, _other_length, _insert,
    _in_structure(_header_field), _in_structure(_header_field), _in_structure(_tensor_field),
    _in_structure(_tensor_field), _in_structure(_tensor_names),
)  # fmt: skip

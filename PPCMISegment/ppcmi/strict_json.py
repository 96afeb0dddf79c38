"""JSON from outside: an object, with no name twice and no numbers that JSON does not have."""

from __future__ import annotations

import json
import re
from typing import Any

DEEPEST = 64
"""Levels of objects and arrays within each other; readers call themselves for each, and must not run out of stack."""

_STRING_OR_BRACKET = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{}]', re.DOTALL)


def parse_object(text: str | bytes) -> dict[str, Any]:
    """The object that ``text`` holds.

    :param text: UTF-8, if it is bytes.
    :raises ValueError: if it is not valid JSON, not an object, nested too deep, or has a name twice (readers differ in
        which of the two they believe).
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    _require_shallow(text)
    document = json.loads(text, object_pairs_hook=_without_repetition, parse_constant=_refuse)
    match document:
        case dict():
            return document
        case _:
            raise ValueError("not a JSON object")


def is_whole(value: Any) -> bool:
    """Whether a JSON value is a whole number; ``true`` and ``1.0`` are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def _require_shallow(text: str) -> None:
    depth = 0
    for found in _STRING_OR_BRACKET.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found[0], 0)
        if depth > DEEPEST:
            raise ValueError("nested too deep")


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a name occurs twice")
    return document


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON number")

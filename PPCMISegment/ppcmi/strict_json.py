"""JSON from outside: an object, with no name twice and no numbers that JSON does not have."""

from __future__ import annotations

import json
from typing import Any


def parse_object(text: str | bytes) -> dict[str, Any]:
    """The object that ``text`` holds.

    :raises ValueError: if it is not valid JSON, not an object, nested too deep, or has a name twice (readers differ in
        which of the two they believe).
    """
    try:
        document = json.loads(text, object_pairs_hook=_without_repetition, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    match document:
        case dict():
            return document
        case _:
            raise ValueError("not a JSON object")


def is_whole(value: Any) -> bool:
    """Whether a JSON value is a whole number; ``true`` and ``1.0`` are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a name occurs twice")
    return document


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON number")

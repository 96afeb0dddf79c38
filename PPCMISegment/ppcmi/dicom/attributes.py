"""Attributes of a data set by keyword, quickly: a search of a folder asks every file for many that it does not have.

The plain kinds of values are converted here, at a fraction of what pydicom's general way costs; the rest by pydicom.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import pydicom
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag

ESCAPE = b"\x1b"
"""Begins a change of the character set (ISO 2022)."""


class Attributes:
    """Answers as the data set does, each attribute converted once, and an absent one without asking it.

    :param keywords: of the tags that were read.
    """

    def __init__(self, dataset: pydicom.Dataset, keywords: Mapping[BaseTag, str]) -> None:
        self._dataset = dataset
        self._tags = {keywords[tag]: tag for tag in dataset.keys() & keywords.keys()}
        self._values: dict[str, Any] = {}
        self.file_meta = dataset.file_meta

    def __contains__(self, keyword: str) -> bool:
        return keyword in self._tags

    def get(self, keyword: str, default: Any = None) -> Any:
        """The value, or the default if there is no such attribute.

        :raises ValueError: if it is no value of its kind.
        """
        if keyword not in self._tags:
            return default
        if keyword not in self._values:
            self._values[keyword] = self._value(self._tags[keyword])
        return self._values[keyword]

    def __getattr__(self, keyword: str) -> Any:
        if keyword.startswith("_") or keyword not in self._tags:
            raise AttributeError(keyword)
        return self.get(keyword)

    def _value(self, tag: BaseTag) -> Any:
        raw = self._dataset.get_item(tag)
        if isinstance(raw, RawDataElement) and raw.value is not None:
            kind = raw.VR or _kind_of(tag)
            if kind == "US" and len(raw.value) == 2:
                return int.from_bytes(raw.value, "little" if raw.is_little_endian else "big")
            if kind in _PLAIN and raw.value.isascii() and ESCAPE not in raw.value:
                return _PLAIN[kind](raw.value)
        return self._dataset[tag].value


@lru_cache
def _kind_of(tag: BaseTag) -> str:
    """An attribute's value representation where the file does not say it (implicit VR)."""
    return dictionary_VR(tag)


def _one_or_several(value: bytes, convert: Callable[[str], Any]) -> Any:
    """Values of text, which has a space or a zero byte at its end where its length would be odd (PS3.5 section 6.2)."""
    text = value.decode("ascii").rstrip(" \0")
    if "\\" in text:
        return [convert(part) for part in text.split("\\")]
    return convert(text) if text else ""


def _texts(value: bytes) -> Any:
    return _one_or_several(value, str.strip)


def _decimals(value: bytes) -> Any:
    return _one_or_several(value, float)


def _integers(value: bytes) -> Any:
    return _one_or_several(value, _integer)


def _integer(text: str) -> int:
    number = float(text)
    if not number.is_integer():
        raise ValueError("no whole number")
    return int(number)


_PLAIN: Mapping[str, Callable[[bytes], Any]] = {
    "CS": _texts, "UI": _texts, "SH": _texts, "LO": _texts, "DA": _texts, "TM": _texts,
    "DS": _decimals, "IS": _integers,
}  # fmt: skip

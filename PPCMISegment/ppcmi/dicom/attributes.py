"""Attributes of a data set by keyword, quickly: a search of a folder asks every file for many that it does not have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pydicom
from pydicom.tag import BaseTag


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
        """The value, or the default if there is no such attribute."""
        if keyword not in self._tags:
            return default
        if keyword not in self._values:
            self._values[keyword] = self._dataset[self._tags[keyword]].value
        return self._values[keyword]

    def __getattr__(self, keyword: str) -> Any:
        if keyword.startswith("_") or keyword not in self._tags:
            raise AttributeError(keyword)
        return self.get(keyword)

"""The host's `SampleData`: modules register their samples, and a sample with a downloader of its own can be had."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import slicer


@dataclass
class SampleDataSource:
    """One sample; the lists have an entry a file."""

    sampleName: str | None = None
    uris: list[str] = field(default_factory=list)
    fileNames: list[str] = field(default_factory=list)
    nodeNames: list[str] = field(default_factory=list)
    thumbnailFileName: str | None = None
    customDownloader: Callable[["SampleDataSource"], Any] | None = None
    loadFileTypes: Any = None
    loadFiles: Any = None
    loadFileProperties: dict[str, Any] = field(default_factory=dict)
    checksums: Any = None

    def __post_init__(self) -> None:
        if not isinstance(self.uris, list | tuple) or not len(self.uris) == len(self.fileNames) == len(self.nodeNames):
            raise ValueError("All fields of sample data source must have the same length")


class SampleDataLogic:
    """Registers samples and loads those that bring a downloader; the host downloads nothing."""

    @staticmethod
    def registerCustomSampleDataSource(category: str = "Custom", **description: Any) -> None:
        """Add a sample to a category."""
        if not hasattr(slicer.modules, "sampleDataSources"):
            slicer.modules.sampleDataSources = {}
        source = SampleDataSource(**description)
        of_category = slicer.modules.sampleDataSources.setdefault(category, [])
        if all(known.sampleName != source.sampleName for known in of_category):
            of_category.append(source)

    def downloadSample(self, name: str) -> Any:
        """Run the downloader of a sample."""
        sources = [s for of_category in slicer.modules.sampleDataSources.values() for s in of_category]
        source = next(source for source in sources if source.sampleName == name)
        if source.customDownloader is None:
            raise RuntimeError("The test host downloads nothing.")
        return source.customDownloader(source)

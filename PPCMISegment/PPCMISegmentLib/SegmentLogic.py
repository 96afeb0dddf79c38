"""Segmenting volumes of the scene: from a node to a node, as steps for a panel or at once for a script."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import slicer
from slicer.i18n import tr as _

from ppcmi.errors import ConnectionFailedError, DeviceMemoryError, PpcmiError
from PPCMISegmentLib import SegmentationNodes, VolumeNodes
from PPCMISegmentLib.Steps import inBackground, logUnexpected, mapped

if TYPE_CHECKING:
    from ppcmi.pipeline import PrivateLink, Progress, Segmentation
    from ppcmi.volume import Volume


NETWORK_THREADS = 2


class SceneChangedError(PpcmiError):
    """What was being worked on is not in the scene any more, or is another."""


@dataclass(frozen=True)
class Choices:
    """What a user may choose about a run.

    :param device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
    :param quantization: bits a value on the way: ``i4``, ``i8``, ``f16`` or ``f32``.
    :param replaceEarlier: put the result into the segmentation of an earlier run; a backup of that stays.
    :param withConfidence: add a volume of the chosen labels' probabilities.
    """

    taskName: str
    device: str = "auto"
    quantization: str = "i4"
    replaceEarlier: bool = False
    withConfidence: bool = False


@dataclass(frozen=True, eq=False)
class CaseResult:
    """What came of one volume.

    :param volumesMl: milliliters of every label of the task by its name; 0 where it was not found.
    """

    segmentationNode: slicer.vtkMRMLSegmentationNode
    confidenceNode: slicer.vtkMRMLScalarVolumeNode | None
    volumesMl: dict[str, float]
    progress: Progress

    @property
    def foundNothing(self) -> bool:
        """Whether not a voxel is of a structure."""
        from ppcmi.confidence import found_nothing

        return found_nothing(self.volumesMl)


@dataclass(frozen=True, eq=False)
class QueueEvent:
    """How far a queue is; ``volumeNode`` is None while the link to the server is opened."""

    volumeNode: slicer.vtkMRMLScalarVolumeNode | None
    state: Literal["connecting", "working", "done", "failed"]
    progress: Progress | None = None
    result: CaseResult | None = None
    error: Exception | None = None


class SegmentLogic:
    """The site's end of private segmentation inside Slicer.

    :param siteFolder: folder of the site profile.

    Example::

        segmentationNode = SegmentLogic(siteFolder).segment(volumeNode, Choices("hippocampus-mr")).segmentationNode
    """

    def __init__(self, siteFolder: Path) -> None:
        self.siteFolder = siteFolder
        # One thread for all computing: what a graphics library keeps is kept for a thread.
        self.worker = ThreadPoolExecutor(1, thread_name_prefix="ppcmi-compute")
        # Threads for questions to the server, on which computing must not wait, nor one question on another.
        self.network = ThreadPoolExecutor(NETWORK_THREADS, thread_name_prefix="ppcmi-network")

    def close(self) -> None:
        """Let go of the threads once their present work is done."""
        for executor in (self.worker, self.network):
            executor.shutdown(wait=False, cancel_futures=True)

    def segment(
        self,
        volumeNode: slicer.vtkMRMLScalarVolumeNode,
        choices: Choices,
        onProgress: Callable[[Progress], None] = lambda progress: None,
    ) -> CaseResult:
        """Segment a volume and wait for it; for scripts.

        :raises PpcmiError: one sentence that says what is wrong and what to do.
        """
        from ppcmi.pipeline import run

        link = run(self.openLinkSteps(choices))
        try:
            return run(self.segmentSteps(volumeNode, link, choices), onProgress)
        finally:
            link.mapper.close()

    def openLinkSteps(self, choices: Choices) -> Generator[None, None, PrivateLink]:
        """A link to the task's active model; network, codec and PyTorch itself are loaded in the thread."""

        def openLink() -> PrivateLink:
            from ppcmi.device import choose_device
            from ppcmi.quantization import Quantization
            from ppcmi.session import LinkOptions, open_link
            from ppcmi.site import SiteProfile

            site = SiteProfile.open(self.siteFolder)
            options = LinkOptions(quantization=Quantization(choices.quantization), device=choose_device(choices.device))
            return open_link(site, site.task(choices.taskName), site.client(), options)

        return (yield from inBackground(self.worker, openLink))

    def segmentSteps(
        self, volumeNode: slicer.vtkMRMLScalarVolumeNode, link: PrivateLink, choices: Choices
    ) -> Generator[Progress, None, CaseResult]:
        """Segment a volume; the scene changes only at the end.

        :raises SceneChangedError: if the volume was removed or changed meanwhile.
        """
        from ppcmi.pipeline import segment

        volume = VolumeNodes.volumeFromNode(volumeNode, link.task)
        steps = segment(volume, link, with_probabilities=choices.withConfidence, worker=self.worker)
        result = yield from _whileUnchanged(volumeNode, volume, steps)
        return self._write(result, volumeNode, link, choices)

    def queueSteps(
        self,
        volumeNodes: Sequence[slicer.vtkMRMLScalarVolumeNode],
        choices: Choices,
        mayUseCpu: Callable[[], bool] = lambda: False,
    ) -> Generator[QueueEvent, None, None]:
        """Segment one volume after the other; a failure goes on to the next.

        :param mayUseCpu: asked when the graphics card's memory is too small even for a single slice.
        :raises ConnectionFailedError: if the server cannot be reached, as the others would fail as well.
        """
        link = yield from mapped(self.openLinkSteps(choices), lambda _none: QueueEvent(None, "connecting"))
        try:
            for index, volumeNode in enumerate(volumeNodes):
                yield QueueEvent(volumeNode, "working")
                try:
                    result = yield from mapped(
                        self.segmentSteps(volumeNode, link, choices), partial(QueueEvent, volumeNode, "working")
                    )
                except ConnectionFailedError as error:
                    yield QueueEvent(volumeNode, "failed", error=error)
                    raise
                except Exception as error:  # one volume's failure is shown in its row, and the next is tried
                    if isinstance(error, DeviceMemoryError) and choices.device != "cpu" and mayUseCpu():
                        yield from self.queueSteps(volumeNodes[index:], replace(choices, device="cpu"))
                        return
                    logUnexpected(error)
                    yield QueueEvent(volumeNode, "failed", error=error)
                else:
                    yield QueueEvent(volumeNode, "done", result.progress, result)
        finally:
            link.mapper.close()

    def _write(
        self, result: Segmentation, volumeNode: slicer.vtkMRMLScalarVolumeNode, link: PrivateLink, choices: Choices
    ) -> CaseResult:
        from ppcmi.confidence import confidence_of, volumes_ml

        task, labels = link.task, result.labels
        name = f"{volumeNode.GetName()} {task.name}"
        node = SegmentationNodes.earlierResult(volumeNode, task) if choices.replaceEarlier else None
        if node is None:
            node = SegmentationNodes.addSegmentation(labels, task, volumeNode, result.provenance, name)
        else:
            SegmentationNodes.replaceSegments(node, labels, task, volumeNode, result.provenance)
        confidenceNode = None
        if result.probabilities is not None:
            confidence = confidence_of(result.probabilities)
            confidenceNode = SegmentationNodes.addConfidence(
                confidence, volumeNode, _("{name} confidence").format(name=name)
            )
        return CaseResult(node, confidenceNode, volumes_ml(labels, task), result.progress)


def _whileUnchanged(
    volumeNode: slicer.vtkMRMLScalarVolumeNode, volume: Volume, steps: Generator[Progress, None, Segmentation]
) -> Generator[Progress, None, Segmentation]:
    """The steps, as long as the node is in the scene and its image and place are what was read."""
    image, changed = volumeNode.GetImageData(), volumeNode.GetImageData().GetMTime()

    def require(progress: Progress) -> Progress:
        if not slicer.mrmlScene.IsNodePresent(volumeNode):
            raise SceneChangedError(_("The volume was removed while it was being segmented; nothing was written."))
        if (
            volumeNode.GetImageData() is not image
            or image.GetMTime() != changed
            or not VolumeNodes.geometryOf(volumeNode).matches(volume.geometry)
        ):
            raise SceneChangedError(
                _("The volume was changed while it was being segmented; nothing was written. Segment it again.")
            )
        return progress

    return mapped(steps, require)

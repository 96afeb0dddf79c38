"""The module's test inside Slicer: a phantom, an untrained codec and a server within the process.

It needs no network, no site and no trained model: what it checks is the way from a volume node to a segmentation node.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import slicer

from PPCMISegmentLib import SegmentationNodes, VolumeNodes
from PPCMISegmentLib.Phantoms import SAMPLES, addPhantom
from PPCMISegmentLib.SegmentLogic import Choices, SceneChangedError, SegmentLogic

if TYPE_CHECKING:
    from ppcmi.channel import Channel
    from ppcmi.pipeline import PrivateLink
    from ppcmi.task import Task

LINK_KEY, INNER_KEY = bytes(range(32)), bytes(range(32, 64))


def runSelfTest(say: Callable[[str], None]) -> None:
    """Raises AssertionError where the module does not do what it should."""
    if importlib.util.find_spec("torch") is None:
        say("PyTorch is not installed here, so only the module's opening was tested.")
        return
    say("A phantom is segmented through a server within this process.")
    _testAVolumeBecomesASegmentationOnItsOwnGrid()
    say("A volume that is removed meanwhile.")
    _testAVolumeThatIsRemovedLeavesNothing()
    say("Passed.")


def _testAVolumeBecomesASegmentationOnItsOwnGrid() -> None:
    from ppcmi.pipeline import run

    volumeNode, logic = addPhantom(SAMPLES[1]), SegmentLogic(Path())
    link = linkWithinProcess()
    try:
        result = run(logic.segmentSteps(volumeNode, link, Choices(link.task.name, withConfidence=True)))
    finally:
        logic.close()
    node = result.segmentationNode
    found = {name for name, milliliters in result.volumesMl.items() if milliliters > 0}
    names = {
        node.GetSegmentation().GetNthSegment(i).GetName() for i in range(node.GetSegmentation().GetNumberOfSegments())
    }
    assert names == found, (names, found)
    assert SegmentationNodes.earlierResult(volumeNode, link.task) is node
    for id_ in node.GetSegmentation().GetSegmentIDs():
        assert slicer.util.arrayFromSegmentBinaryLabelmap(node, id_, volumeNode).shape == VolumeNodes.shapeOf(
            volumeNode
        )
        assert node.GetSegmentation().GetSegment(id_).GetTerminology().count("~") == 6
    assert VolumeNodes.geometryOf(result.confidenceNode).matches(VolumeNodes.geometryOf(volumeNode))


def _testAVolumeThatIsRemovedLeavesNothing() -> None:
    from ppcmi.pipeline import run

    volumeNode, logic = addPhantom(SAMPLES[0]), SegmentLogic(Path())
    link = linkWithinProcess()
    before = slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")
    steps = logic.segmentSteps(volumeNode, link, Choices(link.task.name))
    next(steps)
    slicer.mrmlScene.RemoveNode(volumeNode)
    try:
        run(steps)
    except SceneChangedError:
        pass
    else:
        raise AssertionError("A volume that was removed was segmented.")
    finally:
        logic.close()
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == before


class ServerWithinProcess:
    """Speaks the server's side of the protocol for bundles; its mask latents are half the image latents."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def map_bundle(self, task: str, bundle: bytes, model: int) -> bytes:
        """Answer a bundle."""
        from ppcmi.scales import Stream

        header, streams = self._channel.open(bundle)
        halved = streams[Stream.IMAGE].map(lambda _scale, values: values / 2)
        return self._channel.seal_reply(halved, header, model=model)

    def abort(self) -> None:
        """Nothing is under way between two calls."""

    def close(self) -> None:
        """There is no connection."""


def linkWithinProcess() -> PrivateLink:
    """A link for the task ``phantom`` at a small slice size, whose server is within the process."""
    import torch

    from ppcmi.channel import open_channel
    from ppcmi.codec.codec import Codec
    from ppcmi.klt.inner import InnerLayer
    from ppcmi.pipeline import PrivateLink
    from ppcmi.protection import Protection
    from ppcmi.scales import Profile

    task = _smallTask()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        codec = Codec(task, "autoencoder")
    protection = Protection(
        open_channel(LINK_KEY, task.identity, "two-layer"),
        InnerLayer(INNER_KEY, task.identity),
        codec.fingerprint,
        Profile.COARSE,
    )
    server = ServerWithinProcess(open_channel(LINK_KEY, task.identity, "two-layer"))
    return PrivateLink(task, codec, None, protection, server, model=1, slices_per_bundle=8)


def _smallTask() -> Task:
    from ppcmi.task import Code, Label, Percentiles, Slicing, Task

    category = Code("SCT", "123037004", "Anatomical Structure")
    labels = (
        Label(1, "Organ", (221, 130, 101), category, Code("SCT", "10200004", "Liver")),
        Label(2, "Vessel", (0, 151, 206), category, Code("SCT", "32764006", "Portal vein")),
    )
    return Task("phantom", "1", "Phantom", "MR", labels, Slicing("axial", (32, 32)), Percentiles(1, 99))

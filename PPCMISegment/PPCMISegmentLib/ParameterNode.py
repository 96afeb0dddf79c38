"""What belongs in a saved scene: which task and which outputs were chosen. No address, key, path or token."""

from __future__ import annotations

from slicer.parameterNodeWrapper import parameterNodeWrapper


@parameterNodeWrapper
class PPCMISegmentParameterNode:
    """Choices of the panel *Segment privately*.

    :param taskName: name of the task.
    :param replaceEarlier: put results into the segmentation of an earlier run instead of a new one.
    :param withConfidence: add a volume of the chosen labels' probabilities.
    :param show3D: make surfaces of the results.
    """

    taskName: str = ""
    replaceEarlier: bool = False
    withConfidence: bool = False
    show3D: bool = True

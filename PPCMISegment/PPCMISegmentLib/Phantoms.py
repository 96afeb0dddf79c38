"""Phantoms for the module Sample Data: made on this workstation, so that anyone can try the task ``phantom``."""

from __future__ import annotations

from dataclasses import dataclass

import slicer
from slicer.i18n import tr as _


@dataclass(frozen=True)
class Sample:
    """One phantom.

    :param scanner: which of the three made-up scanners images it.
    :param seed: of its anatomy.
    """

    name: str
    scanner: str
    seed: int


SAMPLES = (
    Sample("PPCMI phantom A (T1-like)", "A", 101),
    Sample("PPCMI phantom B (fat-suppressed)", "B", 102),
    Sample("PPCMI phantom C (coarse, speckle)", "C", 103),
)


def addPhantom(sample: Sample) -> slicer.vtkMRMLScalarVolumeNode:
    """Make a phantom and add it to the scene."""
    from ppcmi.phantoms import SCANNERS, make_phantom

    slicer.util.showStatusMessage(_("Making a phantom..."), 2000)
    image, _labels = make_phantom(SCANNERS[sample.scanner], sample.seed)
    return slicer.util.addVolumeFromArray(image.voxels, image.geometry.ijk_to_ras, sample.name)

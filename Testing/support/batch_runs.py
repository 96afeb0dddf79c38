"""Small scans, and a decoder that finds something in them: what tests of batches segment."""

import numpy as np
import SimpleITK
import torch

from ppcmi.batch import segment_files
from ppcmi.batch_images import BatchImage
from ppcmi.codec.refinement import SiteDecoder
from ppcmi.sources import ImageSource


class Thresholds(SiteDecoder):
    """A decoder that finds the organ where the slice is bright, and the vessel where it is brightest."""

    def decode(self, latents, slices, profile):
        bright = slices[:, 0]
        shares = [bright < 0.5, (bright >= 0.5) & (bright < 0.9), bright >= 0.9, torch.zeros_like(bright)]
        return torch.stack([share.float() for share in shares], dim=1)


def write_scan(path, seed):
    write_voxels(path, np.random.default_rng(seed).integers(0, 300, (4, 20, 22)))


def write_dark_scan(path):
    """A scan in which :class:`Thresholds` finds nothing."""
    write_voxels(path, np.zeros((4, 20, 22)))


def write_voxels(path, voxels):
    image = SimpleITK.GetImageFromArray(voxels.astype(np.float32))
    image.SetSpacing((1.0, 2.0, 3.0))
    SimpleITK.WriteImage(image, str(path))


def segmented(paths, link, output, **options):
    """Outcomes by name, in order."""
    items = segment_files([BatchImage(ImageSource(path)) for path in paths], link, output, **options)
    return {item.name: item.outcome for item in items if item.outcome is not None}

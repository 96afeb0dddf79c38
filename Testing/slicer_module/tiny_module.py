"""The module that tests of the host load, and a volume for it."""

from pathlib import Path

import numpy as np

TINY = Path(__file__).parent / "fixtures" / "Tiny.py"


def add_volume(name: str, value: int = 7):
    """A small volume of one value in the scene."""
    import slicer.util

    return slicer.util.addVolumeFromArray(np.full((3, 4, 5), value, np.int16), name=name)

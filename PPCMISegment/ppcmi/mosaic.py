"""Latents of one slice as a picture, all channels side by side, a block a scale; and pictures in a row."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, log2, sqrt

import numpy as np
from numpy.typing import NDArray

from ppcmi.latents import Latents

DEVIATIONS = 3.0
"""So many standard deviations lie between middle gray and black or white."""

GAP_PIXELS, GAP_GRAY = 2, 0.07

Gray = NDArray[np.float32]
"""A picture ``(h, w)`` from 0, black, to 1, white."""


def mosaic(latents: Latents) -> Gray:
    """The first slice's channels as tiles, finest scale on top; coarser scales are enlarged to the same width."""
    blocks = [_tiles(values[0].float().cpu().numpy()) for _, values in latents.items()]
    width = max(block.shape[1] for block in blocks)
    grown = [np.kron(block, np.ones((width // block.shape[1],) * 2, np.float32)) for block in blocks]
    gap = np.full((GAP_PIXELS, width), GAP_GRAY, np.float32)
    return np.concatenate([part for block in grown for part in (block, gap)][:-1])


def side_by_side(pictures: Sequence[Gray], height: int) -> NDArray[np.uint8]:
    """Gray pictures ``(h, w)`` in a row, 0 to 255, each enlarged or reduced to ``height`` without smoothing."""
    gap = np.full((height, 4 * GAP_PIXELS), round(255 * GAP_GRAY), np.uint8)
    scaled = [np.rint(np.clip(_resized(picture, height), 0, 1) * 255).astype(np.uint8) for picture in pictures]
    return np.concatenate([part for picture in scaled for part in (picture, gap)][:-1], axis=1)


def _resized(picture: Gray, height: int) -> Gray:
    width = max(1, round(picture.shape[1] * height / picture.shape[0]))
    rows = np.arange(height) * picture.shape[0] // height
    columns = np.arange(width) * picture.shape[1] // width
    resized: Gray = picture[rows[:, None], columns]
    return resized


def _tiles(values: Gray) -> Gray:
    """Channels ``(c, h, w)`` in rows of a power of two."""
    channels, height, width = values.shape
    columns = 2 ** ceil(log2(sqrt(channels)))
    scaled = np.clip(0.5 + values / (values.std() + 1e-9) / (2 * DEVIATIONS), 0, 1).astype(np.float32)
    empty = np.zeros((-channels % columns, height, width), np.float32)
    grid = np.concatenate([scaled, empty]).reshape(-1, columns, height, width)
    return np.ascontiguousarray(grid.transpose(0, 2, 1, 3).reshape(-1, columns * width))

"""Pictures of the demo: overlays of the masks on held-out slices, and what of a slice left the site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ppcmi.latents import Latents
from ppcmi.mosaic import mosaic
from ppcmi.overlay import Picture, fit, outlined
from ppcmi.slicing import head_up
from ppcmi.task import Task

PANEL = 192
CAPTION = 22
COLUMNS = 4
INK, PAPER = (230, 230, 230), (18, 20, 24)


@dataclass(frozen=True)
class Row:
    """A caption and labels ``(n, h, w)`` whose outlines are drawn on the slices."""

    caption: str
    labels: NDArray[np.uint8]


def overlay(slices: NDArray[np.float32], truth: NDArray[np.uint8], rows: Sequence[Row], task: Task) -> Image.Image:
    """Some slices ``(n, h, w)`` through the structures, a row of outlines each."""
    chosen = slices_to_show(truth)
    width = PANEL * len(chosen)
    sheet = Image.new("RGB", (width, (PANEL + CAPTION) * len(rows)), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    for line, row in enumerate(rows):
        top = line * (PANEL + CAPTION)
        draw.text((6, top + 3), row.caption, fill=INK, font=font)
        for column, index in enumerate(chosen):
            panel = _panel(slices[index], row.labels[index], task)
            sheet.paste(Image.fromarray(panel), (column * PANEL, top + CAPTION))
    return sheet


def slices_to_show(truth: NDArray[np.uint8]) -> list[int]:
    """Up to four slices spread over those that hold a structure."""
    inside = np.flatnonzero(truth.reshape(len(truth), -1).any(axis=1))
    if not len(inside):
        inside = np.arange(len(truth))
    places = np.linspace(0.15, 0.85, min(COLUMNS, len(inside))) if len(inside) > 1 else np.array([0.5])
    return sorted({int(inside[round(place * (len(inside) - 1))]) for place in places})


def what_left(image: NDArray[np.float32], rebuilt: NDArray[np.float32], protected: Latents) -> Image.Image:
    """A slice ``(h, w)``, what the codec rebuilds from its plain latents, and the latents of one slice as they left."""
    side = 2 * PANEL
    panels = [
        ("The slice: stays", _grey(image)),
        ("With all keys and the codec", _grey(rebuilt)),
        ("What left the site", _grey(mosaic(protected))),
    ]
    pictures = [Image.fromarray(pixels) for _, pixels in panels]
    sizes = [fit(picture.size, side) for picture in pictures]
    gap = 12
    width = sum(size[0] for size in sizes) + gap * (len(sizes) - 1)
    sheet = Image.new("RGB", (width, side + CAPTION + 6), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=18)
    left = 0
    for (caption, _), picture, size in zip(panels, pictures, sizes, strict=True):
        draw.text((left + 6, 2), caption, fill=INK, font=font)
        sheet.paste(picture.resize(size, Image.Resampling.NEAREST).convert("RGB"), (left, CAPTION + 6))
        left += size[0] + gap
    return sheet


def save(picture: Image.Image, path: Path) -> None:
    """Write a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, optimize=True)


def _panel(image: NDArray[np.float32], labels: NDArray[np.uint8], task: Task) -> Picture:
    height, width = fit(image.shape, PANEL)
    framed = np.full((PANEL, PANEL, 3), PAPER, np.uint8)
    top, left = (PANEL - height) // 2, (PANEL - width) // 2
    seen = (head_up(image, task.slicing), head_up(labels, task.slicing))
    framed[top : top + height, left : left + width] = outlined(*seen, task, (height, width))
    return framed


def _grey(image: NDArray[np.float32]) -> Picture:
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)

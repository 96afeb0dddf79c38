"""Resample one axis between a volume's pixels and a slice's frame of fixed size, about their common center.

With ``step`` volume pixels a frame pixel, frame pixel ``f`` lies at volume coordinate ``offset + step * f``. Both ways
interpolation is linear; where pixels grow, the linear interpolant is averaged over ``sqrt(step^2 - 1)`` pixels, which
keeps straight ramps as they are and lets nothing alias. Without resampling (``step`` 1) values pass through exactly;
the axis is padded or cropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

PASS_THROUGH = 1e-3
"""Relative difference of spacings below which nothing is resampled."""

TARGETS_IN_A_BAND = 16

STEP_DIGITS = 5
"""Decimals of a step that count: an error of less than a hundredth of a pixel at the end of a thousand."""

EDGE = 1e-6
"""Slack, in pixels, at the borders of pixels."""


@dataclass(frozen=True)
class AxisResampling:
    """One axis between ``source`` pixels of the volume and ``frame`` pixels of the slice.

    :param step: volume pixels a frame pixel; exactly 1 where nothing is resampled.
    """

    source: int
    frame: int
    step: float

    @classmethod
    def between(cls, source: int, frame: int, step: float) -> AxisResampling:
        """The resampling, which is none if ``step`` is 1 but for rounding.

        File formats and programs round spacings differently; the same image gives the same slices all the same.
        """
        return cls(source, frame, 1.0 if abs(step - 1.0) < PASS_THROUGH else round(step, STEP_DIGITS))

    @property
    def exact(self) -> bool:
        """Whether values pass through without interpolation."""
        return self.step == 1.0

    @property
    def offset(self) -> float:
        """Volume coordinate of frame pixel 0; a whole number where values pass through."""
        if self.exact:
            return float((self.source - self.frame) // 2)
        return (self.source - 1) / 2 - self.step * (self.frame - 1) / 2

    @property
    def covered(self) -> NDArray[np.bool_]:
        """``(source,)``: which of the volume's pixels have their center within the frame."""
        return _within((np.arange(self.source) - self.offset) / self.step, self.frame)

    def to_frame(self, values: NDArray[Any], axis: int) -> NDArray[Any]:
        """Values with ``axis`` of ``source`` pixels onto the frame; 0 beyond the volume's field of view."""
        if self.exact:
            return _place(values, axis, self.frame, -int(self.offset))
        return self._to_frame.along(axis, values)

    def to_source(self, values: NDArray[Any], axis: int) -> NDArray[Any]:
        """Values with ``axis`` of ``frame`` pixels onto the volume's pixels; 0 outside the frame."""
        if self.exact:
            return _place(values, axis, self.source, int(self.offset))
        return self._to_source.along(axis, values)

    @cached_property
    def _to_frame(self) -> _Weights:
        return _Weights(_weights(self.frame, self.source, self.step, self.offset))

    @cached_property
    def _to_source(self) -> _Weights:
        return _Weights(_weights(self.source, self.frame, 1 / self.step, -self.offset / self.step))


class _Weights:
    """Weights ``(targets, sources)``, nearly all of them zero, and their product with pictures."""

    def __init__(self, weights: NDArray[np.float32]) -> None:
        self._targets = len(weights)
        self._sparse = csr_array(weights)
        self._bands = list(_bands(weights))

    def along(self, axis: int, values: NDArray[Any]) -> NDArray[Any]:
        """The product along one of the last two axes."""
        if axis not in (values.ndim - 2, values.ndim - 1):
            raise ValueError("only rows and columns, the last two axes, are resampled")
        shape = (*values.shape[:axis], self._targets, *values.shape[axis + 1 :])
        product = np.zeros(shape, dtype=np.result_type(values.dtype, np.float32))
        if axis == values.ndim - 1:  # pixels side by side: small dense products are fastest
            for targets, sources, weights in self._bands:
                np.matmul(values[..., sources], weights.T, out=product[..., targets])
        else:  # whole rows are added
            pictures = values.reshape(-1, *values.shape[-2:])
            for picture, result in zip(pictures, product.reshape(-1, *shape[-2:]), strict=True):
                result[...] = self._sparse @ picture
        return product


def _bands(weights: NDArray[np.float32]) -> Iterator[tuple[slice, slice, NDArray[np.float32]]]:
    """A few targets, all sources that have weight in them, and these weights."""
    for start in range(0, len(weights), TARGETS_IN_A_BAND):
        targets = slice(start, min(start + TARGETS_IN_A_BAND, len(weights)))
        used = np.flatnonzero(weights[targets].any(axis=0))
        if len(used):
            sources = slice(int(used[0]), int(used[-1]) + 1)
            yield targets, sources, np.ascontiguousarray(weights[targets, sources])


def _weights(targets: int, sources: int, step: float, offset: float) -> NDArray[np.float32]:
    """``(targets, sources)``: rows sum to 1, or are 0 where a target's center lies beyond the sources."""
    centers = offset + step * np.arange(targets)
    distances = centers[:, None] - np.arange(sources)
    if step > 1:
        width = np.sqrt(step**2 - 1)
        weights = (_hat_integral(distances + width / 2) - _hat_integral(distances - width / 2)) / width
    else:
        weights = np.maximum(0.0, 1.0 - np.abs(distances))
    weights = weights / np.maximum(weights.sum(axis=1, keepdims=True), EDGE)
    weights[~_within(centers, sources)] = 0.0
    return np.asarray(weights, dtype=np.float32)


def _hat_integral(upper: NDArray[np.float64]) -> NDArray[np.float64]:
    """Integral of the hat function ``max(0, 1 - |t|)`` from minus infinity."""
    t = upper.clip(-1.0, 1.0)
    return np.where(t < 0, (1 + t) ** 2 / 2, 1 - (1 - t) ** 2 / 2)


def _within(coordinates: NDArray[np.floating[Any]], count: int) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = (coordinates >= -0.5 - EDGE) & (coordinates <= count - 0.5 + EDGE)
    return inside


def _place(values: NDArray[Any], axis: int, size: int, shift: int) -> NDArray[Any]:
    """Values moved by ``shift`` along ``axis`` into zeros of length ``size``."""
    count = values.shape[axis]
    if size == count and shift == 0:
        return values
    placed = np.zeros((*values.shape[:axis], size, *values.shape[axis + 1 :]), dtype=values.dtype)
    start, stop = max(0, shift), min(size, count + shift)
    before = (slice(None),) * axis
    placed[(*before, slice(start, stop))] = values[(*before, slice(start - shift, stop - shift))]
    return placed

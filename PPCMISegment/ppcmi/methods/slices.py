"""Methods that send latents of whole slices, ours and Privacy-SF: an item is a slice."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppcmi.codec.augment import augment_pair
from ppcmi.latents import Latents
from ppcmi.scales import Stream
from ppcmi.slicing import VolumeSlices, labels_in_plane, restore_probabilities
from ppcmi.task import Task
from ppcmi.volume import Volume

Slices = NDArray[np.float32]


class SliceCase:
    """A volume that is segmented slice by slice; a :class:`~ppcmi.methods.method.CaseAtWork`.

    :param encode: slices ``(n, c, h, w)`` to plain image latents.
    :param decode: plain mask latents and the slices to probabilities ``(n, K, h, w)``.
    """

    def __init__(
        self,
        volume: Volume,
        task: Task,
        encode: Callable[[Slices], Latents],
        decode: Callable[[Latents, Slices], NDArray[np.float32]],
        *,
        with_probabilities: bool,
    ) -> None:
        self._volume, self._encode, self._decode = volume, encode, decode
        self._slices = VolumeSlices(volume, task)
        grid = self._slices.grid
        self._stack = np.zeros((len(self._slices), grid.rows.source, grid.columns.source), dtype=np.uint8)
        self._under_way: dict[int, Slices] = {}
        self._decoded: dict[int, NDArray[np.float32]] | None = {} if with_probabilities else None

    def __len__(self) -> int:
        return len(self._slices)

    def protect(self, where: slice) -> Latents:
        """Image latents of some slices."""
        self._under_way[where.start] = self._slices[where]
        return self._encode(self._under_way[where.start])

    def recover(self, answer: Latents, where: slice) -> None:
        """Labels of these slices from their mask latents."""
        self._take(self._decode(answer, self._under_way.pop(where.start)), where)

    def decide(self, predict: Callable[[Slices], NDArray[np.float32]], where: slice) -> None:
        """Labels of these slices without an answer, from the probabilities that ``predict`` gives them."""
        self._take(predict(self._slices[where]), where)

    def _take(self, probabilities: NDArray[np.float32], where: slice) -> None:
        self._stack[where] = labels_in_plane(probabilities, self._slices.grid)
        if self._decoded is not None:
            self._decoded[where.start] = probabilities

    def finish(self) -> tuple[Volume, NDArray[np.float32] | None]:
        """Labels, and probabilities if they were asked for."""
        grid = self._slices.grid
        labels = Volume(grid.to_voxels(self._stack), self._volume.geometry)
        if self._decoded is None:
            return labels, None
        parts = [self._decoded[start] for start in sorted(self._decoded)]
        return labels, restore_probabilities(np.concatenate(parts), grid)


class LabelledSlices:
    """A labelled case that is exported slice by slice; a :class:`~ppcmi.methods.method.LabelledCase`.

    :param encode_images: slices ``(n, c, h, w)`` to latents, and ``encode_masks`` labels ``(n, h, w)``.
    """

    def __init__(
        self,
        images: VolumeSlices,
        labels: NDArray[np.uint8],
        encode_images: Callable[[Tensor], Latents],
        encode_masks: Callable[[Tensor], Latents],
        generator: torch.Generator,
    ) -> None:
        self._images, self._labels, self._generator = images, labels, generator
        self._encode_images, self._encode_masks = encode_images, encode_masks

    def __len__(self) -> int:
        return len(self._images)

    def protect(self, where: slice, variant: int) -> dict[Stream, Latents]:
        """Latents of some slices; variants are augmented."""
        pictures, masks = torch.from_numpy(self._images[where]), torch.from_numpy(self._labels[where])
        if variant:
            pictures, masks = augment_pair(pictures, masks, self._generator)
        return {Stream.IMAGE: self._encode_images(pictures), Stream.MASK: self._encode_masks(masks)}

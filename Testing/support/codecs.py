"""A tiny task, cases and training lengths, for tests that need a real codec within seconds."""

from __future__ import annotations

import torch

from ppcmi.codec.presets import Preset
from ppcmi.codec.slice_set import SliceSet
from ppcmi.codec.training import CodecTrainingConfig
from ppcmi.fitting import FitConfig
from ppcmi.task import Code, Label, Percentiles, Slicing, Task
from support.shapes import make_masks, make_slices

SLICES_PER_CASE = 8


def tiny_task() -> Task:
    """Two structures on 64 x 64 axial slices."""
    category = Code("SCT", "123037004", "Anatomical Structure")
    return Task(
        name="tiny",
        version="1",
        title="Two made-up structures",
        modality="MR",
        labels=(
            Label(1, "Organ", (200, 100, 50), category, Code("SCT", "113345001", "Abdomen")),
            Label(2, "Vessel", (50, 100, 200), category, Code("SCT", "59820001", "Blood vessel")),
        ),
        slicing=Slicing("axial", (64, 64), (1.0, 1.0), 0),
        intensity=Percentiles(0, 100),
    )


def quick_slice_set(cases: int, seed: int) -> SliceSet:
    """Labelled cases of eight slices each."""
    labels = make_masks(cases * SLICES_PER_CASE, seed)
    case = torch.arange(cases).repeat_interleave(SLICES_PER_CASE)
    return SliceSet(make_slices(labels, seed), labels, case)


def quick_config(preset: Preset = "autoencoder", epochs: int = 4) -> CodecTrainingConfig:
    """A training of seconds."""
    fit = FitConfig(epochs=epochs, batch_size=16)
    return CodecTrainingConfig(
        preset=preset,
        images=fit,
        masks=FitConfig(epochs=epochs, batch_size=8),
        local=FitConfig(epochs=2 * epochs, batch_size=4),
    )

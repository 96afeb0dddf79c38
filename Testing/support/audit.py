"""Small cases of made-up patients, and codecs nobody trained, for tests of attacks within seconds.

An untrained encoder keeps what a slice shows, so that there is something to attack.
"""

from __future__ import annotations

import torch

from ppcmi.audit.attacks.decoder import DecoderConfig
from ppcmi.audit.attacks.plain_latents import Effort
from ppcmi.audit.attacks.rehearsal import RehearsalConfig
from ppcmi.audit.subjects import Subjects, split_subjects
from ppcmi.codec.codec import Codec
from ppcmi.codec.mask_autoencoder import MaskEncoder, foreground
from ppcmi.codec.slice_set import SliceSet
from support.codecs import tiny_task
from support.shapes import make_masks

SIZE = 32
SLICES_PER_CASE = 12
QUICK = Effort(DecoderConfig(steps=80, batch_size=16, checks=4), RehearsalConfig(copies=6, slices=1, most=200))


def small_subjects(cases: int = 20, seed: int = 1) -> Subjects:
    """Labelled slices of 32 x 32 without noise, every case another patient's."""
    labels = make_masks(cases * SLICES_PER_CASE, seed, SIZE)
    slices = torch.tensor([0.2, 0.5, 0.9])[labels.long()][:, None]
    case = torch.arange(cases).repeat_interleave(SLICES_PER_CASE)
    return split_subjects(SliceSet(slices, labels, case), [str(number) for number in range(cases)], seed)


def untrained_codec(seed: int) -> Codec:
    """A codec with networks as they are before any training, and a mask encoder, which takes none."""
    task = tiny_task()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        codec = Codec(task, "autoencoder")
    encoder = codec.get_submodule("network.mask_encoder")
    assert isinstance(encoder, MaskEncoder)
    encoder.fit(foreground(make_masks(40, seed, SIZE), task.classes))
    return codec

"""The site's own learned unmixing: refined on a model's answers, kept where other methods keep the site's decoder."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import safetensors.torch
import torch

from ppcmi.codec.codec import DAMAGE, Codec
from ppcmi.codec.presets import LEARNED_FROM, read_metadata
from ppcmi.codec.slice_set import SliceSet
from ppcmi.errors import CodecError
from ppcmi.files import write_atomically
from ppcmi.fitting import FitConfig, Report, ignore_report
from ppcmi.latents import Latents
from ppcmi.methods.mixup.case import labelled_patches, mixed_with_several
from ppcmi.methods.mixup.mixing import latents_to_soft
from ppcmi.methods.mixup.references import References
from ppcmi.methods.mixup.unmixing import UnmixingNetwork, refine_unmixing

FORMAT = "ppcmi-unmixing/1"


@dataclass(frozen=True)
class UnmixingConfig:
    """How a site refines its unmixing.

    :param mixtures: of each patch, each asked of the server once.
    """

    seed: int = 1
    mixtures: int = 2
    fit: FitConfig = field(
        default_factory=lambda: FitConfig(epochs=8, batch_size=8, minimum_steps=300, learning_rate=1e-3)
    )


def unmixing_of(codec: Codec) -> UnmixingNetwork:
    """The consortium's unmixing, which is what a codec of this method holds."""
    return cast(UnmixingNetwork, codec.network)


def refine(
    codec: Codec,
    labelled: SliceSet,
    references: References,
    map_images: Callable[[Latents], Latents],
    config: UnmixingConfig,
    report: Report = ignore_report,
) -> UnmixingNetwork:
    """The consortium's unmixing, fitted further to a server's answers for the site's own cases.

    :param map_images: the server: mixtures of one case, scale ``x``, to its answers, scale ``y``.
    :raises SiteError: if there are no references of other cases.
    """
    network, generator = copy.deepcopy(unmixing_of(codec)), torch.Generator().manual_seed(config.seed)
    answers, known, shares, truth = [], [], [], []
    for pictures, labels in labelled_patches(labelled, codec.task):
        mixture = mixed_with_several(pictures, references, config.mixtures, generator)
        answers.append(latents_to_soft(map_images(Latents({"x": mixture.pictures}))["y"]).half())
        known.append(mixture.references)
        shares.append(mixture.share)
        truth.append(labels.repeat_interleave(len(mixture.share) // len(pictures), dim=0))
    refine_unmixing(
        network, torch.cat(answers), torch.cat(known), torch.cat(shares), torch.cat(truth), config.fit,
        generator=generator, report=report,
    )  # fmt: skip
    return network.eval()


def save(network: UnmixingNetwork, codec: Codec, path: Path, learned_from: Collection[str] = ()) -> None:
    """Write the site's unmixing, by rename.

    :param learned_from: digests of the cases that it learned from; see :mod:`ppcmi.codec.learned_cases`.
    :raises WriteError: if it cannot be written.
    """
    tensors = {name: values.detach().cpu().contiguous() for name, values in network.state_dict().items()}
    document = {"format": FORMAT, "codec": codec.fingerprint, LEARNED_FROM: sorted(learned_from)}
    write_atomically(path, safetensors.torch.save(tensors, {"ppcmi": json.dumps(document)}))


def load(path: Path, codec: Codec) -> UnmixingNetwork:
    """The site's own unmixing, or before it has one the consortium's.

    :raises CodecError: if the file is damaged or belongs to another codec.
    """
    if not path.exists():
        return unmixing_of(codec)
    network = copy.deepcopy(unmixing_of(codec))
    try:
        data = path.read_bytes()
        document = json.loads(read_metadata(data)["ppcmi"])
        if (document["format"], document["codec"]) != (FORMAT, codec.fingerprint):
            raise CodecError("The site's unmixing belongs to another codec; refine it again.")
        network.load_state_dict(safetensors.torch.load(data))
    except (OSError, *DAMAGE) as error:
        raise CodecError("The site's unmixing is damaged; refine it again.", command="ppcmi codec refine") from error
    return network.eval()

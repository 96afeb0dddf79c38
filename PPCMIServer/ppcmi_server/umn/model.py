"""A trained mapping network: what it was built for, its weights, and the file they are kept in."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ppcmi.codec.codec import DAMAGE
from ppcmi.codec.presets import read_metadata
from ppcmi.device import preset_precision
from ppcmi.errors import BundleError, TrainingError
from ppcmi.files import write_atomically
from ppcmi.latents import Latents
from ppcmi.scales import Profile, Shape, Shapes
from ppcmi_server.umn.batches import slice_losses
from ppcmi_server.umn.mixup import MixupNetwork, mixture_losses
from ppcmi_server.umn.network import MappingNetwork
from ppcmi_server.umn.privacy_sf import PrivacySfMappingNetwork
from ppcmi_server.umn.published import PublishedMappingNetwork

FORMAT = "ppcmi-umn/2"

Preset = Literal["default", "paper", "privacy-sf", "mixup"]


@dataclass(frozen=True)
class UmnDescription:
    """What a network maps: image latents made by ``codecs`` under ``profile`` to mask latents; shapes of both."""

    preset: Preset
    profile: Profile
    images: Shapes
    masks: Shapes
    codecs: tuple[str, ...]


def build_network(description: UmnDescription) -> nn.Module:
    """An untrained network.

    :raises TrainingError: if the preset cannot work at these shapes.
    """
    images, masks = description.images, description.masks
    if description.preset == "paper":
        return PublishedMappingNetwork(images, masks)
    if description.preset == "privacy-sf":
        return PrivacySfMappingNetwork(images, masks)
    if description.preset == "mixup":
        return MixupNetwork(images, masks)
    return MappingNetwork(images, masks, codecs=len(description.codecs))


SliceLosses = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]
"""Outputs and targets by scale to the loss of each slice, ``(n,)``."""


def losses_of(preset: Preset) -> SliceLosses:
    """What a preset's networks are trained to make small."""
    return mixture_losses if preset == "mixup" else slice_losses


def _usual_size(slices: int) -> int:
    """The batch size to map so many slices with: 1, 2, 4, or a multiple of 8.

    Libraries keep what they prepare for every size that they have seen: a server that meets all from 1 to 128 grows by
    150 MiB before it stays as it is.
    """
    return next((size for size in (1, 2, 4) if slices <= size), -(-slices // 8) * 8)


class TrainedUmn:
    """A network ready to map."""

    def __init__(self, description: UmnDescription, network: nn.Module) -> None:
        self.description = description
        self.network = network.eval()

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.network.parameters()).device

    def to(self, device: torch.device) -> TrainedUmn:
        """Move it."""
        self.network.to(device)
        return self

    @torch.inference_mode()
    def map(self, images: Latents, codec: str) -> Latents:
        """Standardized image latents in the inner key's space to mask latents in it, float32 on the network's device.

        :param codec: fingerprint of the codec that made them; must be among the description's.
        :raises TrainingError: if the network was not trained for the codec.
        :raises BundleError: if the latents have more channels than that codec's.
        """
        if codec not in self.description.codecs:
            raise TrainingError("The model was not trained for this codec; train one with this codec's cohorts.")
        try:
            images = images.widened(self.description.images)
        except ValueError as error:
            raise BundleError("The latents are wider than those that the model was trained with.") from error
        count, size = len(images), _usual_size(len(images))
        inputs = {s: v.to(self.device).float() for s, v in images.items()}
        if count < size:
            inputs = {s: F.pad(v, (0,) * 7 + (size - count,)) for s, v in inputs.items()}
        with preset_precision(self.description.preset, self.device):
            outputs: dict[str, Tensor] = self.network(inputs, self.description.codecs.index(codec))
        return Latents({scale: values[:count] for scale, values in outputs.items()})

    @property
    def parameters_count(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.network.parameters())

    def flops(self) -> int:
        """Floating point operations to map one slice (two for a multiply-add)."""
        inputs = {s: torch.zeros(1, *shape, device=self.device) for s, shape in self.description.images.items()}
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self.network(inputs)
        return int(counter.get_total_flops())

    def save(self, path: Path) -> None:
        """Write the model's file, by rename."""
        d = self.description
        document = {
            "format": FORMAT, "preset": d.preset, "profile": d.profile,
            "images": dict(d.images), "masks": dict(d.masks), "codecs": d.codecs,
        }  # fmt: skip
        weights = {k: v.detach().cpu().contiguous() for k, v in self.network.state_dict().items()}
        write_atomically(path, safetensors.torch.save(weights, {"ppcmi": json.dumps(document)}))

    @classmethod
    def load(cls, path: Path) -> TrainedUmn:
        """Read :meth:`save`.

        :raises TrainingError: if the file is missing or damaged.
        """
        try:
            data = path.read_bytes()
            document = json.loads(read_metadata(data)["ppcmi"])
            if document["format"] != FORMAT:
                raise TrainingError("This version does not know the model's format; update the server, or train anew.")
            description = UmnDescription(
                document["preset"],
                Profile(document["profile"]),
                _shapes(document["images"]),
                _shapes(document["masks"]),
                tuple(document["codecs"]),
            )
            network = build_network(description)
            network.load_state_dict(safetensors.torch.load(data))
        except (OSError, *DAMAGE) as error:
            raise TrainingError(
                "The model's file is missing or damaged; train it again or restore a backup."
            ) from error
        return cls(description, network)


def _shapes(document: Mapping[str, list[int]]) -> dict[str, Shape]:
    return {scale: (int(c), int(h), int(w)) for scale, (c, h, w) in document.items()}

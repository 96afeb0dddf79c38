"""A codec: the networks of one preset for one task, their standardization, and the file they are kept in.

Example::

    codec = Codec.load(path)
    latents = codec.encode_images(slices)                      # standardized Latents of all scales
    probabilities = codec.decode_masks(mask_latents, slices, Profile.COARSE)

The file is safetensors with one JSON document in its metadata. The fingerprint is a hash of the task's identity and of
all weights: two members with the same fingerprint have the same codec.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ppcmi.codec.autoencoder import AutoencoderCodecNetwork
from ppcmi.codec.local_network import LocalNetwork, build_local_network
from ppcmi.codec.minimized import MinimizedCodecNetwork
from ppcmi.codec.presets import LEARNED_FROM, PROFILES_OF, Preset, image_channels, read_metadata
from ppcmi.codec.privacy_sf import PrivacySfCodecNetwork
from ppcmi.codec.published import PublishedCodecNetwork
from ppcmi.device import preset_precision
from ppcmi.errors import CodecError, PpcmiError
from ppcmi.files import write_atomically
from ppcmi.latents import Latents, concatenate, joined
from ppcmi.methods.mixup.unmixing import UnmixingNetwork
from ppcmi.scales import SCALE_CHANNELS, SCALES, Profile, Stream
from ppcmi.task import Task, parse_task, task_to_json

FORMAT = "ppcmi-codec/2"
MAXIMUM_FILE_BYTES = 256 << 20
DAMAGE = (KeyError, TypeError, AttributeError, ValueError, RuntimeError, safetensors.SafetensorError)
"""What reading a file of networks raises where it is not what it should be."""

BATCH = 32
"""Slices that go through a network at once."""


class CodecNetwork(Protocol):
    """What a preset provides; latents are not standardized."""

    def encode_images(self, slices: Tensor) -> Latents:
        """Slices to latents of all scales."""

    def reconstruct_images(self, latents: Latents, profile: Profile) -> Tensor:
        """Latents of a profile's scales to slices."""

    def encode_masks(self, labels: Tensor) -> Latents:
        """Labels to latents of all scales."""

    def decode_masks(self, latents: Latents, slices: Tensor, profile: Profile) -> Tensor:
        """Mask latents to probabilities."""


class Standardization(nn.Module):
    """Mean and deviation of every channel of one stream; ``(x - mean) / deviation`` and back."""

    def __init__(self, channels: Mapping[str, int]) -> None:
        super().__init__()
        self.channels = channels
        for scale in SCALES:
            self.register_buffer(f"mean_{scale}", torch.zeros(channels[scale], 1, 1))
            self.register_buffer(f"deviation_{scale}", torch.ones(channels[scale], 1, 1))

    def set(self, scale: str, mean: Tensor | float, deviation: Tensor | float) -> None:
        """Set a scale's statistics, one number or one a channel."""
        shape = (self.channels[scale], 1, 1)
        getattr(self, f"mean_{scale}").copy_(torch.as_tensor(mean).reshape(-1, 1, 1).expand(shape))
        getattr(self, f"deviation_{scale}").copy_(torch.as_tensor(deviation).reshape(-1, 1, 1).expand(shape))

    def apply_to(self, latents: Latents) -> Latents:
        """Standardize."""
        return latents.map(lambda s, v: (v - getattr(self, f"mean_{s}")) / getattr(self, f"deviation_{s}"))

    def remove_from(self, latents: Latents) -> Latents:
        """Undo :meth:`apply_to`."""
        return latents.map(lambda s, v: v * getattr(self, f"deviation_{s}") + getattr(self, f"mean_{s}"))


class Codec(nn.Module):
    """Networks, standardization and the consortium's local network for one task.

    :param report: what training measured on held-out cases; travels with the codec, numbers only.
    """

    def __init__(self, task: Task, preset: Preset, report: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.task = task
        self.preset = preset
        self.report: Mapping[str, Any] = report or {}
        channels, classes = task.slicing.channels, task.classes
        self.network: nn.Module = _NETWORKS[preset](channels, classes, task.slicing.size)
        self.local: LocalNetwork = build_local_network(channels, classes, task.slicing.size)
        self.standardizations = nn.ModuleDict(
            {
                Stream.IMAGE: Standardization(image_channels(preset)),
                Stream.MASK: Standardization(SCALE_CHANNELS),
            }
        )
        if preset != "mixup":  # what works on patches has five axes
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.eval()

    @property
    def networks(self) -> CodecNetwork:
        """The preset's networks.

        :raises CodecError: if it encodes nothing.
        """
        if self.preset == "mixup":
            raise CodecError("With the method mixup nothing is encoded: this works with tasks of other methods only.")
        return cast(CodecNetwork, self.network)

    @property
    def profiles(self) -> tuple[Profile, ...]:
        """Privacy profiles that it works with."""
        return PROFILES_OF[self.preset]

    def works_with(self, profile: Profile) -> bool:
        """Whether its decoders can use a profile's scales."""
        return profile.scales in {own.scales for own in self.profiles}

    @property
    def follows_a_paper(self) -> bool:
        """Whether it is a published system's: there the server's answer alone decides, and float32 is used."""
        return self.preset in ("paper", "privacy-sf", "mixup")

    @property
    def device(self) -> torch.device:
        """Where the codec computes."""
        return next(self.parameters()).device

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits of SHA-256 over the task's identity, the preset and all weights."""
        digest = hashlib.sha256(f"{FORMAT}|{self.task.identity}|{self.preset}".encode())
        for name, values in sorted(self.state_dict().items()):
            digest.update(f"|{name}|{values.dtype}|{tuple(values.shape)}|".encode())
            digest.update(values.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:32]

    def standardization(self, stream: Stream) -> Standardization:
        """Statistics of one stream."""
        return cast(Standardization, self.standardizations[stream])

    @torch.inference_mode()
    def encode_images(self, slices: Tensor | NDArray[np.float32], scales: Sequence[str] | None = None) -> Latents:
        """Slices ``(n, c, h, w)`` float32 in [0, 1] to standardized latents, on the codec's device.

        :param scales: those that are wanted; all of them if None.
        """
        return self.standardization(Stream.IMAGE).apply_to(self._encode_images(slices, scales))

    @torch.inference_mode()
    def standardize_images(self, slices: Tensor) -> None:
        """Set the image stream's statistics to those of ``slices`` as they are encoded now."""
        for scale, values in self._encode_images(slices).items():
            mean, deviation = values.mean(dim=(0, 2, 3)), values.std(dim=(0, 2, 3)).clamp_min(1e-3)
            self.standardization(Stream.IMAGE).set(scale, mean, deviation)

    @torch.inference_mode()
    def encode_masks(self, labels: Tensor | NDArray[np.uint8]) -> Latents:
        """Labels ``(n, h, w)`` to standardized latents of all scales, on the codec's device."""
        parts = [self.networks.encode_masks(part) for part in self._batches(labels)]
        return self.standardization(Stream.MASK).apply_to(concatenate(parts))

    @torch.inference_mode()
    def decode_masks(self, latents: Latents, slices: Tensor | NDArray[np.float32], profile: Profile) -> Tensor:
        """Standardized mask latents of the profile's scales and the slices to probabilities ``(n, K + 1, h, w)``."""
        plain = self.standardization(Stream.MASK).remove_from(latents.to(self.device))
        parts, first = [], 0
        with preset_precision(self.preset, self.device):
            for part in self._batches(slices):
                parts.append(self.networks.decode_masks(plain.select(slice(first, first + len(part))), part, profile))
                first += len(part)
        return joined(parts)

    @torch.inference_mode()
    def reconstruct_images(self, latents: Latents, profile: Profile) -> Tensor:
        """Standardized image latents back to slices; what the key holders could see, for reports and audits."""
        plain = self.standardization(Stream.IMAGE).remove_from(latents.to(self.device))
        parts = [
            self.networks.reconstruct_images(plain.select(slice(first, first + BATCH)), profile)
            for first in range(0, len(plain), BATCH)
        ]
        return torch.cat(parts)

    def to_bytes(self, learned_from: Collection[str] = ()) -> bytes:
        """The codec as the bytes of its file; a codec that is read from it does not have ``learned_from``."""
        document: dict[str, Any] = {
            "format": FORMAT,
            "preset": self.preset,
            "task": json.loads(task_to_json(self.task)),
            "report": dict(self.report),
        }
        if learned_from:
            document[LEARNED_FROM] = sorted(learned_from)
        weights = {name: values.detach().cpu().contiguous() for name, values in self.state_dict().items()}
        return safetensors.torch.save(weights, {"ppcmi": json.dumps(document, sort_keys=True)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Codec:
        """Read :meth:`to_bytes`.

        :raises CodecError: if the bytes are not a codec of this format.
        """
        if len(data) > MAXIMUM_FILE_BYTES:
            raise CodecError("The codec is larger than 256 MiB; it is not one that this version makes.")
        try:
            document = json.loads(read_metadata(data)["ppcmi"])
            if document["format"] != FORMAT or document["preset"] not in _NETWORKS:
                raise CodecError(
                    "This version does not know the codec's format; update the software, or train the codec again."
                )
            codec = cls(parse_task(json.dumps(document["task"])), document["preset"], document["report"])
            codec.load_state_dict(safetensors.torch.load(data))
        except PpcmiError:
            raise
        except DAMAGE as error:
            raise CodecError("The codec's file is damaged; fetch or train it again.") from error
        return codec.eval()

    def save(self, path: Path, learned_from: Collection[str] = ()) -> None:
        """Write the codec's file, by rename.

        :param learned_from: digests of the cases that it learned from; see :mod:`ppcmi.codec.learned_cases`.
        :raises WriteError: if it cannot be written.
        """
        write_atomically(path, self.to_bytes(learned_from))

    @classmethod
    def load(cls, path: Path) -> Codec:
        """Read a codec's file.

        :raises CodecError: if it cannot be read.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CodecError("The codec's file cannot be read; fetch or train it again.") from error
        return cls.from_bytes(data)

    def _encode_images(self, slices: Tensor | NDArray[np.float32], scales: Sequence[str] | None = None) -> Latents:
        """Latents that are not standardized."""
        with preset_precision(self.preset, self.device):
            parts = [self.networks.encode_images(part) for part in self._batches(slices)]
        return concatenate(parts if scales is None else [part.only(scales) for part in parts])

    def _batches(self, values: Tensor | NDArray[Any]) -> list[Tensor]:
        parts = torch.split(torch.as_tensor(values), BATCH)
        return [part.to(self.device, memory_format=_fastest(part)) for part in parts]


_NETWORKS: Mapping[Preset, Callable[[int, int, Sequence[int]], nn.Module]] = {
    "minimized": MinimizedCodecNetwork,
    "autoencoder": AutoencoderCodecNetwork,
    "paper": lambda channels, classes, _: PublishedCodecNetwork(channels, classes),
    "privacy-sf": lambda channels, classes, _: PrivacySfCodecNetwork(channels, classes),
    "mixup": lambda channels, classes, _: UnmixingNetwork(channels, classes),
}
"""By channels and classes of the task, and its slices' rows and columns."""


def _fastest(values: Tensor) -> torch.memory_format:
    """Channels side by side, which convolutions on CPUs and tensor cores want."""
    return torch.channels_last if values.ndim == 4 else torch.contiguous_format

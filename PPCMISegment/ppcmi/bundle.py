"""Bundle: protected latents of slices of one case, as one file or request body.

A safetensors file whose metadata has one entry, ``ppcmi``, with the header as JSON::

    u64 LE length | {"__metadata__": {"ppcmi": HEADER}, "image.s4": {...}, "image.s4.scale": {...}, ...} | tensors

Nothing in it identifies a patient: the case is a random pseudonym, the slices are numbers. It comes from outside, so
:func:`unpack` checks sizes, fields, names, types and shapes before anything is allocated, and refuses what it does not
know. A bundle carries no signature: TLS and the cohort file's AES-GCM keep it whole.
"""

from __future__ import annotations

from collections.abc import Mapping

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from ppcmi.bundle_header import (
    METADATA_NAME,
    USUAL_LIMITS,
    BundleHeader,
    BundleLimits,
    header_to_json,
    read_description,
)
from ppcmi.errors import BundleError
from ppcmi.latent_tensors import dequantize, quantize
from ppcmi.latents import Latents
from ppcmi.quantization import tensor_layout
from ppcmi.scales import Stream

_ENTRY = {"dtype", "shape", "data_offsets"}


def pack(header: BundleHeader, streams: Mapping[Stream, Latents]) -> bytes:
    """A bundle of latents that are already protected.

    :raises BundleError: if the latents are not those that the header tells of, or not finite.
    """
    if set(streams) != set(header.streams):
        raise BundleError("The bundle's header and its latents disagree about the streams; pack them again.")
    tensors: dict[str, Tensor] = {}
    for stream, latents in streams.items():
        if latents.shapes != header.shapes[stream] or len(latents) != len(header.slice_indices):
            raise BundleError("The bundle's header and its latents disagree about their shapes; pack them again.")
        tensors |= {f"{stream}.{name}": values for name, values in quantize(latents, header.quantization).items()}
    return bytes(safetensors.torch.save(tensors, metadata={METADATA_NAME: header_to_json(header)}))


def unpack(data: bytes, limits: BundleLimits = USUAL_LIMITS) -> tuple[BundleHeader, dict[Stream, Latents]]:
    """Header and float32 latents ``(n, C, H, W)`` on the CPU, finite, still protected.

    :raises BundleError: on anything that is not a whole bundle within the limits.
    """
    header, described = read_description(data, limits)
    expected = {
        f"{stream}.{name}": layout
        for stream, shapes in header.shapes.items()
        for name, layout in tensor_layout(shapes, len(header.slice_indices), header.quantization).items()
    }
    if described.keys() != expected.keys():
        raise BundleError("The bundle does not hold the tensors that its header tells of; ask its sender for it again.")
    for name, (dtype, shape) in expected.items():
        entry = described[name]
        if entry.keys() != _ENTRY or (entry["dtype"], entry["shape"]) != (dtype, list(shape)):
            raise BundleError("A tensor of the bundle is not of the type or shape that its header tells of.")
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(data)
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise BundleError("The bundle is cut off or damaged; ask its sender for it again.") from error
    return header, {stream: _latents(tensors, stream, header) for stream in header.streams}


def _latents(tensors: Mapping[str, Tensor], stream: Stream, header: BundleHeader) -> Latents:
    prefix = f"{stream}."
    own = {name.removeprefix(prefix): values for name, values in tensors.items() if name.startswith(prefix)}
    return dequantize(own, header.shapes[stream], header.quantization)

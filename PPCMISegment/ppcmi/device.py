"""Where networks run and in which precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from ppcmi.errors import UsageError


def choose_device(name: str = "auto") -> torch.device:
    """The device that a user named: ``auto`` takes the first of CUDA, MPS and CPU that works here.

    :raises UsageError: if the device does not exist on this machine.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, present in available.items() if present))
    kind, _, index = name.partition(":")
    if kind not in available or (":" in name and not index.isdecimal()):
        raise UsageError("The device is one of auto, cpu, cuda, mps, or one of several such as cuda:1.")
    if not available[kind]:
        raise UsageError(f"This machine has no working {kind} device; use --device cpu.")
    return torch.device(name)


def mixed_precision(device: torch.device) -> AbstractContextManager[object]:
    """Autocast to bfloat16 where the device computes it natively, else float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device))


def preset_precision(preset: str, device: torch.device) -> AbstractContextManager[object]:
    """In which precision a preset's networks are used: the published ones in float32, as they were published."""
    return nullcontext() if preset in ("paper", "privacy-sf") else mixed_precision(device)


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 matrix products are native on ``device``."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())

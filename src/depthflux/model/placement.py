"""The device and dtype that this machine can give, each with the reason it was chosen.

Knows nothing of models.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from depthflux.errors import DeviceError
from depthflux.settings import EngineSettings


@dataclass(frozen=True)
class Placement:
    """Where a model runs and what it computes in.

    Attributes:
        device: such as `cpu` or `cuda:0`.
        dtype: of weights and activations.
        reason: why this device, in words.
    """

    device: torch.device
    dtype: torch.dtype
    reason: str


def place(settings: EngineSettings) -> Placement:
    """Turn the settings' device and dtype into ones that exist here.

    Raises:
        DeviceError: CUDA was asked for and there is none, or fewer devices than asked for.
    """
    available = torch.cuda.is_available()
    if settings.device == "auto":
        device = torch.device("cuda:0" if available else "cpu")
        reason = "auto: CUDA is there" if available else "auto: there is no CUDA device"
    else:
        device, reason = torch.device(settings.device), "as set"
    if device.type == "cuda":
        count = torch.cuda.device_count() if available else 0
        if (device.index or 0) >= count:
            raise DeviceError(
                f"device={settings.device}: torch {torch.__version__} sees {count} CUDA devices.",
                fix="Use --device cpu, or install a CUDA build of torch and the GPU's driver.",
            )
    return Placement(device, getattr(torch, settings.dtype), reason)


def device_name(device: torch.device) -> str:
    """What the device calls itself, such as `NVIDIA H200`, or the CPU's instruction set."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU {torch.backends.cpu.get_cpu_capability()}"

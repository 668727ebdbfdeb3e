"""The device, dtype and memory that this machine can give, each with the reason it was chosen.

Knows nothing of models.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from depthflux.errors import DeviceError
from depthflux.settings import EngineSettings

GIGABYTE = 1e9


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


def available_bytes(device: torch.device, limit_gb: float | None = None) -> int | None:
    """The device memory that this process may have: what is free, and what it holds already.

    Args:
        device: a GPU's is asked for; the CPU's is not planned with.
        limit_gb: a limit in 1e9 bytes to plan with instead, on any device.

    Returns:
        Bytes; None where nothing limits them.
    """
    if limit_gb is not None:
        return round(limit_gb * GIGABYTE)
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return int(free) + torch.cuda.memory_reserved(device)


def hold_to_limit(device: torch.device, limit_gb: float | None) -> None:
    """Let a GPU's memory run out at a limit, in 1e9 bytes, as on a smaller card.

    It holds for the process until the next call; None lifts it. The CPU's limit is simulated, and
    nothing is done.
    """
    if device.type != "cuda":
        return
    _, total = torch.cuda.mem_get_info(device)
    share = 1.0 if limit_gb is None else min(1.0, limit_gb * GIGABYTE / total)
    torch.cuda.set_per_process_memory_fraction(share, device)


def in_gigabytes(count: int) -> str:
    """Bytes in words, such as `21.6 GB`; below 1 GB with two digits."""
    number = count / GIGABYTE
    return f"{number:.2g} GB" if number < 1 else f"{number:.1f} GB"

"""What FLUX would take of the device's memory under settings, in one line and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from depthflux.contract import DEFAULT_SIZE
from depthflux.errors import DeviceError

if TYPE_CHECKING:
    import torch

    from depthflux.settings import EngineSettings


def describe_memory(settings: EngineSettings) -> dict[str, Any] | None:
    """The estimate for FLUX.1-dev at the default size; None for another model.

    A device that is not here is planned for all the same: the profile may be for another machine.
    """
    if settings.model != "flux":
        return None
    from depthflux.engine.preflight import footprint_of
    from depthflux.model.footprint import FLUX_SIZE

    device, available = _device(settings)
    footprint = footprint_of(FLUX_SIZE, settings, device)
    return {
        "size": DEFAULT_SIZE,
        "device": str(device),
        "estimated_bytes": footprint.peak_bytes,
        "available_bytes": available,
        "resident_bytes": {part: count for part, count in footprint.resident.items() if count},
        "phase": footprint.peak_phase,
        "phase_bytes": footprint.phases[footprint.peak_phase],
    }


def in_words(memory: dict[str, Any]) -> str:
    """The estimate as a line for a person."""
    largest = sorted(memory["resident_bytes"].items(), key=lambda part: -part[1])[:3]
    parts = ", ".join(f"{part} {_gigabytes(count)}" for part, count in largest)
    had = memory["available_bytes"]
    there = f"; {_gigabytes(had)} can be had" if had is not None else ""
    return (
        f"memory of {memory['device']}, estimated for FLUX at {memory['size']}: "
        f"{_gigabytes(memory['estimated_bytes'])} ({parts}, {memory['phase']} "
        f"{_gigabytes(memory['phase_bytes'])}){there}"
    )


def _device(settings: EngineSettings) -> tuple[torch.device, int | None]:
    """Where the model would run, and what can be had there; unknown where it is not here."""
    import torch

    from depthflux.model.placement import available_bytes, place

    try:
        device = place(settings).device
    except DeviceError:
        limit = settings.memory_limit_gb
        return torch.device(settings.device), None if limit is None else round(limit * 1e9)
    return device, available_bytes(device, settings.memory_limit_gb)


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"

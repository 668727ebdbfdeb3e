"""Whether a model fits the device's memory, judged before its weights are read.

A profile that was named is refused where it does not fit, with the one that does; `auto` takes the
best of those that lose nothing, and never one that rounds.

Knows nothing of what happens when memory runs out all the same: that is depthflux.engine.ladder's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import torch

from depthflux.canvas import Canvas
from depthflux.contract.request import DEFAULT_SIZE, parse_size
from depthflux.errors import SettingsError, shown_name
from depthflux.model.components import MODULES
from depthflux.model.footprint import (
    FLUX_SIZE,
    RESERVE_BYTES,
    Footprint,
    ModelSize,
    Plan,
    estimate,
    size_of,
)
from depthflux.model.headers import read_header
from depthflux.model.placement import available_bytes, in_gigabytes, place
from depthflux.model.weights import ModelFiles
from depthflux.settings import EngineSettings, ResolvedSettings, resolve_settings

#: Profiles for a GPU, the one that needs most memory first. Those of the first line paint the same
#: picture, but for the rounding of sums; those of the second round the weights.
LOSSLESS = ("exact", "gpu24")
ROUNDED = ("gpu16", "gpu12")


def measure(files: ModelFiles, components: Mapping[str, Any]) -> ModelSize:
    """The size of a model whose components are open and not read yet.

    Args:
        files: where the depth estimator is.
        components: as `depthflux.model.loading.open_model` gives them.
    """
    longest = components["tokenizer_2"].model_max_length
    return size_of(
        {name: components[name].module for name in MODULES},
        estimator=estimator_parameters(files),
        text_tokens=min(FLUX_SIZE.text_tokens, longest),
    )


def estimator_parameters(files: ModelFiles) -> int:
    """Parameters of a model's depth estimator, from its file's header; 0 without one."""
    if files.estimator is None:
        return 0
    header = read_header(files.estimator / "model.safetensors")
    return sum(prod(tensor.shape) for tensor in header.values())


def reserve_on(device: torch.device) -> int:
    """Bytes to keep for what cannot be counted; none where the device is the CPU."""
    return RESERVE_BYTES if device.type == "cuda" else 0


def footprint_of(
    size: ModelSize, settings: EngineSettings, device: torch.device, asked: str = DEFAULT_SIZE
) -> Footprint:
    """What a model takes under settings.

    Args:
        size: the model's.
        settings: which decide what is where.
        device: where it runs.
        asked: a request's size.
    """
    canvas = Canvas(*parse_size(asked), grid=size.grid)
    return estimate(size, Plan.from_settings(settings), canvas, reserve=reserve_on(device))


def require_fit(size: ModelSize, resolved: ResolvedSettings, device: torch.device) -> Footprint:
    """What a model takes at the default size, where that can be had.

    Raises:
        SettingsError: it cannot; the message says how much is missing and which profile fits.
    """
    shortage = _shortage(resolved.profile, size, resolved.values, device)
    if shortage:
        raise SettingsError(
            f"profile {shortage}.",
            fix=_advice(size, resolved.values, device, other_than=resolved.profile),
        )
    return footprint_of(size, resolved.values, device)


def choose_lossless(size: ModelSize, resolve: Callable[[str], ResolvedSettings]) -> str:
    """The best profile that loses nothing and fits.

    Args:
        size: the model's.
        resolve: a profile's settings with what environment and arguments say.

    Raises:
        SettingsError: none fits; the message names one that rounds and fits.
    """
    for name in LOSSLESS:
        values = resolve(name).values
        device = place(values).device
        shortage = _shortage(name, size, values, device)
        if not shortage:
            return name
    raise SettingsError(
        f"no profile that loses nothing fits: {shortage}.", fix=_advice(size, values, device)
    )


def _shortage(profile: str, size: ModelSize, settings: EngineSettings, device: torch.device) -> str:
    """What a profile needs and cannot have, in words; empty where it fits."""
    needed = footprint_of(size, settings, device).peak_bytes
    available = available_bytes(device, settings.memory_limit_gb)
    if available is None or needed <= available:
        return ""
    return (
        f"{shown_name(profile)} needs {in_gigabytes(needed)} of {device}'s memory at "
        f"{DEFAULT_SIZE}, of which {in_gigabytes(available)} can be had"
    )


def _advice(
    size: ModelSize, settings: EngineSettings, device: torch.device, *, other_than: str = ""
) -> str:
    """Which profile fits, those that lose nothing first."""
    if device.type != "cuda" and size != FLUX_SIZE:
        return "Raise memory_limit_gb, or close other programs."
    if settings.model == "demo":  # it has one profile
        return "Raise memory_limit_gb, or close other programs."
    limit = {"memory_limit_gb": settings.memory_limit_gb}
    for name in (*LOSSLESS, *ROUNDED):
        other = resolve_settings(name, arguments=limit).values
        if name == other_than or _shortage(name, size, other, device):
            continue
        cost = "loses nothing" if name in LOSSLESS else "rounds the blocks' weights"
        return f"The profile {name} fits and {cost}; or close other programs on the GPU."
    return "No profile for a GPU fits; close other programs on it, or use the profile cpu."

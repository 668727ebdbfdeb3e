"""What a change of the control scale costs: time, memory for a moment, memory for good.

Measured on the miniature; what follows for FLUX.1-dev is counted from its shape and said to be.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import accelerate
import torch
from diffusers import FluxTransformer2DModel
from torch.profiler import ProfilerActivity, profile

import depthflux
from fidelity_report.figures import rounded, spread

MASTERS = ("file", "host", "device")
BFLOAT16_BYTES = 2


def measure_changes(folder: Path, repeat: int) -> dict[str, Any]:
    """A change of the scale in float32 on the CPU, for each place of the unfused weights."""
    report: dict[str, Any] = {}
    for master in MASTERS:
        engine = depthflux.load("demo", model=str(folder), master=master)
        transformer = engine.model.transformer
        report[master] = measure_change(engine, repeat) | {
            "bytes_kept": 0 if master == "file" else bytes_in_files(folder)
        }
    linears = linear_sizes(transformer)
    temporary = max(entry["bytes_for_a_moment"] for entry in report.values()) / max(linears)
    milliseconds = report["file"]["milliseconds"]["median"] / len(linears)
    return {
        "masters": report,
        "linears": len(linears),
        "milliseconds_each_linear": rounded(milliseconds),
        "bytes_for_a_moment_each_number_of_the_largest": rounded(temporary),
        "flux": derive_for_flux(temporary, milliseconds),
    }


def measure_change(engine: depthflux.Engine, repeat: int) -> dict[str, Any]:
    """Processor time, and memory at most in use beyond what was before."""
    control = engine.model.control_lora
    control.set_scale(1.0)
    seconds = []
    for index in range(repeat):
        start = time.process_time()
        control.set_scale((0.3, 0.7)[index % 2])
        seconds.append(1000 * (time.process_time() - start))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        control.set_scale(1.0)
    return {"milliseconds": spread(seconds), "bytes_for_a_moment": peak(profiler)}


def peak(profiler: Any) -> int:
    """The most bytes in use at once, of what was allocated while the profiler ran."""
    used = most = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            used += event.nbytes()
            most = max(most, used)
    return most


def bytes_in_files(folder: Path) -> int:
    """The transformer's tensors as the files have them; a file's header is a few kilobytes."""
    return sum(path.stat().st_size for path in (folder / "transformer").glob("*.safetensors"))


def linear_sizes(transformer: torch.nn.Module) -> list[int]:
    """How many weights each linear has."""
    return [m.weight.numel() for m in transformer.modules() if isinstance(m, torch.nn.Linear)]


def derive_for_flux(bytes_each_number: float, milliseconds_each_linear: float) -> dict[str, Any]:
    """FLUX.1-dev's own numbers, counted from its shape and the miniature's costs; not measured.

    The miniature's linears are so small that their time is the calls' alone.
    """
    with accelerate.init_empty_weights():
        flux = FluxTransformer2DModel(guidance_embeds=True)
    linears = linear_sizes(flux)
    return {
        "linears": len(linears),
        "largest_linear": max(linears),
        "gigabytes_read": rounded(BFLOAT16_BYTES * sum(linears) / 1e9),
        "gigabytes_kept": rounded(BFLOAT16_BYTES * sum(p.numel() for p in flux.parameters()) / 1e9),
        "gigabytes_for_a_moment": rounded(bytes_each_number * max(linears) / 1e9),
        "seconds_of_calls": rounded(milliseconds_each_linear * len(linears) / 1000),
    }

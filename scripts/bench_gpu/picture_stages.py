"""Stages that paint: the first steps, timed pictures, what compiles again, kernels, safety.

Knows nothing of loading or fusing.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch._dynamo.utils import counters

from bench_gpu.bench import SEED, Bench
from bench_gpu.card import TEXT_TOKENS, image_tokens, step_flops
from bench_gpu.clocks import StepClock, now, spread
from bench_gpu.memory import PeakMemory
from bench_gpu.plan import FEW_STEPS
from depthflux.contract import Prediction


def first_steps(bench: Bench, *, picture: str) -> dict[str, Any]:
    """The first painting after loading: where blocks are compiled, this compiles them.

    The same few steps once more show what of it was compiling and warming up.
    """
    request = bench.request(picture, num_inference_steps=FEW_STEPS)
    with PeakMemory(bench.device) as memory:
        first = bench.loaded.generate(**request).timings
    again = bench.loaded.generate(**request).timings
    return {
        "compiled": bench.loaded.compilation.applied,
        "steps": FEW_STEPS,
        "first_denoise_milliseconds": first["denoise"],
        "second_denoise_milliseconds": again["denoise"],
        **memory.figures,
        **graphs(),
    }


def pictures(bench: Bench, *, picture: str, number: int, repeat: int) -> dict[str, Any]:
    """Pictures of one size, `repeat` times the same, after a few steps of warming up."""
    steps = bench.size.steps
    bench.loaded.generate(**bench.request(picture, num_inference_steps=FEW_STEPS))
    request = bench.request(picture, num_images=number)
    walls, predictions, step_times = [], [], []
    with PeakMemory(bench.device) as memory:
        for _ in range(repeat):
            clock = StepClock(bench.device, steps)
            start = now(bench.device)
            predictions.append(bench.loaded.generate(**request, on_step=clock))
            walls.append(now(bench.device) - start)
            step_times += clock.milliseconds()
    step = spread(step_times)
    return {
        "steps": steps,
        "images": number,
        "generate_seconds": spread(walls),
        "phases_milliseconds": phases(predictions),
        "step_milliseconds": step,
        "step_teraflops_per_second": step and teraflops_per_second(bench, picture, step["median"]),
        **memory.figures,
        "pictures_sha256": sorted({tuple(map(sha256, p.images)) for p in predictions}),
        **graphs(),
    }


def recompiling(bench: Bench, *, pictures: Sequence[str]) -> dict[str, Any]:
    """Other sizes, seeds, numbers and control scales after the first steps, and what they compiled.

    The control scale ends at 1.
    """
    before = graphs()["graphs_compiled"]
    last = bench.size.pictures[-1]
    requests = [
        *(bench.request(size, seed=SEED + 1 + index) for index, size in enumerate(pictures)),
        bench.request(last, control_scale=0.5),
        bench.request(last, num_images=2),
    ]
    for request in requests:
        bench.loaded.generate(**request | {"num_inference_steps": FEW_STEPS})
    return {"graphs_before": before, **graphs()}


def kernels(bench: Bench, *, picture: str) -> dict[str, Any]:
    """What runs for a picture of few steps, by the profiler: the attention that was really used.

    Text encoders and VAE run, too; the transformer's kernels have a call for each block and step.
    """
    on_cuda = bench.device.type == "cuda"
    activities = [torch.profiler.ProfilerActivity.CPU]
    if on_cuda:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    request = bench.request(picture, num_inference_steps=FEW_STEPS)
    with torch.profiler.profile(activities=activities) as profile:
        bench.loaded.generate(**request)
        now(bench.device)
    rows = [
        {
            "name": row.key,
            "calls": row.count,
            "device_milliseconds": round(row.self_device_time_total / 1000, 3),
        }
        for row in profile.key_averages()
        # Operators and kernels stand in one list, and an operator's time is that of its kernels.
        if row.device_type.name == "CUDA"
    ]
    rows.sort(key=lambda row: -row["device_milliseconds"])
    operators = {
        row.key: row.count for row in profile.key_averages() if "scaled_dot_product" in row.key
    }
    return {
        "attention_operators_calls": operators,
        "attention_kernels": [row for row in rows if is_attention(row["name"])] or None,
        "longest_kernels": rows[:15] or None,
    }


def is_attention(kernel: str) -> bool:
    """Whether a kernel's name is one of those that attention runs in: flash, cuDNN's, CUTLASS's."""
    return any(word in kernel.lower() for word in ("flash", "fmha", "sdpa", "attention"))


def safety(bench: Bench, *, picture: str) -> dict[str, Any]:
    """One picture with the safety checker on, whose time the other stages leave out."""
    request = bench.request(picture, num_inference_steps=1, enable_safety_checker=True)
    times = [bench.loaded.generate(**request).timings["safety"] for _ in range(2)]
    return {"first_milliseconds": times[0], "second_milliseconds": times[1]}


def phases(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Each phase's spread over predictions, as they report it themselves."""
    names = predictions[0].timings
    return {name: spread([float(p.timings[name]) for p in predictions]) for name in names}


def teraflops_per_second(bench: Bench, picture: str, milliseconds: float) -> float:
    """The operations of one step over its time."""
    tokens = image_tokens(bench.size, picture)
    flops = step_flops(bench.size.transformer, image_tokens=tokens, text_tokens=TEXT_TOKENS)
    return round(flops["total"] / (milliseconds / 1000) / 1e12, 4)


def graphs() -> dict[str, int]:
    """Graphs compiled since the arm began, and breaks in them, by torch's own counters."""
    return {
        "graphs_compiled": int(counters["stats"]["unique_graphs"]),
        "graph_breaks": sum(counters["graph_break"].values()),
    }


def sha256(picture: Any) -> str:
    """The first 16 digits, of a picture's pixels."""
    return hashlib.sha256(np.asarray(picture).tobytes()).hexdigest()[:16]

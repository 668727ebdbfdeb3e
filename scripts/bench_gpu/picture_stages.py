"""Stages that paint: the first steps, timed pictures, what compiles again, kernels, safety.

Knows nothing of loading or fusing.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from bench_gpu.bench import SEED, Bench
from bench_gpu.card import TEXT_TOKENS, image_tokens
from bench_gpu.memory import PeakMemory
from bench_gpu.plan import FEW_STEPS
from depthflux.bench.checking import compile_counters, profile_kernels
from depthflux.bench.clocks import StepMarks, now
from depthflux.bench.operations import step_flops
from depthflux.bench.rounds import spread
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
        **compile_counters(),
    }


def pictures(bench: Bench, *, picture: str, number: int, repeat: int) -> dict[str, Any]:
    """Pictures of one size, `repeat` times the same, after a few steps of warming up."""
    steps = bench.size.steps
    bench.loaded.generate(**bench.request(picture, num_inference_steps=FEW_STEPS))
    request = bench.request(picture, num_images=number)
    walls, predictions, step_times = [], [], []
    with PeakMemory(bench.device) as memory:
        for _ in range(repeat):
            clock = StepMarks(bench.device, steps)
            start = now(bench.device)
            predictions.append(
                bench.loaded.generate(**request, on_step=lambda *_, clock=clock: clock.mark())
            )
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
        **compile_counters(),
    }


def recompiling(bench: Bench, *, pictures: Sequence[str]) -> dict[str, Any]:
    """Other sizes, seeds, numbers and control scales after the first steps, and what they compiled.

    The control scale ends at 1.
    """
    before = compile_counters()["graphs_compiled"]
    last = bench.size.pictures[-1]
    requests = [
        *(bench.request(size, seed=SEED + 1 + index) for index, size in enumerate(pictures)),
        bench.request(last, control_scale=0.5),
        bench.request(last, num_images=2),
    ]
    for request in requests:
        bench.loaded.generate(**request | {"num_inference_steps": FEW_STEPS})
    return {"graphs_before": before, **compile_counters()}


def kernels(bench: Bench, *, picture: str) -> dict[str, Any]:
    """What runs for a picture of few steps, by the profiler: the attention that was really used.

    Text encoders and VAE run, too; the transformer's kernels have a call for each block and step.
    """
    request = bench.request(picture, num_inference_steps=FEW_STEPS)
    return profile_kernels(lambda: bench.loaded.generate(**request), bench.device)


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


def sha256(picture: Any) -> str:
    """The first 16 digits, of a picture's pixels."""
    return hashlib.sha256(np.asarray(picture).tobytes()).hexdigest()[:16]

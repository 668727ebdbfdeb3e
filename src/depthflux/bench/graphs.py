"""Whether anything compiles once the blocks are warm: over sizes and numbers of pictures.

Knows nothing of what a graph is made of.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

from depthflux.bench.checking import compile_counters, compiled_since
from depthflux.bench.gpu_samples import GpuSamples
from depthflux.bench.machine import describe_run
from depthflux.bench.models import source_of
from depthflux.bench.plan import SpeedPlan
from depthflux.bench.sizes import task_of
from depthflux.bench.speed import (
    DOCUMENT_VERSION,
    Say,
    describe_plan,
    describe_system,
    load_systems,
    placement_of,
)
from depthflux.bench.systems import System
from depthflux.errors import GenerationError

#: Of the request's range: its ends, the hosted default as diffusers rounds it, usual shapes.
SIZES = (
    "1024*1024",
    "512*512",
    "768*512",
    "512*1024",
    "640*832",
    "768*768",
    "1024*768",
    "768*1344",
    "864*1632",
    "1024*1536",
    "1536*1024",
    "1536*1536",
)
NUMBERS = (1, 2, 3, 4)
#: To warm up, at the first two sizes: the second proves that a graph serves other ones.
WARM_NUMBERS = (1, 2)


def run_graphs(
    plan: SpeedPlan,
    *,
    say: Say,
    keep: Callable[[dict[str, Any]], None] = lambda _document: None,
    numbers: Sequence[int] = NUMBERS,
) -> dict[str, Any]:
    """Paint every size in every number, one step each, and count what that compiles.

    Args:
        plan: with one system; its first two sizes warm up, and all are painted then.
        say: told what is being done, line by line.
        keep: given the document so far after each size.
        numbers: of pictures.

    Raises:
        DeviceError: the asked device cannot be had.
        GenerationError: the system cannot run here.
    """
    placement = placement_of(plan)
    (name,) = plan.systems
    with GpuSamples(str(placement.device)) as samples:
        described = describe_run(placement.device, samples)
        loaded, missing = load_systems(plan, source_of(plan.model), placement, say)
        if name not in loaded:
            raise GenerationError(f"{name} cannot run here: {missing[name]['reason']}")
        system = loaded[name].system
        document: dict[str, Any] = {
            "benchmark": "graphs",
            "version": DOCUMENT_VERSION,
            **described,
            "finished": False,
            "plan": describe_plan(plan, placement),
            "system": describe_system(loaded[name]),
            "warm_up": [
                _paint(system, plan, size, number, say)
                for number in WARM_NUMBERS
                for size in plan.sizes[:2]
            ],
            "painted": [],
        }
        for size in plan.sizes:
            document["painted"] += [_paint(system, plan, size, number, say) for number in numbers]
            keep(document)
    return document | {"finished": True}


def _paint(system: System, plan: SpeedPlan, size: str, number: int, say: Say) -> dict[str, Any]:
    """Paint a number of pictures; what it compiled."""
    say(f"{size}, {number} of")
    before, start = compile_counters(), time.perf_counter()
    one_step = dataclasses.replace(plan, steps=1, num_images=number)
    system.run(task_of(one_step, size, number))
    return {
        "size": size,
        "num_images": number,
        "seconds": round(time.perf_counter() - start, 3),
        **compiled_since(before),
    }

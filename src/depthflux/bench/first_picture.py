"""From a process's start to its first picture, and what of it was compiling.

A system is loaded as the contest loads it and paints one task twice: what the first call takes
longer than the second is compiling and warming up. Knows nothing of processes or folders; who
measures a start starts a process, and gives it the caches that it may find.
"""

from __future__ import annotations

import time
from typing import Any

from depthflux.bench.checking import compile_counters
from depthflux.bench.gpu_samples import GpuSamples
from depthflux.bench.machine import describe_run
from depthflux.bench.models import source_of
from depthflux.bench.plan import SpeedPlan
from depthflux.bench.sizes import task_of
from depthflux.bench.speed import Say, describe_plan, describe_system, load_systems, placement_of
from depthflux.errors import GenerationError


def run_first_picture(plan: SpeedPlan, *, say: Say, started: float) -> dict[str, Any]:
    """Load a plan's one system and paint two pictures of its one size.

    Args:
        plan: with one system and one size.
        say: told what is being done, line by line.
        started: when the process was started, in seconds since 1970.

    Returns:
        The document: seconds from the start to the end of loading and of the first picture, of
        both calls, and their difference.

    Raises:
        DeviceError: the asked device cannot be had.
        GenerationError: the system cannot run here.
    """
    imported = time.time()
    placement = placement_of(plan)
    (name,), (size,) = plan.systems, plan.sizes
    with GpuSamples(str(placement.device)) as samples:
        described = describe_run(placement.device, samples)
        loaded, missing = load_systems(plan, source_of(plan.model), placement, say)
        if name not in loaded:
            raise GenerationError(f"{name} cannot run here: {missing[name]['reason']}")
        ready = time.time()
        system = loaded[name].system
        first = system.run(task_of(plan, size, 0))
        painted = time.time()
        say(f"{name}: the first picture after {painted - started:.1f} s")
        # Another prompt and control image, so that nothing kept makes the second one shorter.
        second = system.run(task_of(plan, size, 1))
    return {
        **described,
        "plan": describe_plan(plan, placement),
        "system": describe_system(loaded[name]),
        "imported_after_seconds": round(imported - started, 3),
        "loaded_after_seconds": round(ready - started, 3),
        "first_picture_after_seconds": round(painted - started, 3),
        "first_call_seconds": round(first.wall_seconds, 3),
        "second_call_seconds": round(second.wall_seconds, 3),
        "compile_seconds": round(first.wall_seconds - second.wall_seconds, 3),
        **compile_counters(),
    }

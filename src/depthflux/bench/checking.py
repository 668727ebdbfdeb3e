"""What really ran: attention kernels, the weights of the linears, graphs that were compiled.

Looked at outside of the timed runs, except for the counters, which cost nothing. Knows nothing of
the systems.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch._dynamo.utils import counters

from depthflux.bench.clocks import now

#: What the kernels that attention runs in have in their names: flash, cuDNN's, CUTLASS's.
ATTENTION_WORDS = ("flash", "fmha", "sdpa", "attention")
#: No more kernels than this are listed.
MOST_KERNELS = 15


def linear_weights(modules: Iterable[nn.Module]) -> dict[str, int]:
    """How many linears have weights of each kind, such as `bfloat16` or `Float8Tensor`.

    A kind is the weight's dtype, or the class of a tensor that holds rounded numbers.
    """
    linears = {
        linear: None for module in modules for linear in module.modules() if _is_linear(linear)
    }
    return dict(Counter(_kind(linear.weight) for linear in linears))


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear)


def _kind(weight: Any) -> str:
    if type(weight) in (torch.Tensor, nn.Parameter):
        return str(weight.dtype).removeprefix("torch.")
    return type(weight).__name__


def profile_kernels(work: Callable[[], object], device: torch.device) -> dict[str, Any]:
    """Run some work under the profiler.

    Returns:
        Operators of attention and of matrix products with their calls; on CUDA the kernels that
        attention ran in and those that took longest, elsewhere None for both.
    """
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        work()
        now(device)
    averages = profile.key_averages()
    # Operators and kernels stand in one list, and an operator's time is that of its kernels.
    kernels = [
        {
            "name": row.key,
            "calls": row.count,
            "device_milliseconds": round(row.self_device_time_total / 1000, 3),
        }
        for row in averages
        if row.device_type.name == "CUDA"
    ]
    kernels.sort(key=lambda row: -row["device_milliseconds"])
    return {
        "attention_operators_calls": _calls(averages, ("scaled_dot_product", "attention")),
        "product_operators_calls": _calls(averages, ("aten::mm", "aten::addmm", "_mm", "linear")),
        "attention_kernels": [row for row in kernels if is_attention(row["name"])] or None,
        "longest_kernels": kernels[:MOST_KERNELS] or None,
    }


def is_attention(kernel: str) -> bool:
    """Whether a kernel's name is one of those that attention runs in.

    Inductor names its own kernels after all that they were fused of, attention's inputs too.
    """
    name = kernel.lower()
    return not name.startswith("triton_") and any(word in name for word in ATTENTION_WORDS)


def _calls(averages: Any, words: Iterable[str]) -> dict[str, int]:
    return {
        row.key: int(row.count)
        for row in averages
        if row.device_type.name == "CPU" and any(word in row.key for word in words)
    }


def compile_counters() -> dict[str, int]:
    """Graphs compiled in this process so far and breaks in them, by torch's own counters."""
    return {
        "graphs_compiled": int(counters["stats"]["unique_graphs"]),
        "graph_breaks": sum(counters["graph_break"].values()),
    }


def compiled_since(before: dict[str, int]) -> dict[str, int]:
    """What was compiled since an earlier look at the counters."""
    return {name: count - before[name] for name, count in compile_counters().items()}
